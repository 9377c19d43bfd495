"""The graph retriever by hand, and against rings that are walked one item at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.dataset import Dataset, DatasetRetriever
from genrec.retrieve import Popular, sequences
from genrec.retrieve.graph import Graph
from genrec.retrieve.settings import GraphSettings

N = 9
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=6), max_size=8)
BUDGETS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=2)


def angles(*degrees: float) -> np.ndarray:
    """A vector for each item whose cosines can be read off."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def expected(
    train: list[list[int]],
    history: list[int],
    budgets: list[list[int]],
    vectors: np.ndarray,
    count_weight: float,
) -> list[int]:
    """The oracle: walks the graph item by item, and sorts Python tuples."""
    counts = np.zeros((N, N))
    for s in train:
        for i, j in pairwise(s):
            counts[i, j] += i != j
    popular = np.bincount([i for s in train for i in s], minlength=N)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine = (unit @ unit.T).astype(np.float32).round(6)
    due: dict[int, int] = {}  # the earliest place of each item
    start = 0
    for back, budget in enumerate(budgets):
        anchor = history[-1 - back] if back < len(history) else None
        reached = {anchor}
        ring = [] if anchor is None else [anchor]
        for step, size in enumerate(budget):
            ring = [j for j in range(N) if j not in reached and any(counts[i, j] for i in ring)]
            reached |= set(ring)

            def key(j: int, anchor: int | None = anchor, step: int = step) -> tuple[float, ...]:
                like = cosine[anchor, j]
                if step == 0:
                    row = np.log1p(counts[anchor])
                    like = like + np.float32(count_weight) * np.float32(row[j] / row.max())
                return (-like, -popular[j], j)

            listed = sorted((j for j in ring if j not in history), key=key)
            for p, j in enumerate(listed):
                slot = p // size * sum(map(sum, budgets)) + start + p % size
                due[j] = min(slot, due.get(j, slot))
            start += size
    last = cosine[history[-1]] if history else np.zeros(N)
    rest = [j for j in range(N) if j not in history and j not in due]
    return sorted(due, key=due.__getitem__) + sorted(rest, key=lambda j: (-last[j], -popular[j], j))


def test_one_anchor_by_hand() -> None:
    """0 leads to 1 (three times), 2 and 3; 1 leads to 4, 4 to 5. Item 6 is alone.

    Ring 1, cosine + 0.5 * log(1 + count) / log(4): 1: 0 + .5; 2: .5 + .25; 3: .866 + .25. So 3, 2, 1;
    ring 2: 4; ring 3: 5. Two places of a block are ring 1's: 3, 2, then 4, then 5; the next block: 1.
    """
    train = [[0, 1, 4, 5], [0, 1], [0, 1], [0, 2], [0, 3]]
    text = angles(0, 90, 60, 30, 10, 20, 5)
    made = Graph(budgets=[[2, 1, 1]]).fit(train, num_items=7, features={"text": text})
    lists = made.recommend([[0]], k=7)
    assert lists.items.tolist() == [[3, 2, 4, 5, 1, 6, -1]]
    scores = [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, np.cos(np.radians(5)) - 1, -np.inf]
    np.testing.assert_allclose(lists.scores[0], scores, atol=2e-6)
    kept = made.recommend([[0]], k=7, exclude_seen=False)
    assert kept.items.tolist() == [
        [3, 2, 4, 5, 1, 0, 6]
    ]  # the anchor is in no ring, and most alike


def test_the_item_before_the_last_has_places_of_its_own() -> None:
    """0 leads to 2 and 3, 1 to 3, 4 and 5; the history ends in 0, then 1.

    Each block: two from 1, one from 0. 1: 3, 4, 5 by cosine. 0: 2, then 3, which 1 has placed already.
    """
    train = [[0, 2], [0, 3], [1, 3], [1, 4], [1, 5]]
    text = angles(0, 0, 10, 20, 30, 40)
    made = Graph(budgets=[[2], [1]]).fit(train, num_items=6, features={"text": text})
    lists = made.recommend([[0, 1], [1]], k=4)
    assert lists.items.tolist() == [[3, 4, 2, 5], [3, 4, 5, 0]]
    np.testing.assert_allclose(lists.scores[0], [1, 1 / 2, 1 / 3, 1 / 4])
    # A history of one item leaves the places of the one before it empty.
    np.testing.assert_allclose(lists.scores[1], [1, 1 / 2, 1 / 4, 0], atol=1e-6)


def test_without_views_counts_decide_then_popularity() -> None:
    train = [[0, 1], [0, 2], [0, 2], [1, 3], [2, 4], [4], [4], [5], [5], [5]]
    made = Graph(budgets=[[7, 2, 1]]).fit(train, num_items=7)
    assert made.vectors_.shape == (7, 0)
    assert made.recommend([[0]], k=6).items.tolist() == [[2, 1, 4, 3, 5, 6]]


