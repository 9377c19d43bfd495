"""What quantisation keeps: cosines by hand, neighbours by brute force, ties by expectation."""

import numpy as np
import pytest

from genrec.analysis import content
from genrec.analysis.content import content_kept, neighbour_overlap


def brute_force(before: np.ndarray, after: np.ndarray, k: int) -> list[float]:
    """The share of each row's k nearest that stay, where nothing ties."""

    def nearest(vectors: np.ndarray, row: int) -> set[int]:
        near = [
            (vectors[row] @ other / np.linalg.norm(vectors[row]) / np.linalg.norm(other), i)
            for i, other in enumerate(vectors)
            if i != row
        ]
        return {i for _, i in sorted(near, reverse=True)[:k]}

    return [len(nearest(before, r) & nearest(after, r)) / k for r in range(len(before))]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def noisy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    before = rng.standard_normal((60, 6)).astype(np.float32)
    return before, before + rng.standard_normal((60, 6)).astype(np.float32)


@pytest.mark.parametrize("cells", [2**22, 130])
def test_overlap_is_that_of_brute_force(
    noisy: tuple[np.ndarray, np.ndarray], cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "_MAX_CELLS", cells)  # two rows at a time
    before, after = noisy
    found = neighbour_overlap(unit(before), unit(after), np.arange(60), k=7)
    np.testing.assert_allclose(found, brute_force(before, after, 7))
    assert 0.1 < found.mean() < 0.9


def test_a_tie_counts_by_its_expectation() -> None:
    # From the first: two equals ahead on place 1..2 before, the second of them alone after.
    before = unit(np.array([[1.0, 0], [1, 1], [1, 1], [-1, 0]]))
    after = unit(np.array([[1.0, 0], [1, 3], [1, 1], [-1, 0]]))
    (share,) = neighbour_overlap(before, after, np.array([0]), k=1)
    assert share == 0.5
    (both,) = neighbour_overlap(before, after, np.array([0]), k=2)
    assert both == 1.0
    same = unit(np.ones((5, 2)))
    (chance,) = neighbour_overlap(same, same, np.array([2]), k=1)
    assert chance == pytest.approx(1 / 4)


def test_views_are_slices_by_hand() -> None:
    embeddings = np.array([[3.0, 4, 1], [1, 0, 2], [0, 1, 0]])
    decoded = np.array([[4.0, 3, -5], [0, 7, 3], [0, 2, 1]])
    found = content_kept(embeddings, decoded, {"image": 2, "text": 1}, k=10)
    assert list(found) == ["whole", "image", "text"]
    assert found["image"]["cosine"] == pytest.approx((24 / 25 + 0 + 1) / 3)
    assert found["text"]["cosine"] == pytest.approx((-1 + 1) / 2), "the third has no text"
    assert (found["text"]["items"], found["image"]["items"]) == (2, 3)
    assert found["image"]["k"] == 2, "no more neighbours than other items"
    assert found["image"]["overlap"] == found["image"]["chance"] == 1.0


def test_chance_is_what_noise_reaches() -> None:
    rng = np.random.default_rng(1)
    before, after = (rng.standard_normal((300, 8)) for _ in range(2))
    (found,) = content_kept(before, after, {"text": 8}, k=10).values()  # one view: the whole alone
    assert found["chance"] == pytest.approx(10 / 299)
    assert found["overlap"] == pytest.approx(found["chance"], abs=0.01)
    assert abs(found["cosine"]) < 0.1


def test_a_perfect_reconstruction_keeps_all(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    before, _ = noisy
    found = content_kept(before, 2 * before, {"a": 2, "b": 4}, queries=9)
    assert [view["overlap"] for view in found.values()] == [1.0] * 3
    assert [view["queries"] for view in found.values()] == [9] * 3
    assert found["whole"]["cosine"] == pytest.approx(1)


def test_a_view_that_nobody_has_is_said_to_be_absent(
    noisy: tuple[np.ndarray, np.ndarray],
) -> None:
    before, after = noisy
    before[1:, :2] = 0
    found = content_kept(before, after, {"image": 2, "text": 4})
    assert found["image"] == {"absent": "1 items have it; needs two"}
    assert found["text"]["items"] == 60


def test_shapes_must_agree(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    before, after = noisy
    with pytest.raises(ValueError, match="widths that add up"):
        content_kept(before, after, {"text": 5})
    with pytest.raises(ValueError, match=r"reconstructed \[60, 5\]"):
        content_kept(before, after[:, :5], {"text": 6})
