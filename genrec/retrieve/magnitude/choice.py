"""What an epoch of `Magnitude` is chosen by: every kind of query that is asked, histories and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from genrec.retrieve.base import FloatArray, IntArray, Ranked

K = 10


def text_measure(
    search: Callable[[FloatArray], Ranked], texts: FloatArray, items: IntArray
) -> Callable[[], float]:
    """Returns what measures NDCG@10 of texts and the one item that each is about.

    Args:
        search: texts [n, D] to their lists, 10 items long.
        texts: float [n, D].
        items: int [n].
    """

    def measure() -> float:
        hits = search(texts).items == np.asarray(items)[:, None]
        found = float((hits / np.log2(2 + np.arange(K))).sum(axis=1).mean())
        return max(found, 1 / len(items))  # a kind that finds nothing does not outvote the others

    return measure


def together(measures: Sequence[Callable[[], float]]) -> float:
    """Returns the geometric mean: one per cent more of one kind counts as much as of another.

    A plain mean would listen to the easiest kind alone: titles find their items nine times of ten.
    """
    found: npt.NDArray[np.float64] = np.array([measure() for measure in measures])
    return float(found.prod() ** (1 / len(found)))


def hold_out(
    texts: FloatArray, items: IntArray, share: float, *, seed: int
) -> tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]]:
    """Splits the texts of one kind at random into those to train on and those to choose by.

    Args:
        texts: float [n, D].
        items: int [n].
        share: of the texts that are to choose by, 0 to 1.
        seed: of the choice.
    """
    away = np.zeros(len(items), dtype=bool)
    chosen = np.random.default_rng(seed).permutation(len(items))[: round(share * len(items))]
    away[chosen] = True
    return (texts[~away], items[~away]), (texts[away], items[away])
