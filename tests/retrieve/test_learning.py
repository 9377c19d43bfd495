"""What the learned retrievers share: the same bytes on several threads, ranks, bad scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve.anchorrec import AnchorRec
from genrec.retrieve.learning import taken, target_measure
from genrec.retrieve.magnitude import Magnitude
from genrec.retrieve.norm_concat import NormConcat
from genrec.retrieve.sasrec import SASRec
from genrec.retrieve.sequences import Validation

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


@pytest.mark.parametrize("kind", [AnchorRec, Magnitude, SASRec])  # the fourth's have length 1
def test_a_fit_that_ran_away_is_said(kind: type[Any]) -> None:
    with pytest.raises(FloatingPointError, match="lower lr"):
        fitted(kind, [[0, 1], [1, 2]], 4, lr=1e30, dim=4).recommend([[0]], k=2)
