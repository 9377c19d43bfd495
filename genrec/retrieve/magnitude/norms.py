"""Diagnostics of the norms of item vectors: effect size, variation, and popularity."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from genrec.retrieve.sequences import FloatArray


class NormReport(NamedTuple):
    """The norms of item vectors in numbers (paper, section on diagnostics).

    Attributes:
        cohens_d: relevant against irrelevant items; about 0: unused, above 0.5: substantial.
        cv: standard deviation over mean; v1 calls 0.1 and more meaningful, 0.05 and less noise.
        popularity: Spearman correlation with popularity, which v1 predicts to be above 0 for a
            recommender with free item norms and did not test.
    """

    cohens_d: float
    cv: float
    popularity: float


def cohens_d(norms: npt.ArrayLike, relevant: npt.ArrayLike) -> float:
    """Returns (mean of relevant - mean of the others) / pooled standard deviation.

    Args:
        norms: float [N].
        relevant: bool [N].

    Returns:
        NaN with fewer than two items on a side; 0 where all norms are alike but for rounding.
    """
    norms, relevant = np.asarray(norms, dtype=np.float64), np.asarray(relevant, dtype=bool)
    a, b = norms[relevant], norms[~relevant]
    if min(len(a), len(b)) < 2:
        return float("nan")
    squares = (len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)
    pooled = np.sqrt(squares / (len(a) + len(b) - 2))
    if _alike(norms):
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.divide(a.mean() - b.mean(), pooled))


def variation(norms: npt.ArrayLike) -> float:
    """Returns the coefficient of variation, population standard deviation over mean.

    0 of nothing, and where all norms are alike but for rounding.
    """
    norms = np.asarray(norms, dtype=np.float64)
    return 0.0 if _alike(norms) else float(norms.std() / norms.mean())


def norm_report(
    vectors: FloatArray, *, relevant: npt.ArrayLike, popularity: npt.ArrayLike
) -> NormReport:
    """Reports on the norms of item vectors.

    Args:
        vectors: float [N, d]; before normalisation, as `item_vectors(raw=True)`, to see what was
            learned, or as scored, to see what counts.
        relevant: bool [N], items that are the target of a query.
        popularity: int [N], training interactions.

    Raises:
        ValueError: the shapes do not fit.
    """
    norms = np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=1)
    relevant, popularity = np.asarray(relevant), np.asarray(popularity)
    if relevant.shape != norms.shape or popularity.shape != norms.shape:
        raise ValueError(
            f"{len(norms)} vectors, relevant {relevant.shape}, popularity {popularity.shape}: "
            "expected one value per vector"
        )
    constant = _alike(norms) or len(np.unique(popularity)) < 2
    rho = float("nan") if constant else float(spearmanr(norms, popularity).statistic)
    return NormReport(cohens_d(norms, relevant), variation(norms), rho)


def _alike(norms: npt.NDArray[np.float64]) -> bool:
    return bool(np.ptp(norms) <= 1e-5 * np.abs(norms).max()) if norms.size else True
