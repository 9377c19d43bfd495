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
        return {"popularity": self.popularity_, **csr_to_arrays("similarity", self.similarity_)}

    def _restore(self, arrays: Arrays) -> None:
        self.popularity_ = arrays["popularity"]
        self.num_items_ = len(self.popularity_)
        self.similarity_ = csr_of_arrays("similarity", arrays, self.num_items_)


def csr_to_arrays(name: str, matrix: sparse.csr_array) -> Arrays:
    """Returns the parts of a sparse matrix as arrays to save."""
    return {f"{name}.{part}": getattr(matrix, part) for part in _CSR}


def csr_of_arrays(name: str, arrays: Arrays, num_items: int) -> sparse.csr_array:
    """Returns the [N, N] matrix of which `csr_to_arrays` saved the parts."""
    parts: Any = tuple(arrays[f"{name}.{part}"] for part in _CSR)
    return sparse.csr_array(parts, shape=(num_items, num_items))


def pairs(flat: Flat, distance: int, *, num_items: int) -> sparse.csr_array:
    """How often item j comes `distance` places after item i, float64 [N, N], zero diagonal."""
    left, right = flat.item[:-distance], flat.item[distance:]
    pair = (flat.row[:-distance] == flat.row[distance:]) & (left != right)
    ones = np.ones(int(pair.sum()))
    return sparse.csr_array((ones, (left[pair], right[pair])), shape=(num_items, num_items))


def binary(flat: Flat, *, num_items: int) -> sparse.csr_array:
    """Which sequence holds which item: 1 where it does, however often; float32 [U, N]."""
    ones = np.ones(len(flat.item), dtype=np.float32)
    matrix = sparse.csr_array((ones, (flat.row, flat.item)), shape=(flat.num_rows, num_items))
    matrix.data[:] = 1  # repeats were summed
    return matrix
