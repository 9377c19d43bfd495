"""Sequences end to end, counts, and orders with bans: against one user at a time."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import schema
from genrec.progress import silent
from genrec.retrieve import linear, ranking
from genrec.retrieve.popular import Popular
from genrec.retrieve.ranking import training_popularity

N = 6
HISTORIES = st.lists(st.lists(st.integers(0, N - 1), max_size=8), max_size=5)


def best(score: list[float], counts: np.ndarray, seen: list[int], k: int) -> list[int]:
    left = [i for i in range(N) if i not in seen]
    first = sorted(left, key=lambda i: (-score[i], -counts[i], i))[:k]
    return first + [-1] * (k - len(first))


@settings(max_examples=60, deadline=None)
@given(HISTORIES, HISTORIES, st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_lists_are_those_of_sorting(
    train: list[list[int]], histories: list[list[int]], k: int, exclude_seen: bool, seed: int
) -> None:
    """Ties everywhere, items seen twice, users who have seen all, more places than items."""
    popular = Popular().fit(train, num_items=N)
    counts = np.array([sum(s.count(i) for s in train) for i in range(N)])
    matrix = np.random.default_rng(seed).integers(-1, 2, size=(N, N)).astype(np.float32)
    plain = popular.recommend(histories, k=k, exclude_seen=exclude_seen)
    scored = linear.rank(
        lambda binary: binary @ matrix,
        histories,
        counts,
        k=k,
        exclude_seen=exclude_seen,
        step="test",
        progress=silent,
    )
    for user, history in enumerate(histories):
        seen = history if exclude_seen else []
        assert plain.items[user].tolist() == best(counts.tolist(), counts, seen, k)
        score = matrix[sorted(set(history))].sum(axis=0).tolist()
        assert scored.items[user].tolist() == best(score, counts, seen, k)
        for found in (plain, scored):
            assert (np.isneginf(found.scores[user]) == (found.items[user] < 0)).all()


def test_an_unknown_item_is_named_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_MAX_CELLS", N)  # one user at a time
    popular = Popular().fit([[0]], num_items=N)
    with pytest.raises(ValueError, match=r"sequence 2: item 6 is unknown; expected 0\.\.5"):
        popular.recommend([[0], [1], [2, 6]], k=1)
    with pytest.raises(ValueError, match="sequence 2: item -1"):
        linear.rank(
            lambda binary: binary.toarray(),
            [[0], [1], [-1]],
            popular.popularity_,
            k=1,
            exclude_seen=True,
            step="test",
            progress=silent,
        )


def test_training_popularity_counts_histories_and_targets() -> None:
    train = pl.DataFrame([(0, [3, 3], 1), (4, [], 3)], dict(schema.SPLIT), orient="row")
    assert training_popularity(train, num_items=5).tolist() == [0, 1, 0, 3, 0]
