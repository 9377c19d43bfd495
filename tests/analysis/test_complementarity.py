"""Complementarity: one table by hand, then brute force over sets on random tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import schema
from genrec.analysis.complementarity import diagnose, plot_complementarity


def recommendations(lists: dict[int, list[int]]) -> pl.DataFrame:
    rows = [
        {"user": u, "item": i, "score": -float(p), "rank": p}
        for u, items in lists.items()
        for p, i in enumerate(items, start=1)
    ]
    return pl.DataFrame(rows, schema=dict(schema.RECOMMENDATIONS))


def split(pairs: list[tuple[int, int]]) -> pl.DataFrame:
    rows = [{"user": u, "history": [], "target": i} for u, i in pairs]
    return pl.DataFrame(rows, schema=dict(schema.SPLIT))


def test_by_hand() -> None:
    # Popularity 1..10 of items 0..9: bounds 6.4 and 8.2, so cold 0..5, mid 6 and 7, hot 8 and 9.
    targets = split([(0, 0), (1, 6), (2, 9), (4, 1)])
    a = recommendations({0: [0, 1], 1: [5, 6], 2: [3, 4], 9: [1, 2]})  # hits users 0, 1
    b = recommendations({0: [1, 0], 1: [5, 7], 2: [9, 3], 4: [2, 3]})  # hits users 0, 2
    found = diagnose({"a": a, "b": b}, targets, np.arange(1, 11), [3, 1, 7, 99, 0], k=2)
    assert (found["k"], found["users"], found["targets"]) == (2, 4, 4)
    assert found["strata"]["bounds"] == pytest.approx([6.4, 8.2])
    assert found["strata"]["items"] == {"cold": 6, "mid": 2, "hot": 2}
    second = 1 / np.log2(3)
    assert found["systems"]["a"]["recall"] == 0.5
    assert found["systems"]["a"]["strata"] == {
        "cold": {"users": 2, "recall": 0.5, "ndcg": 0.5},
        "mid": {"users": 1, "recall": 1.0, "ndcg": pytest.approx(second, abs=1e-6)},
        "hot": {"users": 1, "recall": 0.0, "ndcg": 0.0},
    }
    assert found["systems"]["b"]["strata"]["cold"]["ndcg"] == pytest.approx(second / 2, abs=1e-6)
    (pair,) = found["pairs"]
    third = pytest.approx(1 / 3, abs=1e-6)
    assert pair["overlap"] == pytest.approx((1 + 1 / 3 + 1 / 3 + 0) / 4, abs=1e-6)
    assert pair["hits"] == {
        "all": 3,
        "common": third,
        "unique_a": third,
        "unique_b": third,
        "complementary": pytest.approx(2 / 3, abs=1e-6),
    }
    assert pair["users"] == {
        name: {"share": 0.25, "log_length": pytest.approx(np.log(1 + n), abs=1e-6)}
        for name, n in (("both", 3), ("only_a", 1), ("only_b", 7), ("none", 0))
    }
    assert pair["items"] == {
        name: pytest.approx(np.log(1 + n), abs=1e-6)
        for name, n in (("common", 1), ("unique_a", 7), ("unique_b", 10))
    }
    assert pair["oracle"] == 0.75
    assert pair["oracle_strata"] == {"cold": 0.5, "mid": 1.0, "hot": 1.0}


ITEMS, USERS, K = 9, 5, 3
LISTS = st.fixed_dictionaries(  # from none to one beyond the cut-off
    {u: st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=4) for u in range(USERS)}
)
TRUTHS = st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), min_size=1)


def mean(values: Any) -> Any:
    values = list(values)
    return pytest.approx(sum(values) / len(values), abs=2e-6) if values else None


@settings(max_examples=60, deadline=None)
@given(LISTS, LISTS, TRUTHS)
def test_as_the_definitions_with_sets(
    a: dict[int, list[int]], b: dict[int, list[int]], truths: set[tuple[int, int]]
) -> None:
    popularity, lengths = np.array([0, 5, 1, 1, 9, 2, 2, 40, 3]), np.array([0, 3, 8, 1, 2])
    tables = {"a": recommendations(a), "b": recommendations(b)}
    found = diagnose(tables, split(sorted(truths)), popularity, lengths, k=K)
    pair = found["pairs"][0]
    t = {u: {i for v, i in truths if v == u} for u in range(USERS)}
    users = [u for u in range(USERS) if t[u]]
    top_a, top_b = ({u: set(x[u][:K]) for u in users} for x in (a, b))
    assert pair["overlap"] == mean(
        len(top_a[u] & top_b[u]) / max(1, len(top_a[u] | top_b[u])) for u in users
    )
    h_a, h_b = ({(u, i) for u in users for i in x[u] & t[u]} for x in (top_a, top_b))
    assert pair["hits"]["all"] == len(h_a | h_b)
    parts = {"common": h_a & h_b, "unique_a": h_a - h_b, "unique_b": h_b - h_a}
    for name, hits in parts.items():
        if h_a | h_b:
            assert pair["hits"][name] == pytest.approx(len(hits) / len(h_a | h_b), abs=2e-6)
        else:
            assert pair["hits"][name] is None
        assert pair["items"][name] == mean(np.log1p(popularity[i]) for _, i in hits)
    by_a, by_b = {u for u, _ in h_a}, {u for u, _ in h_b}
    groups = {"both": by_a & by_b, "only_a": by_a - by_b, "only_b": by_b - by_a}
    groups["none"] = set(users) - by_a - by_b
    for name, group in groups.items():
        assert pair["users"][name]["share"] == pytest.approx(len(group) / len(users), abs=2e-6)
        assert pair["users"][name]["log_length"] == mean(np.log1p(lengths[u]) for u in group)
    assert pair["oracle"] == mean(len((top_a[u] | top_b[u]) & t[u]) / len(t[u]) for u in users)
    low, high = np.quantile(popularity[popularity > 0], [0.6, 0.8])
    stratum = {
        "cold": {i for i in range(ITEMS) if popularity[i] <= low},
        "mid": {i for i in range(ITEMS) if low < popularity[i] <= high},
        "hot": {i for i in range(ITEMS) if popularity[i] > high},
    }
    for name, items in stratum.items():
        within = {u: t[u] & items for u in users if t[u] & items}
        assert pair["oracle_strata"][name] == mean(
            len((top_a[u] | top_b[u]) & x) / len(x) for u, x in within.items()
        )
        for system, lists, top in (("a", a, top_a), ("b", b, top_b)):
            one = found["systems"][system]["strata"][name]
            assert one["users"] == len(within)
            assert one["recall"] == mean(len(top[u] & x) / len(x) for u, x in within.items())
            gains = (
                sum(1 / np.log2(p + 2) for p, i in enumerate(lists[u][:K]) if i in x)
                / sum(1 / np.log2(p + 2) for p in range(min(len(x), K)))
                for u, x in within.items()
            )
            assert one["ndcg"] == mean(gains)
    json.dumps(found)


def test_every_pair_ties_invalid_items_and_no_hits() -> None:
    tied = recommendations({0: [4, 2, 3]}).with_columns(rank=pl.Series([1, 2, 2], dtype=pl.Int32))
    invalid = recommendations({0: [-1, 2, 3]})  # the first place is lost
    none = recommendations({})
    tables = {"tied": tied, "invalid": invalid, "none": none}
    found = diagnose(tables, split([(0, 2)]), np.arange(6), [1], k=2)
    assert [(p["a"], p["b"]) for p in found["pairs"]] == [
        *(("tied", "invalid"), ("tied", "none")),
        ("invalid", "none"),
    ]
    assert found["systems"]["tied"]["recall"] == 1
    assert found["pairs"][0]["overlap"] == 0.5  # {4, 2} and {2}
    assert found["pairs"][2]["overlap"] == 0
    missed = diagnose(tables, split([(0, 5)]), np.arange(6), [1], k=2)["pairs"][0]
    assert missed["hits"] == {
        "all": 0,
        **dict.fromkeys(("common", "unique_a", "unique_b", "complementary")),
    }


def test_plots_are_drawn_and_the_same_twice(tmp_path: Path) -> None:
    tables = {n: recommendations({0: [i, 4, 3]}) for i, n in enumerate(("a", "b", "c"))}
    found = diagnose(tables, split([(0, 1)]), np.arange(1, 7), [4], k=3)
    first = plot_complementarity(json.loads(json.dumps(found)), tmp_path / "one")
    second = plot_complementarity(found, tmp_path / "two")
    assert [p.name for p in first] == ["overlap.png", "hits.png"]
    for x, y in zip(first, second, strict=True):
        assert x.read_bytes() == y.read_bytes()
        assert x.read_bytes().startswith(b"\x89PNG")


def test_bad_input() -> None:
    one, truth = recommendations({0: [1]}), split([(0, 1)])
    unranked = one.with_columns(rank=pl.lit(None, pl.Int32))
    unscored = one.with_columns(score=pl.lit(np.nan, pl.Float32))
    for tables, targets, popularity, lengths, k, message in (
        ({"a": one}, truth, [1, 2], [1], 2, "expected two systems"),
        ({"a": one, "b": one}, truth, [1, 2], [1], 0, "k=0"),
        ({"a": one, "b": one}, split([]), [1, 2], [1], 2, "no users"),
        ({"a": one, "b": one}, truth, [1], [1], 2, "items 1..1; popularity has 1"),
        ({"a": one, "b": one}, truth, [1, 2], [], 2, "users 0..0; history_lengths has 0"),
        ({"a": one, "b": one}, truth, [0, 0], [1], 2, "no item has an interaction"),
        ({"a": one, "b": one}, truth, [1, -2], [1], 2, "popularity is int64"),
        ({"a": one, "b": one}, truth, [1, np.nan], [1], 2, "popularity is float64"),
        ({"a": one, "b": one}, truth, [1, 2], [[1]], 2, "history_lengths is int64"),
        ({"a": one, "b": unranked}, truth, [1, 2], [1], 2, "b: user 0, item 1 has rank None"),
        ({"a": one, "b": unscored}, truth, [1, 2], [1], 2, "b: user 0, item 1 has score nan"),
        ({"a": one, "b": one.drop("rank")}, truth, [1, 2], [1], 2, "b: column 'rank'"),
        ({"a": one, "b": recommendations({0: [1, 1]})}, truth, [1, 2], [1], 2, "b: user 0 has"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnose(tables, targets, popularity, lengths, k=k)
