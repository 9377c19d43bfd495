"""Items that followed or preceded the last ones of a history: the baseline that is hard to beat.

Untuned on purpose: what a toolkit must clear before it claims anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.progress import Progress, silent
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.files import (
    csr_arrays,
    csr_matrix,
    load_retriever,
    save_retriever,
    settings_of,
)
from genrec.retrieve.popular import fitted
from genrec.retrieve.ranking import (
    Flat,
    chunks,
    first_allowed,
    flatten,
    popularity,
    popularity_order,
)


@dataclass(kw_only=True)
class Cooccurrence:
    """Scores item j for a history by its normalised co-occurrence with the history's last items.

    similarity(i, j) = sum over training pairs of 1/distance, over sqrt(pop_i * pop_j + 1);
    score(j) = sum over the last `recent` items i of the history of decay^steps_back * similarity(i, j).
    Equal scores, zero included, are ordered by popularity, then by item number.

    Attributes:
        window: the largest distance of a pair in a training sequence.
        recent: how many of a history's newest items count.
        decay: weight of an item one step older than the next.
        popularity_: int64 [N], training interactions per item; set by `fit`.
        similarity_: sparse float64 [N, N], symmetric, zero diagonal; set by `fit`.
    """

    kind = "cooccurrence"
    window: int = 5
    recent: int = 10
    decay: float = 0.8
    popularity_: npt.NDArray[np.int64] = field(init=False, repr=False)
    similarity_: sparse.csr_array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1 or self.recent < 1 or not 0 < self.decay <= 1:
            raise ValueError(
                f"window={self.window}, recent={self.recent}, decay={self.decay}: expected window and "
                "recent of 1 or more and a decay above 0 and up to 1"
            )

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts pairs; see `Retriever.fit`."""
        flat = flatten(sequences, num_items=num_items)
        self.popularity_ = popularity(flat, num_items=num_items)
        counts = sparse.csr_array((num_items, num_items), dtype=np.float64)
        for distance in range(1, self.window + 1):
            pairs = _pairs(flat, distance, num_items)
            counts += (pairs + pairs.T) / distance
            progress("cooccurrence: fit", distance, self.window)
        coo = counts.tocoo()
        norm = np.sqrt(self.popularity_[coo.row] * self.popularity_[coo.col] + 1.0)
        self.similarity_ = sparse.csr_array((coo.data / norm, (coo.row, coo.col)), coo.shape)
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks by score, then popularity, then item number; see `Retriever.recommend`.

        The lists are those of ranking the whole catalogue: an item without any co-occurrence scores
        0, so what the history's neighbours leave free is filled by popularity.
        """
        order = popularity_order(fitted(self, k))
        similarity = self.similarity_[:, order]  # so that column order breaks ties
        parts = [Ranked(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))]
        for part in chunks(len(histories), len(order)):
            seen = flatten(histories[part], num_items=len(order), first=part.start)
            banned = seen if exclude_seen else flatten([()] * seen.num_rows, num_items=len(order))
            scores = self._weights(seen, len(order)) @ similarity
            parts.append(_top(scores, order, k=k, banned=banned))
            progress("cooccurrence: recommend", part.stop, len(histories))
        return Ranked(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _weights(self, seen: Flat, num_items: int) -> sparse.csr_array:
        """What each item of a history counts, float64 [B, N]."""
        newest = seen.back < self.recent
        return sparse.csr_array(
            (self.decay ** seen.back[newest], (seen.row[newest], seen.item[newest])),
            shape=(seen.num_rows, num_items),
        )

    def save(self, folder: str | Path) -> None:
        """Writes settings, counts and similarities; see `Retriever.save`."""
        arrays = {"popularity": fitted(self), **csr_arrays("similarity", self.similarity_)}
        save_retriever(folder, self.kind, settings=settings_of(self), arrays=arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        self.popularity_ = arrays["popularity"]
        self.similarity_ = csr_matrix("similarity", arrays, len(self.popularity_))
        return self


def _pairs(flat: Flat, distance: int, num_items: int) -> sparse.csr_array:
    """How often item j comes `distance` places after item i, float64 [N, N], zero diagonal."""
    left, right = flat.item[:-distance], flat.item[distance:]
    pair = (flat.row[:-distance] == flat.row[distance:]) & (left != right)
    ones = np.ones(int(pair.sum()))
    return sparse.csr_array((ones, (left[pair], right[pair])), shape=(num_items, num_items))


def _top(scores: sparse.csr_array, order: npt.NDArray[np.int64], *, k: int, banned: Flat) -> Ranked:
    """The k best items of each row of `scores` [B, N], whose column c is item order[c]."""
    row, item, score = _sorted(scores, order, banned)
    place = np.arange(len(row)) - np.searchsorted(row, row)  # place in its own row
    top = place < k
    row, item, score, place = row[top], item[top], score[top], place[top]
    fill = first_allowed(
        order,
        k=k,
        num_rows=banned.num_rows,
        banned_row=np.concatenate([row, banned.row]),
        banned_item=np.concatenate([item, banned.item]),
    )
    taken = np.bincount(row, minlength=banned.num_rows)[:, None]
    items = np.take_along_axis(fill, np.maximum(np.arange(k) - taken, 0), axis=1)
    items[row, place] = item
    values = np.where(items < 0, -np.inf, 0.0)
    values[row, place] = score
    return Ranked(items.astype(np.int32), values.astype(np.float32))


def _sorted(
    scores: sparse.csr_array, order: npt.NDArray[np.int64], banned: Flat
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Row, item and score of all nonzeros that are not banned, best first within each row."""
    scores.sort_indices()
    entries = scores.tocoo()
    row, item = entries.row.astype(np.int64), order[entries.col]
    # Rank what is reported: float32, so that equal scores in the table are ties here too.
    score = entries.data.astype(np.float32)
    is_banned = np.zeros(scores.shape, dtype=bool)
    is_banned[banned.row, banned.item] = True
    kept = ~is_banned[row, item]
    row, item, score = row[kept], item[kept], score[kept]
    # Scores are above 0, where float32 and their bits have one order: a row and a falling score
    # make one integer key, three times as fast to sort as two keys.
    key = (row << 32) - score.view(np.int32)
    best = np.argsort(key, kind="stable")
    return row[best], item[best], score[best]
