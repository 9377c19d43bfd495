"""Residual k-means where the answer is known."""

import numpy as np

from genrec.sid import RKMeans
from genrec.sid.stats import sid_stats


def test_a_grid_is_taken_apart_level_by_level():
    points = np.array([[100, 1], [100, -1], [-100, 1], [-100, -1]], dtype=np.float32)
    fitted = RKMeans(levels=2, codes=2, iterations=20).fit(points)
    sids = fitted.encode(points)
    # Level 1 tells the far sides apart, level 2 the near ones, with one code for both sides.
    assert sids[0, 0] == sids[1, 0] != sids[2, 0] == sids[3, 0]
    assert sids[0, 1] == sids[2, 1] != sids[1, 1] == sids[3, 1]
    np.testing.assert_allclose(fitted.decode(sids), points, atol=1e-3)
    norms = fitted.residual_norms(points, sids)
    np.testing.assert_allclose(norms, [1 / np.sqrt(10001), 0], atol=1e-5)
    assert sid_stats(points, sids, sids, fitted)["reconstruction_cosine"]["before"] > 0.9999


def test_only_the_leading_components_are_quantized():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(200, 6)) * [9, 5, 0.1, 0.1, 0.1, 0.1]).astype(np.float32)
    fitted = RKMeans(levels=3, codes=16, code_dim=2).fit(points)
    decoded = fitted.decode(fitted.encode(points))
    assert np.abs(decoded[:, :2] - points[:, :2]).mean() < 0.3
    assert np.linalg.matrix_rank(decoded - decoded.mean(axis=0), tol=1e-2) == 2


def test_faiss_warns_of_nothing(capfd):
    RKMeans(levels=1, codes=8).fit(np.random.default_rng(0).random((9, 3), dtype=np.float32))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
