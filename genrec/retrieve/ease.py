"""EASE (Steck 2019): a linear autoencoder over items, in closed form."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.linalg import get_lapack_funcs

from genrec.progress import Progress, silent
from genrec.retrieve.base import Arrays
from genrec.retrieve.linear import ItemToItem, binary
from genrec.retrieve.sequences import Sequences, flatten, popularity
from genrec.retrieve.settings import EASESettings


class EASE(ItemToItem[EASESettings]):
    """Scores item j for a history by the sum of B[i, j] over its items i.

    B minimises ||X - X B||^2 + l2 ||B||^2 with a zero diagonal, X the binary user-item matrix: with
    P = inv(X'X + l2 I), B[i, j] = -P[i, j] / P[j, j].

    Attributes:
        weights_: float32 [N, N], B; set by `fit`.
    """

    weights_: npt.NDArray[np.float32]

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Inverts the items' Gram matrix; see `Retriever.fit`.

        Raises:
            ValueError: also for more than `max_items` items, and without any interaction.
        """
        settings = self.settings
        if num_items > settings.max_items:
            raise ValueError(
                f"ease: {num_items} items are more than max_items={settings.max_items}; their N x N "
                f"matrices need up to {20 * num_items**2 / 2**30:.0f} GiB of memory. Raise max_items if "
                "the machine has it, or use itemknn, which stays sparse"
            )
        flat = flatten(sequences, num_items=num_items)
        if not len(flat.item):
            raise ValueError("ease: no training interactions; expected one sequence with an item")
        matrix = binary(flat, num_items=num_items).astype(np.float64)
        progress("ease: fit", 0, 1)
        self.weights_ = _closed_form((matrix.T @ matrix).toarray(order="F"), settings.l2)
        self.popularity_ = popularity(flat, num_items=num_items)
        self.num_items_ = num_items
        progress("ease: fit", 1, 1)
        return self

    def _scores(self, rows: sparse.csr_array) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = rows @ self.weights_
        return scores

    def _arrays(self) -> Arrays:
        return {"popularity": self.popularity_, "weights": self.weights_}

    def _restore(self, arrays: Arrays) -> None:
        self.popularity_, self.weights_ = arrays["popularity"], arrays["weights"]
        self.num_items_ = len(self.popularity_)


def _closed_form(gram: npt.NDArray[np.float64], l2: float) -> npt.NDArray[np.float32]:
    """B of a Gram matrix [N, N] in Fortran order, which is overwritten: no second one is held."""
    np.fill_diagonal(gram, gram.diagonal() + l2)
    factor, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
    gram, failed = factor(gram, lower=True, overwrite_a=True)
    assert not failed  # positive definite, because l2 is above 0
    gram, failed = invert(gram, lower=True, overwrite_c=True)
    assert not failed
    diagonal = gram.diagonal().copy()
    weights = np.tril(gram.astype(np.float32), -1)
    del gram
    weights += weights.T
    weights /= -diagonal.astype(np.float32)
    return weights
