"""VLLMBeamEngine against BeamEngine and brute force."""

import numpy as np
import pytest
import torch

from genrec.decode.filters import Eligibility
from genrec.decode.vllm import VLLMBeamEngine
from genrec.sid.trie import SIDTrie

pytestmark = pytest.mark.vllm
CLOSE = {"atol": 1e-4, "rtol": 1e-5}


def assert_same(ours, theirs):
    assert ours.items.tolist() == theirs.items.tolist()
    assert ours.sids.tolist() == theirs.sids.tolist()
    assert ours.valid.tolist() == theirs.valid.tolist()
    assert ours.exact.tolist() == theirs.exact.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, **CLOSE)


def test_full_width_is_brute_force(engine, shop, make):
    width = len(shop.codes)
    found = engine.search(shop.ids, shop.mask, num_beams=width)
    for user, scores in enumerate(shop.scores):
        assert found.items[user].tolist() == make.expected(scores, shop.codes, width)
        torch.testing.assert_close(found.scores[user], scores[found.items[user]], **CLOSE)
    assert found.exact.all()


@pytest.mark.parametrize("width", [1, 2, 3, 8, 20])
def test_any_width_is_the_other_engine(engine, shop, width):
    for k in {1, width}:
        theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width, k=k)
        assert_same(engine.search(shop.ids, shop.mask, num_beams=width, k=k), theirs)
    if width == 3:
        assert not theirs.exact.all(), "a certificate that is always given shows nothing"


def filters():
    rng = np.random.default_rng(5)
    users, items = 8, 60
    some = [rng.choice(items, n, replace=False).tolist() for n in (0, 1, 2, 5, 20, 40, 59, 60)]
    mask = rng.random(items) < 0.3
    return {
        "mask": {"allowed": mask},
        "masks": {"allowed": rng.random((users, items)) < 0.2},
        "lists": {"allowed": some},
        "exclude": {"exclude": some},
        "mask, exclude": {"allowed": mask, "exclude": some},
        "counted": {"allowed": "counted", "exclude": some},
        "none": {"allowed": np.zeros(items, dtype=bool)},
    }


@pytest.mark.parametrize("kind", filters())
@pytest.mark.parametrize("width", [2, 12])
def test_filters(engine, shop, make, kind, width):
    given = filters()[kind]
    if kind == "counted":
        given["allowed"] = Eligibility.of_mask(shop.trie, filters()["mask"]["allowed"])
    theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width, **given)
    assert_same(engine.search(shop.ids, shop.mask, num_beams=width, **given), theirs)
    if kind == "lists" and width == 12:  # fewer items than k, too
        assert theirs.valid.sum(1)[:4].tolist() == [0, 1, 2, 5]
        for user, scores in enumerate(shop.scores[:4]):
            best = make.expected(scores, shop.codes, width, given["allowed"][user])
            assert theirs.items[user][theirs.valid[user]].tolist() == best


def test_users_beyond_the_cache_take_turns(engine, shop, monkeypatch):
    asked = []
    generate = engine.llm.generate
    monkeypatch.setattr(
        engine.llm, "generate", lambda p, *a, **k: asked.append(len(p)) or generate(p, *a, **k)
    )
    monkeypatch.setattr(engine, "_cached_tokens", 128)
    exclude = [[user, 20 + user] for user in range(len(shop.prompts))]
    theirs = shop.hf.search(shop.ids, shop.mask, num_beams=4, exclude=exclude)
    assert_same(engine.search(shop.ids, shop.mask, num_beams=4, exclude=exclude), theirs)
    first_level = asked[:: shop.trie.levels]
    assert first_level == [5, 1, 1, 1], "99, 64, 65 and 100 prompt tokens"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 3}, "k=3 and num_beams=2"),
        ({"k": 0}, "k=0"),
        ({"num_beams": 10**6}, "max_logprobs"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "left padding"),
        ({"input_ids": torch.tensor([[1, 160, 2]])}, "0 to 159"),
        ({"exclude": [[60]]}, "item 60"),
        ({"allowed": np.ones(59, dtype=bool)}, "shape"),
    ],
)
def test_bad_arguments(engine, change, said):
    good = {"input_ids": torch.ones(1, 3, dtype=int), "attention_mask": torch.ones(1, 3, dtype=int)}
    with pytest.raises(ValueError, match=said):
        engine.search(**{**good, "num_beams": 2, **change})


def test_a_prompt_that_leaves_no_room(engine, shop):
    room = shop.max_length - 3
    for length in (room, room + 1):
        ids = torch.ones(1, length, dtype=int)
        if length == room:
            assert engine.search(ids, torch.ones_like(ids), num_beams=1).valid.all()
        else:
            with pytest.raises(ValueError, match=f"shorten prompts to {room}"):
                engine.search(ids, torch.ones_like(ids), num_beams=1)


def test_nan_is_an_error_and_no_recommendation(engine, shop):
    def spoil(model, value):
        weight = model.model.norm.weight.data
        kept = weight[0].item()
        weight[0] = value
        return kept

    kept = engine.llm.apply_model(lambda model: spoil(model, torch.nan))[0]
    try:
        with pytest.raises(FloatingPointError, match="NaN"):
            engine.search(shop.ids, shop.mask, num_beams=2)
    finally:
        engine.llm.apply_model(lambda model: spoil(model, kept))
    assert_same(
        engine.search(shop.ids, shop.mask, num_beams=2),
        shop.hf.search(shop.ids, shop.mask, num_beams=2),
    )


def test_another_catalogue_or_start_is_refused(engine, shop, monkeypatch):
    with pytest.raises(ValueError, match="another catalogue"):
        VLLMBeamEngine(engine.llm, SIDTrie(shop.codes[:-1]), shop.tokens)
    with pytest.raises(ValueError, match="another catalogue"):
        VLLMBeamEngine(engine.llm, shop.trie, [shop.tokens[0][::-1], *shop.tokens[1:]])
    model = engine.llm.llm_engine.vllm_config.model_config
    monkeypatch.setattr(model, "logprobs_mode", "raw_logprobs")
    with pytest.raises(ValueError, match="processed_logits"):
        VLLMBeamEngine(engine.llm, shop.trie, shop.tokens)
    monkeypatch.undo()
    monkeypatch.setattr(model, "logits_processors", None)
    with pytest.raises(ValueError, match="SIDProcessor"):
        VLLMBeamEngine(engine.llm, shop.trie, shop.tokens)
