"""ItemKNN: the neighbours of a history's items by cosine, kept sparse (Deshpande & Karypis 2004)."""

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
from genrec.retrieve.linear import binary, rank
from genrec.retrieve.popular import fitted
from genrec.retrieve.ranking import chunks, flatten, popularity


@dataclass(kw_only=True)
class ItemKNN:
    """Scores item j for a history by the sum of similarity(i, j) over its items i.

    similarity(i, j) = users with both / (sqrt(users of i * users of j) + shrink), kept for the
    `neighbours` most similar items j of each i, equal ones by item number. Equal scores are ordered
    by popularity, then by item number. Order in time plays no part.

    Attributes:
        neighbours: similar items kept per item.
        shrink: lowers similarities that few users support.
        popularity_: int64 [N], training interactions per item; set by `fit`.
        similarity_: sparse float32 [N, N], zero diagonal; set by `fit`.
    """

    kind = "itemknn"
    neighbours: int = 100
    shrink: float = 10.0
    popularity_: npt.NDArray[np.int64] = field(init=False, repr=False)
    similarity_: sparse.csr_array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.shrink < 0:
            raise ValueError(
                f"neighbours={self.neighbours}, shrink={self.shrink}: expected neighbours of 1 or "
                "more and shrink of 0 or more"
            )

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts shared users, a block of items at a time; see `Retriever.fit`."""
        flat = flatten(sequences, num_items=num_items)
        matrix = binary(flat, num_items=num_items)
        users = matrix.sum(axis=0)
        by_item = sparse.csr_array(matrix.T)
        blocks = [sparse.csr_array((0, num_items), dtype=np.float32)]
        for part in chunks(num_items, num_items):
            shared = (by_item[part] @ matrix).tocoo()  # [block, N]
            item = shared.row + part.start
            other = item != shared.col
            item, neighbour = item[other], shared.col[other]
            norm = np.sqrt(users[item] * users[neighbour]) + self.shrink
            similarity = (shared.data[other] / norm).astype(np.float32)
            blocks.append(
                _nearest(item - part.start, neighbour, similarity, shared.shape, self.neighbours)
            )
            progress("itemknn: fit", part.stop, num_items)
        self.similarity_ = sparse.csr_array(sparse.vstack(blocks))
        self.popularity_ = popularity(flat, num_items=num_items)
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks by score, then popularity, then item number; see `Retriever.recommend`."""
        return rank(
            lambda rows: (rows @ self.similarity_).toarray(),
            histories,
            fitted(self, k),
            k=k,
            exclude_seen=exclude_seen,
            step="itemknn: recommend",
            progress=progress,
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


def _nearest(
    row: npt.NDArray[np.integer],
    column: npt.NDArray[np.integer],
    value: npt.NDArray[np.float32],
    shape: tuple[int, int],
    count: int,
) -> sparse.csr_array:
    """Keeps the `count` largest values of each row, equal ones by column."""
    best = np.lexsort((column, -value, row))
    row, column, value = row[best], column[best], value[best]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # place in its own row
    top = place < count
    return sparse.csr_array((value[top], (row[top], column[top])), shape=shape)
