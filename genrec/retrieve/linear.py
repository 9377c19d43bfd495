"""What the retrievers that count share: binary matrices, sparse ones on disk, ties by popularity."""

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


def binary(flat: Flat, *, num_items: int) -> sparse.csr_array:
    """Which sequence holds which item: 1 where it does, however often; float32 [U, N]."""
    ones = np.ones(len(flat.item), dtype=np.float32)
    matrix = sparse.csr_array((ones, (flat.row, flat.item)), shape=(flat.num_rows, num_items))
    matrix.data[:] = 1  # repeats were summed
    return matrix


def csr_arrays(name: str, matrix: sparse.csr_array) -> Arrays:
    """Returns the three arrays of a sparse matrix, to be saved as `name.data` and so on."""
    return {f"{name}.{part}": getattr(matrix, part) for part in _CSR}


def csr_matrix(name: str, arrays: Arrays, size: int) -> sparse.csr_array:
    """Returns the sparse matrix [size, size] that `csr_arrays` took apart."""
    parts: Any = tuple(arrays[f"{name}.{part}"] for part in _CSR)
    return sparse.csr_array(parts, shape=(size, size))
