"""Co-occurrence by hand, and against brute force over the whole catalogue."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings, strategies as st

from genrec.retrieve import Cooccurrence, Popular

NUM_ITEMS = 12
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=8)


def rank_all(scores: np.ndarray, counts: np.ndarray, banned: set[int], k: int) -> list[int]:
    """The oracle: sort the whole catalogue by score, popularity, item number."""
    allowed = [i for i in range(len(scores)) if i not in banned]
    best = sorted(allowed, key=lambda i: (-scores[i], -counts[i], i))[:k]
    return best + [-1] * (k - len(best))


def brute_scores(sequences: list[list[int]], history: list[int], r: Cooccurrence) -> np.ndarray:
    counts, pair = np.zeros(NUM_ITEMS), np.zeros((NUM_ITEMS, NUM_ITEMS))
    for s in sequences:
        for a, i in enumerate(s):
            counts[i] += 1
            for b, j in enumerate(s):
                if i != j and abs(a - b) <= r.settings.window:
                    pair[i, j] += 1 / abs(a - b)
    similarity = pair / np.sqrt(np.outer(counts, counts) + 1)
    steps = enumerate(reversed(history[-r.settings.recent :]))
    return sum((r.settings.decay**b * similarity[i] for b, i in steps), np.zeros(NUM_ITEMS))


def test_cooccurrence_by_hand() -> None:
    """Training: [0, 1, 2] and [1, 0]. pop = 2, 2, 1, 0 (items 0, 1, 2, 3).

    counts: 0-1: 1 (distance 1) + 1 (distance 1) = 2;  1-2: 1;  0-2: 1/2 (distance 2).
    similarity: 0-1: 2/sqrt(2*2+1);  1-2: 1/sqrt(2*1+1);  0-2: 0.5/sqrt(2*1+1).
    History [0, 1], decay 0.8, the newest weighs 1:
      score(2) = 1 * 1/sqrt(3) + 0.8 * 0.5/sqrt(3) = 1.4/sqrt(3)
      score(0) = 1 * 2/sqrt(5);  score(1) = 0.8 * 2/sqrt(5);  score(3) = 0.
    """
    retriever = Cooccurrence().fit([[0, 1, 2], [1, 0]], num_items=4)
    masked = retriever.recommend([[0, 1]], k=4)
    assert masked.items.tolist() == [[2, 3, -1, -1]]
    np.testing.assert_allclose(masked.scores[0, :2], [1.4 / 3**0.5, 0], rtol=1e-6)
    kept = retriever.recommend([[0, 1]], k=4, exclude_seen=False)
    assert kept.items.tolist() == [[0, 2, 1, 3]]
    expected = [2 / 5**0.5, 1.4 / 3**0.5, 1.6 / 5**0.5, 0]
    np.testing.assert_allclose(kept.scores[0], expected, rtol=1e-6)


def test_cooccurrence_without_evidence_is_popularity() -> None:
    train = [[4, 1], [4, 2], [5]]
    histories: list[list[int]] = [[], [5]]
    lists = Cooccurrence().fit(train, num_items=7).recommend(histories, k=7)
    popular = Popular().fit(train, num_items=7).recommend(histories, k=7)
    assert (
        lists.items.tolist()
        == popular.items.tolist()
        == [
            [4, 1, 2, 5, 0, 3, 6],
            [4, 1, 2, 0, 3, 6, -1],
        ]
    )
    assert lists.scores[0].tolist() == [0] * 7


@settings(max_examples=100, deadline=None)
@given(
    SEQUENCES,
    SEQUENCES,
    st.integers(1, 15),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_cooccurrence_is_a_sort_of_the_catalogue(
    train: list[list[int]],
    histories: list[list[int]],
    k: int,
    exclude_seen: bool,
    window: int,
    last: int,
) -> None:
    # A decay of 1/2 and a few steps keep the scores far from float32 ties that are not real ones.
    retriever = Cooccurrence(window=window, recent=last, decay=0.5)
    found = retriever.fit(train, num_items=NUM_ITEMS).recommend(
        histories, k=k, exclude_seen=exclude_seen
    )
    counts = np.bincount([i for s in train for i in s], minlength=NUM_ITEMS)
    for history, items, scores in zip(histories, found.items, found.scores, strict=True):
        oracle = brute_scores(train, history, retriever).astype(np.float32)
        # Equal up to the order of a sum: compare with what the retriever reports for each item.
        np.testing.assert_allclose(scores[items >= 0], oracle[items[items >= 0]], rtol=1e-5)
        oracle[items[items >= 0]] = scores[items >= 0]
        banned = set(history) if exclude_seen else set()
        assert items.tolist() == rank_all(oracle, counts, banned, k)
