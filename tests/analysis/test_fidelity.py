"""Fidelity of written texts by hand, with ties and empty texts; how well a judge can tell."""

import numpy as np
import pytest

from genrec.analysis import fidelity as module
from genrec.analysis.fidelity import fidelity, separation, shuffled, token_f1

TRUTHS = ["Red Bag", "blue lamp", "red  bag", "green tent"]
VECTORS = np.array([[1.0, 0], [0, 1], [1, 0], [-1, 0.1]])


def test_ranks_and_ties_by_hand() -> None:
    written = ["red bag", "a blue lamp", ""]
    vectors = np.array([[2.0, 0], [0.1, 3], [0, 0]])
    found, ranks = fidelity(written, vectors, np.array([0, 1, 3]), TRUTHS, VECTORS)
    # The first ties with its namesake: places 1 and 2. Who writes nothing comes last.
    assert ranks.tolist() == [1.5, 1, 4]
    assert found["mrr"] == pytest.approx(((1 + 1 / 2) / 2 + 1 + 1 / 4) / 3)
    assert found["recall@1"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["recall@10"] == 1
    assert found["exact"] == pytest.approx(1 / 3)
    assert found["token_f1"] == pytest.approx((1 + 0.8 + 0) / 3)
    assert found["cosine"] == pytest.approx((1 + 3 / np.hypot(0.1, 3) + 0) / 3, abs=1e-5)


def test_another_truth_as_near_stands_before() -> None:
    vectors = np.array([[1.0, 0], [1, 0]])
    _, ranks = fidelity(["x"], vectors[:1], np.array([1]), ["one", "two"], vectors)
    assert ranks.tolist() == [2]


def test_ranks_are_those_of_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truths, own = [f"t{n}" for n in range(50)], rng.standard_normal((50, 4))
    found = own[10:30] + rng.standard_normal((20, 4))
    where = np.arange(10, 30)
    near = (found / np.linalg.norm(found, axis=1, keepdims=True)) @ (
        own / np.linalg.norm(own, axis=1, keepdims=True)
    ).T
    expected = [1 + sorted(-row).index(-row[i]) for row, i in zip(near, where, strict=True)]
    _, ranks = fidelity(["x"] * 20, found, where, truths, own)
    assert ranks.tolist() == expected
    monkeypatch.setattr(module, "_MAX_CELLS", 150)  # three rows at a time
    again, same = fidelity(["x"] * 20, found, where, truths, own)
    assert same.tolist() == expected
    assert again["mrr"] == pytest.approx(np.mean([1 / rank for rank in expected]))


@pytest.mark.parametrize(
    ("written", "truth", "score"),
    [
        ("red red bag", "Red bag", 2 * 2 / 5),
        ("bag, red", "red bag!", 1.0),
        ("tent", "red bag", 0.0),
        ("", "red bag", 0.0),
        ("!", "?", 1.0),
    ],
)
def test_token_f1(written: str, truth: str, score: float) -> None:
    assert token_f1(written, truth) == pytest.approx(score)


def test_separation_is_the_share_of_pairs_in_order() -> None:
    right, wrong = [3.0, 1.0, 2.0], [0.0, 2.0]
    found = separation(right, wrong)
    ahead = np.mean([(a > b) + 0.5 * (a == b) for a in right for b in wrong])
    assert found == {"right": 2.0, "shuffled": 1.0, "auc": pytest.approx(ahead), "pairs": 3}


@pytest.mark.parametrize("count", [2, 3, 50])
def test_nobody_is_shuffled_to_themselves(count: int) -> None:
    for seed in range(20):
        found = shuffled(count, seed=seed)
        assert sorted(found) == list(range(count))
        assert not (found == np.arange(count)).any()
    assert (shuffled(50, seed=1) == shuffled(50, seed=1)).all()
    assert (shuffled(50, seed=1) != shuffled(50, seed=2)).any()
