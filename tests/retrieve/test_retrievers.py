"""One contract for every retriever, then the arithmetic of each by hand and against brute force."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.retrieve import Cooccurrence, Popular, Ranked, Retriever, ranking

KINDS = [Popular, Cooccurrence]
NUM_ITEMS = 12
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=9), max_size=8)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.kind)
def make(request: pytest.FixtureRequest) -> Callable[[], Retriever]:
    return request.param


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
                if i != j and abs(a - b) <= r.window:
                    pair[i, j] += 1 / abs(a - b)
    similarity = pair / np.sqrt(np.outer(counts, counts) + 1)
    steps = enumerate(reversed(history[-r.recent :]))
    return sum((r.decay**b * similarity[i] for b, i in steps), np.zeros(NUM_ITEMS))


# --- the contract -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 15), st.booleans())
@pytest.mark.parametrize("kind", KINDS)
def test_lists_hold_every_item_once_and_nothing_seen(
    kind: type[Retriever],
    train: list[list[int]],
    histories: list[list[int]],
    k: int,
    exclude_seen: bool,
) -> None:
    retriever = kind().fit(train, num_items=NUM_ITEMS)
    items, scores = retriever.recommend(histories, k=k, exclude_seen=exclude_seen)
    assert items.shape == scores.shape == (len(histories), k)
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    for history, row, values in zip(histories, items, scores, strict=True):
        filled = row[row >= 0]
        seen = set(history) if exclude_seen else set()
        assert len(set(filled)) == len(filled) == min(k, NUM_ITEMS - len(seen))
        assert not seen & set(filled.tolist())
        assert (row[len(filled) :] == -1).all()
        assert np.isneginf(values[len(filled) :]).all()
        assert (np.diff(values[: len(filled)]) <= 0).all()


def test_saved_and_loaded_it_ranks_the_same(make: Callable[[], Retriever], tmp_path: Path) -> None:
    before = make().fit([[0, 1, 2], [2, 3]], num_items=6)
    before.save(tmp_path / "a")
    after = type(before).load(tmp_path / "a")
    for x, y in zip(
        before.recommend([[0], [3, 2]], k=6), after.recommend([[0], [3, 2]], k=6), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    after.save(tmp_path / "b")
    for name in ("retriever.json", "arrays.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_chunks_change_nothing(
    make: Callable[[], Retriever], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 9, size=rng.integers(0, 7)) for _ in range(40)]
    retriever = make().fit(sequences, num_items=9)
    whole = retriever.recommend(sequences, k=5)
    monkeypatch.setattr(ranking, "_MAX_CELLS", 27)  # 3 users at a time
    seen: list[tuple[int, int]] = []
    parts = retriever.recommend(
        sequences, k=5, progress=lambda _, done, total: seen.append((done, total))
    )
    np.testing.assert_array_equal(whole.items, parts.items)
    np.testing.assert_array_equal(whole.scores, parts.scores)
    assert len(seen) == 14
    assert seen[-1] == (40, 40)


def test_no_users_no_rows(make: Callable[[], Retriever]) -> None:
    assert make().fit([[0]], num_items=2).recommend([], k=3).items.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend([[0]], k=3), "not fitted"),
        (lambda r: r.save("anywhere"), "not fitted"),
        (lambda r: r.fit([[0], [1, 6]], num_items=6), r"sequence 1: item 6 .* 0\.\.5"),
        (lambda r: r.fit([[0]], num_items=2).recommend([[0]], k=0), "k is 0"),
        (lambda r: r.fit([[0]], num_items=2).recommend([[-1]], k=1), "sequence 0: item -1"),
    ],
)
def test_bad_calls_say_what_is_wrong(
    make: Callable[[], Retriever], call: Callable[[Retriever], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(make())


def test_bad_files_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"retriever\.json"):
        Popular.load(tmp_path)
    Popular().fit([[0]], num_items=1).save(tmp_path)
    with pytest.raises(ValueError, match="'popular' retriever, expected 'cooccurrence'"):
        Cooccurrence.load(tmp_path)
    arrays = tmp_path / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        Popular.load(tmp_path)
    (tmp_path / "retriever.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Popular.load(tmp_path)


# --- popular ----------------------------------------------------------------------------------


def test_popular_by_hand() -> None:
    """Counts: item 0 once, item 1 twice, item 2 twice, item 3 never. Ties by item number."""
    retriever = Popular().fit([[1, 2], [2, 1, 0]], num_items=4)
    items, scores = retriever.recommend([[], [1], [0, 2, 3]], k=3)
    assert items.tolist() == [[1, 2, 0], [2, 0, 3], [1, -1, -1]]
    assert scores.tolist() == [[2, 2, 1], [2, 1, 0], [2, -np.inf, -np.inf]]
    assert retriever.recommend([[1]], k=2, exclude_seen=False).items.tolist() == [[1, 2]]


@settings(max_examples=60, deadline=None)
@given(SEQUENCES, SEQUENCES, st.integers(1, 15))
def test_popular_is_a_sort_of_the_catalogue(
    train: list[list[int]], histories: list[list[int]], k: int
) -> None:
    counts = np.bincount([i for s in train for i in s], minlength=NUM_ITEMS)
    items, _ = Popular().fit(train, num_items=NUM_ITEMS).recommend(histories, k=k)
    expected = [rank_all(counts, counts, set(h), k) for h in histories]
    assert items.tolist() == expected


# --- co-occurrence ----------------------------------------------------------------------------


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
    found: Ranked = retriever.fit(train, num_items=NUM_ITEMS).recommend(
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


@pytest.mark.parametrize("wrong", [{"window": 0}, {"recent": 0}, {"decay": 0}, {"decay": 1.5}])
def test_cooccurrence_refuses_settings_that_mean_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"window=.*expected"):
        Cooccurrence(**wrong)


def test_cooccurrence_settings_travel_with_it(tmp_path: Path) -> None:
    Cooccurrence(window=2, recent=3, decay=0.5).fit([[0, 1]], num_items=2).save(tmp_path)
    assert Cooccurrence.load(tmp_path).window == 2
    assert json.loads((tmp_path / "retriever.json").read_text()) == {
        "kind": "cooccurrence",
        "settings": {"window": 2, "recent": 3, "decay": 0.5},
    }
