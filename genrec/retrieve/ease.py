"""EASE (Steck 2019): a linear autoencoder over items, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import get_lapack_funcs

from genrec.progress import Progress, silent
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.files import load_retriever, save_retriever, settings_of
from genrec.retrieve.linear import binary, rank
from genrec.retrieve.popular import fitted
from genrec.retrieve.ranking import flatten, popularity


@dataclass(kw_only=True)
class EASE:
    """Scores item j for a history by the sum of B[i, j] over its items i.

    B minimises ||X - X B||^2 + l2 ||B||^2 with a zero diagonal, X the binary user-item matrix: with
    P = inv(X'X + l2 I), B[i, j] = -P[i, j] / P[j, j]. Equal scores, so all of an empty history, are
    ordered by popularity, then by item number. Order in time plays no part.

    Attributes:
        l2: regularisation; the fewer interactions an item has, the more it takes.
        max_items: the largest catalogue that is accepted, for N x N numbers are held at once.
        popularity_: int64 [N], training interactions per item; set by `fit`.
        weights_: float32 [N, N], B; set by `fit`.
    """

    kind = "ease"
    l2: float = 100.0
    max_items: int = 20_000
    popularity_: npt.NDArray[np.int64] = field(init=False, repr=False)
    weights_: npt.NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.l2 <= 0 or self.max_items < 1:
            raise ValueError(
                f"l2={self.l2}, max_items={self.max_items}: expected l2 above 0 and max_items of "
                "1 or more"
            )

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Inverts the items' Gram matrix; see `Retriever.fit`.

        Raises:
            ValueError: also for more than `max_items` items, and without any interaction.
        """
        if num_items > self.max_items:
            raise ValueError(
                f"ease: {num_items} items are more than max_items={self.max_items}; their N x N "
                f"matrices need up to {20 * num_items**2 / 2**30:.0f} GiB of memory. Raise max_items if "
                "the machine has it, or use itemknn, which stays sparse"
            )
        flat = flatten(sequences, num_items=num_items)
        if not len(flat.item):
            raise ValueError("ease: no training interactions; expected one sequence with an item")
        matrix = binary(flat, num_items=num_items).astype(np.float64)
        progress("ease: fit", 0, 1)
        self.weights_ = _closed_form((matrix.T @ matrix).toarray(order="F"), self.l2)
        self.popularity_ = popularity(flat, num_items=num_items)
        progress("ease: fit", 1, 1)
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
            lambda rows: rows @ self.weights_,
            histories,
            fitted(self, k),
            k=k,
            exclude_seen=exclude_seen,
            step="ease: recommend",
            progress=progress,
        )

    def save(self, folder: str | Path) -> None:
        """Writes settings, counts and the dense weights; see `Retriever.save`."""
        arrays: dict[str, npt.NDArray[Any]] = {"popularity": fitted(self), "weights": self.weights_}
        save_retriever(folder, self.kind, settings=settings_of(self), arrays=arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        self.popularity_, self.weights_ = arrays["popularity"], arrays["weights"]
        return self


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
