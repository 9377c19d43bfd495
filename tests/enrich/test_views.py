"""Views as files, and the late fusion of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from genrec.enrich import components, late_fusion, load_fused, load_views, save_views, unit_rows


def test_views_are_saved_at_length_one_and_fused_by_their_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    views = {name: rng.normal(size=(5, width)) for name, width in (("text", 3), ("image", 2))}
    views["alone"] = rng.normal(size=(5, 4))
    views["image"][2] = 0
    save_views(tmp_path, views, {"text": 2.0, "image": 1.0, "alone": None})
    loaded = load_views(tmp_path)
    assert list(loaded) == ["alone", "image", "text"]
    for name, view in loaded.items():
        np.testing.assert_allclose(view, unit_rows(views[name]), rtol=1e-6)
    fused, widths = load_fused(tmp_path)
    assert widths == {"image": 2, "text": 3}
    parts = {name: unit_rows(views[name]) for name in widths}
    assert (fused == late_fusion(parts, {"text": 2.0, "image": 1.0})).all()


def test_a_view_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match=r"view 'text': NaN or infinity in item 1, 1 items in all"):
        unit_rows(np.array([[1.0], [np.nan]]), name="text")


def test_late_fusion_by_hand():
    text = unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float32))
    image = unit_rows(np.array([[0, 2, 0], [1, 0, 0]], dtype=np.float32))
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
    fused = late_fusion({"v": unit_rows(view)}, {"v": weight})
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


def test_components_keep_what_is_near_near() -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(2, 16)), 20, axis=0) + 0.1 * rng.normal(size=(40, 16))
    few = components(vectors.astype(np.float32), 3)
    assert few.shape == (40, 3)
    assert few.dtype == np.float32
    assert np.square(few).sum(1).mean() == pytest.approx(1, abs=1e-5)
    apart = np.linalg.norm(few[:20].mean(0) - few[20:].mean(0))
    assert np.linalg.norm(few[:20] - few[:20].mean(0), axis=1).max() < apart / 2
    plane = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32)
    assert components(plane, 9).shape == (3, 2), "three points span a plane"
