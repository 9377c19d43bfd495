"""The numbers of an ablation table: spread over seeds, paired tests, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genrec.evaluate import interval, resampled_means

Floats = npt.NDArray[np.float64]


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation; None for the deviation of one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation


def over_users(
    differences: Floats, *, samples: int, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Bootstraps users: mean of every column with its 95 % interval, one set of resamples for all.

    Args:
        differences: float64 [U, C], per user: a paired difference per column, averaged over seeds.
        samples: resamples.
        seed: same seed, same resamples.

    Returns:
        Mean, low and high, float64 [C] each.
    """
    low, high = interval(resampled_means(differences, samples=samples, seed=seed))
    return differences.mean(axis=0), low, high


def over_seeds(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of a paired t-test over seeds.

    None where there is no test: fewer than two seeds, or differences that do not vary.

    Args:
        values: one value per seed.
        reference: the reference's values, of the same seeds in the same order.
    """
    differences = np.subtract(values, reference)
    if len(differences) < 2 or np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):
        return None
    from scipy import stats

    return float(stats.ttest_rel(values, reference).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm 1979); None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected
