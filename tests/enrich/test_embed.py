"""The text view is the model's own, to the bit the same however it was interrupted; late fusion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers import SentenceTransformer

from genrec.enrich import embed
from genrec.enrich.embed import encode_texts, item_text, late_fusion


def make_texts(count):
    """Texts of 1 to 60 words, some longer than the model reads."""
    words = ["red", "green", "blue", "steel", "saw", "drill", "pump", "valve", "unheard-of"]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(1, 60))) for _ in range(count)]


TEXTS = make_texts(23)


def encode(texts, model, cache=None, **options):
    cache = {} if cache is None else cache
    return encode_texts(texts, model=model, batch_size=4, cache=cache, **options)


class Killed(dict):
    """A cache whose process dies before the n-th batch is stored."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def put_many(self, rows):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.update(rows)


def test_vectors_are_those_of_the_library(text_model):
    ours = encode(TEXTS, text_model)
    theirs = SentenceTransformer(text_model, device="cpu").encode(TEXTS, show_progress_bar=False)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(np.unique(ours.round(4), axis=0)) == len(set(TEXTS))


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_interrupted_and_resumed_equals_undisturbed_bitwise(text_model, batches):
    undisturbed = encode(TEXTS, text_model)
    cache = Killed(batches)
    with pytest.raises(KeyboardInterrupt):
        encode(TEXTS, text_model, cache)
    assert 0 < len(cache) <= 4 * batches if batches else not cache
    cache.left = 1000
    assert (encode(TEXTS, text_model, cache) == undisturbed).all()


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(len(TEXTS))), cut=st.integers(1, len(TEXTS) - 1))
def test_a_text_has_one_vector_whatever_stands_beside_it(text_model, order, cut):
    """A catalogue that grows gives what a fresh run over all of it gives."""
    cache = {}
    encode([TEXTS[i] for i in order[:cut]], text_model, cache)
    grown = encode([TEXTS[i] for i in order], text_model, cache)
    assert (grown == encode(TEXTS, text_model)[list(order)]).all()


def test_a_second_call_computes_only_what_is_new(text_model, monkeypatch):
    cache, told = {}, []
    first = encode(TEXTS[:10], text_model, cache)
    encode(TEXTS[:12], text_model, cache, progress=lambda *step: told.append(step))
    assert told[0] == ("encode texts", 10, 12)
    assert told[-1] == ("encode texts", 12, 12)
    monkeypatch.setattr(embed, "SentenceTransformer", None)  # all is there: nothing is loaded
    assert (encode(TEXTS[:10], text_model, cache) == first).all()


def test_duplicates_share_a_vector_and_empty_texts_are_zero(text_model):
    cache = {}
    out = encode(["red saw", "", "blue pump", "red saw"], text_model, cache)
    assert len(cache) == 2
    assert (out[0] == out[3]).all()
    assert (out[0] != out[2]).any()
    assert not out[1].any()
    with pytest.raises(ValueError, match="none of the 2 items"):
        encode(["", ""], text_model)


def test_other_weights_or_batch_sizes_do_not_share_rows(text_model, tmp_path):
    cache = {}
    encode(["red saw"], text_model, cache)
    encode_texts(["red saw"], model=text_model, batch_size=2, cache=cache)
    assert len(cache) == 2
    for path in (tmp_path / "copy", tmp_path / "other"):
        SentenceTransformer(text_model, device="cpu").save(str(path))
    encode(["red saw"], str(tmp_path / "copy"), cache)
    before = len(cache)
    weights = tmp_path / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x3f")
    encode(["red saw"], str(tmp_path / "other"), cache)
    assert len(cache) == before + 1


def test_padded_lengths_depend_on_the_text_alone():
    assert [embed._padded(n, 256) for n in (0, 1, 16, 17, 32, 33, 255, 256)] == (
        [0, 16, 16, 32, 32, 64, 256, 256]
    )
    assert embed._padded(40, 48) == 48
    assert embed._padded(40, None) == 64


def test_the_fields_of_a_text_are_a_list():
    row = {"title": " Saw ", "description": "", "brand": None, "interests": ["gifts", "DIY"]}
    assert item_text(row, ["title", "description", "brand", "interests"]) == "Saw\ngifts, DIY"
    assert item_text(row, ["interests", "title"]) == "gifts, DIY\nSaw"
    assert item_text(row, ["brand"]) == ""
    with pytest.raises(KeyError, match=r"no column 'titel'.*'title'"):
        item_text(row, ["titel"])


def test_late_fusion_by_hand():
    text = np.array([[3, 4], [0, 0]], dtype=np.float32)
    image = np.array([[0, 2, 0], [1, 0, 0]], dtype=np.float32)
    fused = late_fusion({"text": text, "image": image}, {"text": 2.0, "image": 0.5})
    assert fused.dtype == np.float32
    # image first: by name. 0.5 times a unit row, then 2 times (0.6, 0.8); no text stays zero.
    np.testing.assert_allclose(fused, [[0, 0.5, 0, 1.2, 1.6], [0.5, 0, 0, 0, 0]], rtol=1e-6)


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32)),
    st.floats(0.125, 8, width=32),
)
def test_fused_rows_have_the_weight_as_length_or_are_zero(view, weight):
    fused = late_fusion({"v": view}, {"v": weight})
    lengths = np.linalg.norm(fused, axis=1)
    zero = ~view.any(axis=1)
    np.testing.assert_allclose(lengths[~zero], weight, rtol=1e-4)
    assert not fused[zero].any()


@pytest.mark.parametrize(
    ("views", "weights", "message"),
    [
        ({}, {}, "at least one view"),
        ({"text": np.ones((2, 2))}, {"text": 1.0, "image": 1.0}, r"\['image', 'text'\]"),
        ({"text": np.ones((2, 2))}, {}, r"views \['text'\], weights \[\]"),
        (
            {"text": np.ones((2, 2)), "image": np.ones((3, 2))},
            {"text": 1.0, "image": 1.0},
            r"'image': 3, 'text': 2",
        ),
        ({"text": np.array([[1.0], [np.nan]])}, {"text": 1.0}, "'text', item 1"),
        ({"text": np.ones((2, 2))}, {"text": 0.0}, "weight of 'text' is 0.0"),
        (
            {"text": np.ones((2, 2))},
            {"text": 1e39},
            r"weight of 'text' is 1e\+39, expected 1e-6 to 1e6",
        ),
        ({"text": np.ones((2, 2))}, {"text": np.nan}, "weight of 'text' is nan"),
    ],
)
def test_views_that_cannot_be_fused_are_refused(views, weights, message):
    with pytest.raises(ValueError, match=message):
        late_fusion(views, weights)


def test_texts_are_cut_at_max_tokens(text_model):
    long = "saw " * 40
    cut, whole = (encode([long, long + "pump"], text_model, max_tokens=m) for m in (8, None))
    assert (cut[0] == cut[1]).all()  # what differs lies beyond the cut
    assert (whole[0] != whole[1]).any()
    cache = {}
    encode([long], text_model, cache)
    assert (encode([long], text_model, cache, max_tokens=8) == cut[:1]).all()  # not the cached one
