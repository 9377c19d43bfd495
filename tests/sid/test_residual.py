"""The residual arithmetic by brute force."""

import numpy as np
import pytest

from genrec.sid import residual


@pytest.mark.parametrize(
    ("size", "unit"), [(1e-4, 1), (1, 1), (1e4, 1), (0, 1), (2.0**-60, 2.0**-57)]
)
def test_only_extreme_scales_are_touched(size, unit):
    embeddings = np.linspace(-4, 4, 60, dtype=np.float32).reshape(12, 5)
    assert residual.power_of_two(embeddings * np.float32(size)) == unit


def test_nearest_codes_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(40, 5)).astype(np.float32)
    books = rng.normal(size=(3, 7, 5)).astype(np.float32)
    sids = residual.nearest_codes(z, books)
    for row, sid in zip(z, sids, strict=True):
        left = row.copy()
        for level, code in enumerate(sid):
            assert code == min(range(7), key=lambda k: ((left - books[level, k]) ** 2).sum())
            left = left - books[level, code]
    by_hand = books[0][sids[:, 0]] + books[1][sids[:, 1]] + books[2][sids[:, 2]]
    np.testing.assert_allclose(residual.sum_of_codes(sids, books), by_hand, rtol=1e-5)
    left = np.linalg.norm(z - by_hand) / np.linalg.norm(z)
    assert residual.relative_norms(z, sids, books)[-1] == pytest.approx(left, rel=1e-5)


def test_chunks_do_not_change_codes(monkeypatch):
    rng = np.random.default_rng(2)
    z, books = (rng.normal(size=s).astype(np.float32) for s in ((50, 4), (2, 6, 4)))
    whole = residual.nearest_codes(z, books)
    monkeypatch.setattr(residual, "_CHUNK", 7)
    assert (residual.nearest_codes(z, books) == whole).all()
