from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from genrec.evaluate import bootstrap, interval, resampled_means


def test_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.random(400), rng.random(400) < 0.1], axis=1).astype(float)
    low, high = interval(resampled_means(values, samples=4000, seed=1))
    for column in range(2):
        reference = stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=4000, method="percentile", rng=2
        ).confidence_interval
        width = reference.high - reference.low
        assert low[column] == pytest.approx(reference.low, abs=0.06 * width)
        assert high[column] == pytest.approx(reference.high, abs=0.06 * width)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(3)
    hits = (rng.random((200, 300)) < 0.2).astype(float)  # 300 experiments of 200 users
    low, high = interval(resampled_means(hits, samples=500, seed=0))
    assert 0.91 <= ((low <= 0.2) & (high >= 0.2)).mean() <= 0.98


def test_columns_share_their_resamples() -> None:
    """So a difference of resampled means is the resampled mean of the paired difference."""
    values = np.random.default_rng(0).random((50, 2))
    both = resampled_means(values, samples=20, seed=7)
    alone = resampled_means(values[:, :1] - values[:, 1:], samples=20, seed=7)
    np.testing.assert_allclose(both[:, 0] - both[:, 1], alone[:, 0])


def test_seed_decides() -> None:
    values = np.random.default_rng(0).random((9, 1))
    first, again, other = (resampled_means(values, samples=30, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_user_at_a_time_is_bounded_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 1)
    means = resampled_means(np.ones((5, 1)), samples=3, seed=0)
    assert means.tolist() == [[1.0], [1.0], [1.0]]
