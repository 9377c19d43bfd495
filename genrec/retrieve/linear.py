"""What the retrievers that count share: binary matrices, a sparse similarity, ties by popularity."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.retrieve.base import Arrays, Ranker, Retriever, by_scores
from genrec.retrieve.sequences import Flat, Sequences
from genrec.retrieve.settings import RetrieverSettings

S = TypeVar("S", bound=RetrieverSettings)
_CSR = ("data", "indices", "indptr")


class ItemToItem(Retriever[S]):
    """Scores a binary history; equal scores are ordered by popularity, then by item number.

    Order in time plays no part, and an empty history gets the most popular items.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
    """

    popularity_: npt.NDArray[np.int64]

    @abstractmethod
    def _scores(self, rows: sparse.csr_array) -> npt.NDArray[np.float32]:
        """Scores of binary histories, [B, N] to [B, N]."""

    def _ranker(self, histories: Sequences, *, k: int, exclude_seen: bool) -> Ranker:
        return by_scores(
            lambda _, seen: self._scores(binary(seen, num_items=self.num_items_)),
            k=k,
            exclude_seen=exclude_seen,
            popularity=self.popularity_,
        )


class SparseSimilarity:
    """The state of a retriever that learns a sparse similarity of items, and its way to disk.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
        similarity_: sparse float [N, N]; set by `fit`.
    """

    popularity_: npt.NDArray[np.int64]
    similarity_: sparse.csr_array
    num_items_: int

    def _arrays(self) -> Arrays:
        parts = {f"similarity.{part}": getattr(self.similarity_, part) for part in _CSR}
        return {"popularity": self.popularity_, **parts}

    def _restore(self, arrays: Arrays) -> None:
        self.popularity_ = arrays["popularity"]
        self.num_items_ = len(self.popularity_)
        parts: Any = tuple(arrays[f"similarity.{part}"] for part in _CSR)
        self.similarity_ = sparse.csr_array(parts, shape=(self.num_items_, self.num_items_))


def binary(flat: Flat, *, num_items: int) -> sparse.csr_array:
    """Which sequence holds which item: 1 where it does, however often; float32 [U, N]."""
    ones = np.ones(len(flat.item), dtype=np.float32)
    matrix = sparse.csr_array((ones, (flat.row, flat.item)), shape=(flat.num_rows, num_items))
    matrix.data[:] = 1  # repeats were summed
    return matrix