def test_without_a_history_it_is_popularity() -> None:
    train = [[4, 1], [4, 2], [5]]
    text = angles(*range(7))
    lists = Graph().fit(train, num_items=7, features={"text": text}).recommend([[]], k=7)
    popular = Popular().fit(train, num_items=7).recommend([[]], k=7)
    assert lists.items.tolist() == popular.items.tolist()


def test_views_stand_side_by_side_and_items_may_lack_one() -> None:
    """Text alone says item 1, pictures alone item 2; item 3 has no picture, item 4 nothing at all."""
    views = {"text": angles(0, 10, 80, 20, 0), "image": angles(0, 80, 5, 0, 0)}
    views["image"][3] = views["text"][4] = views["image"][4] = 0
    for names, order in {
        ("text",): [1, 3, 2, 4],
        ("image",): [2, 1, 3, 4],
        # 3: cos 20 / sqrt 2 = .66; 2: (cos 80 + cos 5) / 2 = .585; 1: (cos 10 + cos 80) / 2 = .579
        ("text", "image"): [3, 2, 1, 4],
    }.items():
        given = {name: views[name] for name in names}
        lists = Graph().fit([], num_items=5, features=given).recommend([[0]], k=4)
        assert lists.items.tolist() == [order], names


@settings(max_examples=100, deadline=None)
@given(
    SEQUENCES,
    SEQUENCES,
    BUDGETS,
    st.integers(1, N + 2),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.integers(0, 5),
)
def test_graph_is_a_walk(
    train: list[list[int]],
    histories: list[list[int]],
    budgets: list[list[int]],
    k: int,
    count_weight: float,
    seed: int,
) -> None:
    # Few different vectors, some of them zeros: ties are the rule.
    vectors = np.random.default_rng(seed).integers(-1, 2, size=(N, 2)).astype(np.float32)
    made = Graph(budgets=budgets, count_weight=count_weight)
    made.fit(train, num_items=N, features={"text": vectors})
    found = made.recommend(histories, k=k).items.tolist()
    for history, items in zip(histories, found, strict=True):
        best = expected(train, history, budgets, vectors, count_weight)[:k]
        assert items == best + [-1] * (k - len(best))


def test_blocks_and_their_size_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = [rng.integers(0, N, size=5) for _ in range(30)]
    text = rng.normal(size=(N, 33)).astype(np.float32)
    text[4] = text[7]  # equal vectors tie, however they are multiplied
    made = Graph(budgets=[[2, 1], [1, 1]]).fit(train, num_items=N, features={"text": text})
    whole = made.recommend(train, k=N)
    monkeypatch.setattr(sequences, "_MAX_CELLS", N)
    alone = made.recommend(train, k=N)
    np.testing.assert_array_equal(whole.items, alone.items)
    np.testing.assert_array_equal(whole.scores, alone.scores)


def test_a_long_list_begins_like_a_short_one() -> None:
    rng = np.random.default_rng(1)
    train = [rng.integers(0, 40, size=8) for _ in range(60)]
    text = rng.normal(size=(40, 5)).astype(np.float32)
    made = Graph(budgets=[[5, 1], [3, 1]]).fit(train, num_items=40, features={"text": text})
    short, long = made.recommend(train, k=7), made.recommend(train, k=40)
    np.testing.assert_array_equal(short.items, long.items[:, :7])
    np.testing.assert_array_equal(short.scores, long.scores[:, :7])


def test_it_takes_the_text_or_what_else_there_is() -> None:
    assert GraphSettings().wanted_views(("image", "text", "behaviour")) == ("text",)
    assert GraphSettings().wanted_views(("image", "joint")) == ("joint",)
    assert GraphSettings().wanted_views(("image", "behaviour")) == ("image",)
    assert GraphSettings().wanted_views(("behaviour",)) == ()
    assert GraphSettings(views=("behaviour",)).wanted_views(("text",)) == ("behaviour",)
    assert GraphSettings(views=()).reads == ("prepare",)


@pytest.mark.parametrize("budgets", [[], [[]], [[7, 0]], [[5, 1], []]])
def test_budgets_without_a_place_are_refused(budgets: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="budgets"):
        Graph(budgets=budgets)


def test_views_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features\['text'\] has the shape \(2, 2\)"):
        Graph().fit([[0, 1]], num_items=3, features={"text": angles(0, 1)})


def test_on_a_dataset_with_and_without_views() -> None:
    data = Dataset.demo(items=40, users=60)
    views = {"text": np.random.default_rng(0).normal(size=(data.num_items, 4))}
    plain = DatasetRetriever("graph").fit(data).recommend(k=5)
    with_views = DatasetRetriever("graph").fit(data, views=views).recommend(k=5)
    assert plain.shape == with_views.shape == (5 * len(data.user_ids), 4)
    assert not plain["item_id"].equals(with_views["item_id"])
