"""Item-to-item score matrices: how a binary history becomes a list. No torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.progress import Progress
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.ranking import Flat, chunks, flatten, popularity_order


def binary(flat: Flat, *, num_items: int) -> sparse.csr_array:
    """Which sequence holds which item: 1 where it does, however often; float32 [U, N]."""
    ones = np.ones(len(flat.item), dtype=np.float32)
    matrix = sparse.csr_array((ones, (flat.row, flat.item)), shape=(flat.num_rows, num_items))
    matrix.data[:] = 1  # repeats were summed
    return matrix


def rank(
    score: Callable[[sparse.csr_array], npt.NDArray[np.floating]],
    histories: Sequences,
    counts: npt.NDArray[np.int64],
    *,
    k: int,
    exclude_seen: bool,
    step: str,
    progress: Progress,
) -> Ranked:
    """Ranks the catalogue for each history by score, then popularity, then item number.

    Args:
        score: binary histories [B, N] to scores [B, N].
        histories: one int array per user.
        counts: int64 [N], training interactions of each item.
        k: length of each list.
        exclude_seen: leave out the items of the user's own history.
        step: the name that `progress` is told.
        progress: told how many users are done.
    """
    num_items, order = len(counts), popularity_order(counts)
    width = min(k, num_items)
    items = np.full((len(histories), k), -1, dtype=np.int32)
    scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
    for part in chunks(len(histories), num_items):
        seen = flatten(histories[part], num_items=num_items, first=part.start)
        block = np.asarray(score(binary(seen, num_items=num_items)), dtype=np.float32)
        if exclude_seen:
            block[seen.row, seen.item] = -np.inf
        block = block[:, order]  # the first of equal columns is then the most popular
        best = _first(block, width)
        values = np.take_along_axis(block, best, axis=1)
        items[part, :width] = np.where(np.isneginf(values), -1, order[best])
        scores[part, :width] = values
        progress(step, part.stop, len(histories))
    return Ranked(items, scores)


def _first(scores: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.intp]:
    """The columns of each row's `width` best scores, equal ones in order; [B, width]."""
    last = np.partition(scores, -width, axis=1)[:, [-width]]  # the score on the last place
    above, equal = scores > last, scores == last
    room = width - above.sum(axis=1, keepdims=True)
    taken = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    columns = np.nonzero(taken)[1].reshape(len(scores), width)
    values = np.take_along_axis(scores, columns, axis=1)
    return np.take_along_axis(columns, np.argsort(-values, axis=1, kind="stable"), axis=1)
