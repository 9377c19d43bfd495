"""Items that followed or preceded the last ones of a history: the baseline that is hard to beat.

Untuned on purpose: what a toolkit must clear before it claims anything.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.progress import Progress, silent
from genrec.ranking import RankedLists, best_first, best_of_rows, first_allowed
from genrec.retrieve.base import Ranker, Retriever
from genrec.retrieve.linear import SparseSimilarity, pairs
from genrec.retrieve.sequences import Flat, Sequences, flatten, popularity
from genrec.retrieve.settings import CooccurrenceSettings


class Cooccurrence(SparseSimilarity, Retriever[CooccurrenceSettings]):
    """Scores item j for a history by its normalised co-occurrence with the history's last items.

    similarity(i, j) = sum over training pairs of 1/distance, over sqrt(pop_i * pop_j + 1);
    score(j) = sum over the last `recent` items i of the history of decay^steps_back * similarity(i, j).
    Equal scores, zero included, are ordered by popularity, then by item number. The lists are those of
    ranking the whole catalogue: what the history's neighbours leave free is filled by popularity.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
        similarity_: sparse float64 [N, N], symmetric, zero diagonal; set by `fit`.
    """

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts pairs; see `Retriever.fit`."""
        flat = flatten(sequences, num_items=num_items)
        self.popularity_ = popularity(flat, num_items=num_items)
        counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for distance in range(1, self.settings.window + 1):
            one_way = pairs(flat, distance, num_items=num_items)
            counts += (one_way + one_way.T) / distance
            progress("cooccurrence: fit", distance, self.settings.window)
        coo = counts.tocoo()
        norm = np.sqrt(self.popularity_[coo.row] * self.popularity_[coo.col] + 1.0)
        self.similarity_ = sparse.csr_array((coo.data / norm, (coo.row, coo.col)), coo.shape)
        self.num_items_ = num_items
        return self

    def _ranker(self, histories: Sequences, *, k: int, exclude_seen: bool) -> Ranker:
        order = best_first(self.popularity_)
        similarity = self.similarity_[:, order]  # so that column order breaks ties

        def rank(part: slice, seen: Flat) -> RankedLists:
            banned = slice(None) if exclude_seen else slice(0)
            bans = (seen.row[banned], seen.item[banned])
            return _top(self._weights(seen) @ similarity, order, k=k, bans=bans)

        return rank

    def _weights(self, seen: Flat) -> sparse.csr_array:
        """What each item of a history counts, float64 [B, N]."""
        newest = seen.back < self.settings.recent
        return sparse.csr_array(
            (self.settings.decay ** seen.back[newest], (seen.row[newest], seen.item[newest])),
            shape=(seen.num_rows, self.num_items_),
        )


def _top(
    scores: sparse.csr_array,
    order: npt.NDArray[np.int64],
    *,
    k: int,
    bans: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> RankedLists:
    """The k best items of each row of `scores` [B, N], whose column c is item order[c].

    Args:
        scores: sparse float64, above 0.
        order: int64 [N].
        k: length of the lists.
        bans: rows and items, int64 [n] each, that no list may hold.
    """
    num_rows = scores.shape[0]
    scores.sort_indices()
    entries = scores.tocoo()
    row, item = entries.row.astype(np.int64), order[entries.col]
    is_banned = np.zeros(scores.shape, dtype=bool)
    is_banned[bans] = True
    kept = ~is_banned[row, item]
    # Rank what is reported: float32, so that equal scores in the table are ties here too.
    row, item, score = row[kept], item[kept], entries.data[kept].astype(np.float32)
    best, place = best_of_rows(row, score, k)
    row, item, score = row[best], item[best], score[best]
    fill = first_allowed(
        order,
        k,
        num_rows=num_rows,
        banned_row=np.concatenate([row, bans[0]]),
        banned_item=np.concatenate([item, bans[1]]),
    )
    taken = np.bincount(row, minlength=num_rows)[:, None]
    items = np.take_along_axis(fill, np.maximum(np.arange(k) - taken, 0), axis=1)
    items[row, place] = item
    values = np.where(items < 0, -np.inf, 0.0)
    values[row, place] = score
    return RankedLists(items, values)
