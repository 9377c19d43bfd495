"""Norm diagnostics by hand."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.retrieve.magnitude.norms import cohens_d, norm_report, variation


def test_cohens_d_by_hand() -> None:
    # means 5 and 2, variances (ddof 1) 1 and 1, so d = 3
    assert cohens_d([4, 5, 6, 1, 2, 3], [1, 1, 1, 0, 0, 0]) == pytest.approx(3.0)
    # variances 2 (n 2) and 1 (n 3): pooled (1*2 + 2*1) / 3 = 4/3
    d = cohens_d([4, 6, 1, 2, 3], [True, True, False, False, False])
    assert d == pytest.approx(3 / np.sqrt(4 / 3))
    assert np.isnan(cohens_d([1, 2, 3], [1, 0, 0]))
    assert cohens_d(1 + 1e-8 * np.arange(6), [1, 1, 1, 0, 0, 0]) == 0.0  # rounding is no signal


def test_variation_by_hand() -> None:
    assert variation([1, 3]) == pytest.approx(0.5)
    assert variation([]) == variation([0, 0]) == 0.0
    assert variation(1 + 1e-8 * np.arange(6)) == 0.0  # rounding is no signal


def test_norm_report() -> None:
    vectors = np.diag([1.0, 2, 3, 4])
    report = norm_report(vectors, relevant=[0, 0, 1, 1], popularity=[5, 9, 10, 40])
    assert report.popularity == pytest.approx(1.0)
    assert report.cohens_d == pytest.approx(2 / np.sqrt(0.5))
    assert report.cv == pytest.approx(np.sqrt(1.25) / 2.5)
    assert np.isnan(
        norm_report(np.eye(4), relevant=[0, 0, 1, 1], popularity=[1, 2, 3, 4]).popularity
    )
    with pytest.raises(ValueError, match="one value per vector"):
        norm_report(vectors, relevant=[0, 1], popularity=[1, 2, 3, 4])
