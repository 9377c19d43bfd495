"""Percentile bootstrap over users, the same resamples for every system.

One set of resamples for all columns makes differences paired and costs one matrix product, where
`scipy.stats.bootstrap` gathers every column anew (agreement with it is tested).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec.progress import Progress, silent

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
# Users x resamples held at once: 2^22 draws are 32 MiB.
_MAX_DRAWS = 2**22


def resampled_means(
    values: Floats, *, samples: int, seed: int, progress: Progress = silent
) -> Floats:
    """Draws users with replacement and averages every column over them.

    Args:
        values: float64 [U, C], one row per user.
        samples: R, the number of resamples.
        seed: same seed, same resamples.
        progress: told how many resamples are done.

    Returns:
        float64 [R, C].

    Raises:
        ValueError: no users or no samples.
    """
    users = len(values)
    if users < 1 or samples < 1:
        raise ValueError(f"users are {users}, samples is {samples}; expected 1 or more of each")
    rng = np.random.default_rng(seed)
    means = np.empty((samples, values.shape[1]))
    step = max(1, _MAX_DRAWS // users)
    for start in range(0, samples, step):
        stop = min(start + step, samples)
        drawn = rng.integers(users, size=(stop - start, users))
        drawn += np.arange(stop - start)[:, None] * users  # one range of bins per resample
        times = np.bincount(drawn.ravel(), minlength=(stop - start) * users)
        means[start:stop] = times.reshape(stop - start, users).astype(np.float64) @ values / users
        progress("bootstrap", stop, samples)
    return means


def interval(means: Floats, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Returns the lower and upper end of the percentile interval of each column, float64 [C]."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
