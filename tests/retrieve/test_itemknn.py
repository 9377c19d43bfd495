from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.retrieve import Popular, sequences
from genrec.retrieve.itemknn import ItemKNN

N = 9
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=6), max_size=8)


def brute(sequences: list[list[int]], neighbours: int, shrink: float) -> np.ndarray:
    users = [{u for u, s in enumerate(sequences) if i in s} for i in range(N)]
    similarity = np.zeros((N, N), dtype=np.float32)
    for i in range(N):
        row = np.zeros(N, dtype=np.float32)
        for j in range(N):
            if i != j and users[i] & users[j]:
                norm = np.sqrt(len(users[i]) * len(users[j])) + shrink
                row[j] = len(users[i] & users[j]) / norm
        for j in sorted(range(N), key=lambda j: (-row[j], j))[:neighbours]:
            similarity[i, j] = row[j]
    return similarity


def test_itemknn_by_hand() -> None:
    """Users {0, 1}, {0, 1}, {0, 2}: 0-1 is 2 / sqrt(3 * 2), 0-2 is 1 / sqrt(3 * 1), 1-2 nothing."""
    made = ItemKNN(shrink=0).fit([[0, 1], [1, 0, 1], [0, 2]], num_items=4)
    lists = made.recommend([[0], [1, 2]], k=3)
    assert lists.items.tolist() == [[1, 2, 3], [0, 3, -1]]
    one, two = 2 / 6**0.5, 1 / 3**0.5
    np.testing.assert_allclose(lists.scores, [[one, two, 0], [one + two, 0, -np.inf]], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 12), st.integers(1, 9), st.sampled_from([0.0, 3.0]))
def test_itemknn_is_brute_force(
    train: list[list[int]], histories: list[list[int]], k: int, neighbours: int, shrink: float
) -> None:
    made = ItemKNN(neighbours=neighbours, shrink=shrink).fit(train, num_items=N)
    similarity = brute(train, neighbours, shrink)
    np.testing.assert_allclose(made.similarity_.toarray(), similarity, rtol=1e-6)
    counts = np.bincount([i for s in train for i in s], minlength=N)
    found = made.recommend(histories, k=k)
    whole = made.recommend(histories, k=N, exclude_seen=False)
    for user, history in enumerate(histories):
        scores = np.empty(N, dtype=np.float32)
        scores[whole.items[user]] = whole.scores[user]
        expected = similarity[sorted(set(history))].sum(axis=0)
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
        allowed = [i for i in range(N) if i not in history]
        best = sorted(allowed, key=lambda i: (-scores[i], -counts[i], i))[:k]
        assert found.items[user].tolist() == best + [-1] * (k - len(best))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = [rng.integers(0, N, size=5) for _ in range(30)]
    whole = ItemKNN().fit(train, num_items=N)
    monkeypatch.setattr(sequences, "_MAX_CELLS", 2 * N)
    parts = ItemKNN().fit(train, num_items=N)
    np.testing.assert_array_equal(whole.similarity_.toarray(), parts.similarity_.toarray())
    np.testing.assert_array_equal(
        whole.recommend(train, k=4).scores, parts.recommend(train, k=4).scores
    )


def test_planted_pairs_are_found_where_popularity_finds_nothing() -> None:
    train = [[2 * p, 2 * p + 1] for p in range(10) for _ in range(5)]
    histories = [[2 * p] for p in range(10)]
    found = ItemKNN().fit(train, num_items=21).recommend(histories, k=1).items
    assert found[:, 0].tolist() == [2 * p + 1 for p in range(10)]
    popular = Popular().fit(train, num_items=21).recommend(histories, k=1).items
    assert (popular[:, 0] == found[:, 0]).sum() == 1
