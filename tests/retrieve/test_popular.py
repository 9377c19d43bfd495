"""Popularity by hand, and against a sort of the whole catalogue."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st

from genrec.retrieve import Popular

NUM_ITEMS = 12
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=8)


def test_popular_by_hand() -> None:
    """Counts: item 0 once, item 1 twice, item 2 twice, item 3 never. Ties by item number."""
    retriever = Popular().fit([[1, 2], [2, 1, 0]], num_items=4)
    lists = retriever.recommend([[], [1], [0, 2, 3]], k=3)
    assert lists.items.tolist() == [[1, 2, 0], [2, 0, 3], [1, -1, -1]]
    assert lists.scores.tolist() == [[2, 2, 1], [2, 1, 0], [2, -np.inf, -np.inf]]
    assert retriever.recommend([[1]], k=2, exclude_seen=False).items.tolist() == [[1, 2]]


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 15))
def test_popular_is_a_sort_of_the_catalogue(
    train: list[list[int]], histories: list[list[int]], k: int
) -> None:
    counts = np.bincount([i for s in train for i in s], minlength=NUM_ITEMS)
    lists = Popular().fit(train, num_items=NUM_ITEMS).recommend(histories, k=k)
    for history, items in zip(histories, lists.items.tolist(), strict=True):
        allowed = [i for i in range(NUM_ITEMS) if i not in history]
        best = sorted(allowed, key=lambda i: (-counts[i], i))[:k]
        assert items == best + [-1] * (k - len(best))
