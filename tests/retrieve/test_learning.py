"""What the learned retrievers share: the same bytes on several threads, places, lists, bad scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve import ranking
from genrec.retrieve.anchorrec import AnchorRec
from genrec.retrieve.learning import Validation, taken, target_measure, top_items
from genrec.retrieve.magnitude import Magnitude
from genrec.retrieve.norm_concat import NormConcat
from genrec.retrieve.sasrec import SASRec

LEARNED: list[type[Any]] = [AnchorRec, Magnitude, NormConcat, SASRec]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def fitted(kind: type[Any], sequences: list[Any], num_items: int, **settings: Any) -> Any:
    text = np.random.default_rng(1).normal(size=(num_items, 6)).astype("f4")
    features = {} if kind is SASRec else {"features": {"text": text}}
    made = kind(**{"epochs": 1, "device": "cpu"} | settings)
    return made.fit(sequences, num_items=num_items, **features)


def test_taken_rows_and_their_gradient_are_those_of_indexing(two_threads: None) -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.randint(5, (30, 40), generator=g)
    weight = torch.randn(30, 40, 64, generator=g)
    mine = torch.randn(7, 64, generator=g).requires_grad_()
    assert torch.equal(taken(mine, rows), mine[rows])
    (taken(mine, rows) * weight).sum().backward()
    expected = torch.zeros(7, 64, dtype=torch.float64)
    for row, values in zip(rows.flatten(), weight.flatten(0, 1), strict=True):
        expected[row] += values
    torch.testing.assert_close(mine.grad, expected.float(), rtol=1e-5, atol=1e-4)
    assert not mine.grad[5:].any()  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNED)
def test_the_seed_decides_all_on_several_threads(kind: type[Any], two_threads: None) -> None:
    """Large enough that a CPU's threads share the work: a sum in whatever order is another sum."""
    rng = np.random.default_rng(0)
    sequences = [rng.choice(300, size=8) for _ in range(300)]
    runs = [
        fitted(kind, sequences, 300, epochs=4).recommend(sequences, k=20).scores for _ in range(2)
    ]
    assert runs[0].tobytes() == runs[1].tobytes()


@pytest.mark.parametrize("kind", LEARNED)
def test_small_worlds(kind: type[Any]) -> None:
    """Two users, an item without anything, repeats, batches of one, k above N."""
    sequences = [[0, 0, 0], [1, 2, 1], []]
    model = fitted(kind, sequences, 5, batch_size=1, dim=4)
    items, scores = model.recommend([[], [0] * 200, [4], range(5)], k=7)
    for row, values, left in zip(items, scores, (5, 4, 4, 0), strict=True):
        assert len(set(row[row >= 0].tolist())) == (row >= 0).sum() == left
        assert np.isfinite(values[:left]).all()
    if kind is not AnchorRec:  # which needs an item that the user left out
        alone = fitted(kind, [[0]], 1, dim=4)
        assert alone.recommend([[], [0]], k=2).items.tolist() == [[0, -1], [-1, -1]]


def test_a_target_that_is_never_listed_is_no_hit() -> None:
    """Seen, in a catalogue shorter than the cut-off; or its score, or another's, is NaN."""
    seen = Validation([np.array([1])], np.array([1]))
    for metric in ("recall", "ndcg"):
        measure = target_measure(
            lambda h: torch.zeros(len(h), 3), seen, num_items=3, users=1, seed=0, metric=metric
        )  # type: ignore[arg-type]
        assert measure() == 0
    unseen = Validation([np.array([], int)], np.array([1]))
    for row, expected in (
        ([torch.nan] * 3, 0.0),
        ([0.0, torch.nan, 1.0], 0.0),
        ([0.0, 1.0, torch.inf], 1 / np.log2(3)),
    ):
        measure = target_measure(
            lambda _, row=row: torch.tensor([row]), unseen, num_items=3, users=1, seed=0
        )
        assert measure() == pytest.approx(expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_lists_are_not_made_of_scores_that_are_none(bad: float) -> None:
    scores = torch.tensor([[0.0, 1, 2], [0, bad, 1]])
    with pytest.raises(FloatingPointError, match="recommend: a score is NaN or infinite"):
        top_items(lambda part: scores[part].clone(), [[0], [0]], num_items=3, k=2)
    alike = top_items(lambda part: scores[part].clone(), [[0], [1]], num_items=3, k=2)
    assert alike.items.tolist() == [[2, 1], [2, 0]]  # a seen item's is never looked at


@pytest.mark.parametrize("kind", [AnchorRec, Magnitude, SASRec])  # the fourth's have length 1
def test_a_fit_that_ran_away_is_said(kind: type[Any]) -> None:
    with pytest.raises(FloatingPointError, match="lower lr"):
        fitted(kind, [[0, 1], [1, 2]], 4, lr=1e30, dim=4).recommend([[0]], k=2)


def test_blocks_of_users_are_small_and_bad_items_name_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert max(p.stop - p.start for p in ranking.chunks(10**6, 3)) <= 2**14
    monkeypatch.setattr(ranking, "_MAX_CELLS", 6)  # two users at a time
    with pytest.raises(ValueError, match="sequence 4: item 3 is unknown"):
        top_items(
            lambda part: torch.zeros(part.stop - part.start, 3),
            [[0], [1], [], [2], [3]],
            num_items=3,
            k=1,
        )
