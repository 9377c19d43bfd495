from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.retrieve import Popular
from genrec.retrieve.ease import EASE

N = 9
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=6), min_size=1, max_size=8)


def binary(sequences: list[list[int]]) -> np.ndarray:
    x = np.zeros((len(sequences), N))
    for u, s in enumerate(sequences):
        x[u, s] = 1
    return x


def test_ease_by_hand() -> None:
    """Two items, three users: {0, 1}, {0, 1}, {0}; l2 = 1.

    X'X + I = [[4, 2], [2, 3]], inverse [[3, -2], [-2, 4]] / 8.
    B[0, 1] = -P[0, 1] / P[1, 1] = 2 / 4;  B[1, 0] = 2 / 3.
    """
    found = EASE(l2=1).fit([[0, 1], [1, 0, 0], [0]], num_items=2)
    np.testing.assert_allclose(found.weights_, [[0, 1 / 2], [2 / 3, 0]], rtol=1e-6)
    lists = found.recommend([[1]], k=2)
    assert lists.items.tolist() == [[0, -1]]
    np.testing.assert_allclose(lists.scores, [[2 / 3, -np.inf]], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(SEQUENCES.filter(any), st.floats(0.5, 50))
def test_ease_is_the_minimum_under_a_zero_diagonal(train: list[list[int]], l2: float) -> None:
    """The gradient of ||X - XB||^2 + l2 ||B||^2 vanishes off the diagonal."""
    weights = EASE(l2=l2).fit(train, num_items=N).weights_.astype(np.float64)
    assert (np.diag(weights) == 0).all()
    x = binary(train)
    gradient = x.T @ (x @ weights - x) + l2 * weights
    np.testing.assert_allclose(gradient - np.diag(np.diag(gradient)), 0, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(SEQUENCES.filter(any), SEQUENCES, st.integers(1, 12), st.booleans())
def test_lists_are_a_sort_of_the_catalogue(
    train: list[list[int]], histories: list[list[int]], k: int, exclude_seen: bool
) -> None:
    made = EASE(l2=5).fit(train, num_items=N)
    found = made.recommend(histories, k=k, exclude_seen=exclude_seen)
    whole = made.recommend(histories, k=N, exclude_seen=False)
    oracle = binary(histories).astype(np.float32) @ made.weights_
    counts = np.bincount([i for s in train for i in s], minlength=N)
    for user, history in enumerate(histories):
        scores = np.empty(N, dtype=np.float32)
        scores[whole.items[user]] = whole.scores[user]
        np.testing.assert_allclose(scores, oracle[user], atol=1e-6)
        allowed = [i for i in range(N) if not exclude_seen or i not in history]
        best = sorted(allowed, key=lambda i: (-scores[i], -counts[i], i))[:k]
        assert found.items[user].tolist() == best + [-1] * (k - len(best))


def test_planted_pairs_are_found_where_popularity_finds_nothing() -> None:
    train = [[2 * p, 2 * p + 1] for p in range(10) for _ in range(5)]
    histories = [[2 * p] for p in range(10)]
    found = EASE(l2=1).fit(train, num_items=21).recommend(histories, k=1).items
    assert found[:, 0].tolist() == [2 * p + 1 for p in range(10)]
    popular = Popular().fit(train, num_items=21).recommend(histories, k=1).items
    assert (popular[:, 0] == found[:, 0]).sum() == 1


def test_without_a_history_it_is_popularity_and_cold_items_come_last() -> None:
    train = [[4, 1], [4, 2], [5]]
    items = EASE().fit(train, num_items=7).recommend([[]], k=7).items
    assert items.tolist() == Popular().fit(train, num_items=7).recommend([[]], k=7).items.tolist()


def test_a_catalogue_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_items=20000.* 17 GiB of memory.*itemknn"):
        EASE().fit([[0]], num_items=30_000)
