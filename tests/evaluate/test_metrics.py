"""Metrics with the arithmetic written out, then against every order of every tie."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import schema
from genrec.evaluate import coverage, evaluate, per_user

LOG3 = math.log2(3)  # the discount of place 2


def recommendations(rows: Iterable[tuple[int, int, int]]) -> pl.DataFrame:
    """(user, item, rank) rows; the score falls with the rank."""
    return pl.DataFrame(
        [(user, item, -float(rank or 0), rank) for user, item, rank in rows],
        schema=dict(schema.RECOMMENDATIONS),
        orient="row",
    )


def split_table(rows: Iterable[tuple[int, list[int], int]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(schema.SPLIT), orient="row")


def one_user(items_and_ranks: list[tuple[int, int]], target: int, ks: tuple[int, ...]) -> dict:
    table = recommendations((0, item, rank) for item, rank in items_and_ranks)
    row = per_user(table, split_table([(0, [], target)]), num_items=100, ks=ks)
    return row.drop("user").row(0, named=True)


# --- by hand ----------------------------------------------------------------------------------


def test_a_hit_on_place_three() -> None:
    found = one_user([(7, 1), (8, 2), (9, 3), (6, 4)], target=9, ks=(2, 3, 10))
    assert found == pytest.approx(
        {
            "recall@2": 0,
            "recall@3": 1,
            "recall@10": 1,
            "ndcg@2": 0,
            "ndcg@3": 1 / 2,  # 1 / log2(3 + 1)
            "ndcg@10": 1 / 2,
            "mrr@2": 0,
            "mrr@3": 1 / 3,
            "mrr@10": 1 / 3,
            "invalid_rate@2": 0,
            "invalid_rate@3": 0,
            "invalid_rate@10": 6 / 10,  # four of ten places hold an item
        }
    )


def test_a_tie_is_the_mean_over_its_places() -> None:
    """The target shares rank 2 with two others: place 2, 3 or 4, one third each."""
    found = one_user([(7, 1), (8, 2), (9, 2), (6, 2), (5, 5)], target=9, ks=(1, 2, 3, 5))
    expected = {
        "recall@1": 0,
        "recall@2": 1 / 3,
        "recall@3": 2 / 3,
        "recall@5": 1,
        "ndcg@1": 0,
        "ndcg@2": (1 / LOG3) / 3,
        "ndcg@3": (1 / LOG3 + 1 / 2) / 3,
        "ndcg@5": (1 / LOG3 + 1 / 2 + 1 / math.log2(5)) / 3,
        "mrr@1": 0,
        "mrr@2": (1 / 2) / 3,
        "mrr@3": (1 / 2 + 1 / 3) / 3,
        "mrr@5": (1 / 2 + 1 / 3 + 1 / 4) / 3,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_miss_an_absent_user_and_an_invalid_item() -> None:
    table = recommendations([(0, 1, 1), (0, 2, 2), (2, -1, 1), (2, 3, 2), (9, 3, 1)])
    targets = split_table([(2, [], 3), (0, [], 5), (1, [], 1)])
    found = per_user(table, targets, num_items=10, ks=(2,))
    assert found["user"].to_list() == [2, 0, 1]
    assert found["recall@2"].to_list() == [1, 0, 0]
    assert found["mrr@2"].to_list() == [1 / 2, 0, 0]  # the invalid item keeps its place
    assert found["invalid_rate@2"].to_list() == [1 / 2, 0, 1]


def test_an_item_outside_the_catalogue_is_invalid() -> None:
    table = recommendations([(0, 9, 1), (0, 10, 2)])
    found = per_user(table, split_table([(0, [], 9)]), num_items=10, ks=(2,))
    assert found["invalid_rate@2"].to_list() == [1 / 2]


def test_coverage_counts_items_of_evaluated_users() -> None:
    """Top 2 of users 0 and 1: items 1, 2, 3, of a catalogue of 10; user 9 is not evaluated."""
    table = recommendations([(0, 1, 1), (0, 2, 2), (0, 5, 3), (1, 1, 1), (1, 3, 2), (9, 4, 1)])
    targets = split_table([(0, [], 1), (1, [], 1)])
    assert coverage(table, targets, num_items=10, ks=(1, 2, 3)) == {1: 0.1, 2: 0.3, 3: 0.4}


def test_coverage_of_a_tie_is_the_expected_number_of_items() -> None:
    """User 0's top 1 is item 1 or 2, user 1's is item 1 or 3: item 1 stays out of both with
    chance 1/4. Expected: 3/4 + 1/2 + 1/2 = 1.75 items of 10."""
    table = recommendations([(0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 3, 1)])
    targets = split_table([(0, [], 1), (1, [], 1)])
    assert coverage(table, targets, num_items=10, ks=(1,)) == pytest.approx({1: 0.175})


# --- against every order of every tie ---------------------------------------------------------


@st.composite
def tied_lists(draw: st.DrawFn) -> list[tuple[int, int]]:
    sizes = draw(st.lists(st.integers(1, 3), max_size=4))
    items = draw(st.permutations(range(12)))
    first = np.cumsum([1, *sizes])
    ranks = [int(r) for r, size in zip(first, sizes, strict=False) for _ in range(size)]
    return list(zip(items, ranks, strict=False))


@settings(max_examples=80, deadline=None)
@given(tied_lists(), st.integers(0, 11), st.integers(1, 6))
def test_equals_the_mean_over_all_orders(
    listed: list[tuple[int, int]], target: int, k: int
) -> None:
    groups = [[i for i, _ in g] for _, g in itertools.groupby(listed, key=lambda pair: pair[1])]
    totals = {"recall": 0.0, "ndcg": 0.0, "mrr": 0.0}
    orders = list(itertools.product(*(list(itertools.permutations(g)) for g in groups)))
    for order in orders:
        top = [item for group in order for item in group][:k]
        if target in top:
            place = top.index(target) + 1
            totals["recall"] += 1 / len(orders)
            totals["ndcg"] += 1 / math.log2(place + 1) / len(orders)
            totals["mrr"] += 1 / place / len(orders)
    found = one_user(listed, target, ks=(k, 20))
    assert {m: found[f"{m}@{k}"] for m in totals} == pytest.approx(totals)
    assert found[f"invalid_rate@{k}"] == pytest.approx(1 - min(k, len(listed)) / k)


# --- evaluate ---------------------------------------------------------------------------------


@pytest.fixture
def targets() -> pl.DataFrame:
    return split_table([(user, [90 + user], user) for user in range(8)])


@pytest.fixture
def systems() -> dict[str, pl.DataFrame]:
    """Target on place 1 for users 0-3 ("generative"), 0-1 ("popular") and nobody ("other")."""

    def hits(users: range) -> pl.DataFrame:
        return recommendations((u, u if u in users else 50 + u, 1) for u in range(8))

    return {"generative": hits(range(4)), "popular": hits(range(2)), "other": hits(range(0))}


def find(rows: list[dict], **wanted: object) -> dict:
    (row,) = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
    return row


def test_rows_follow_the_contract(systems: dict, targets: pl.DataFrame) -> None:
    found = evaluate(
        systems, targets, split="test", num_items=100, ks=(1, 5), baselines=("popular",)
    )
    keys = ["system", "split", "metric", "k", "value", "low", "high", "users"]
    assert all(list(row) == keys for row in found["rows"])
    assert len(found["rows"]) == 3 * 5 * 2
    keys.insert(1, "baseline")
    assert all(list(row) == keys for row in found["differences"])
    assert {(d["system"], d["baseline"]) for d in found["differences"]} == {
        ("generative", "popular"),
        ("other", "popular"),
    }
    recall = find(found["rows"], system="generative", metric="recall", k=1)
    assert (recall["value"], recall["users"], recall["split"]) == (0.5, 8, "test")
    assert 0 < recall["low"] < 0.5 < recall["high"] < 1
    gain = find(found["differences"], system="generative", metric="ndcg", k=5)
    assert gain["value"] == 0.25  # users 2 and 3 of 8
    assert gain["low"] == 0 < gain["high"]
    covered = find(found["rows"], system="generative", metric="coverage", k=1)
    assert (covered["value"], covered["low"], covered["high"]) == (0.08, None, None)
    invalid = find(found["rows"], system="popular", metric="invalid_rate", k=5)
    assert (invalid["value"], invalid["low"], invalid["high"]) == (0.8, 0.8, 0.8)
    assert found["seen_items"] == "masked"
    assert found["targets_in_history"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    """Two systems that agree on 90 of 100 users: pairing removes what the users have in common."""
    targets = split_table([(u, [], u) for u in range(100)])

    def hits(users: range) -> pl.DataFrame:
        return recommendations((u, u, 1) for u in users)

    systems = {"a": hits(range(50)), "popular": hits(range(40))}
    found = evaluate(systems, targets, split="test", num_items=100, ks=(1,), baselines=("popular",))
    a = find(found["rows"], system="a", metric="recall")
    gain = find(found["differences"], system="a", metric="recall")
    assert gain["high"] - gain["low"] < (a["high"] - a["low"]) * 0.8
    assert gain["low"] > 0


def test_same_seed_same_bytes(systems: dict, targets: pl.DataFrame) -> None:
    def text(seed: int) -> str:
        return json.dumps(
            evaluate(
                systems,
                targets,
                split="test",
                num_items=100,
                baselines=("popular",),
                samples=200,
                seed=seed,
            )["rows"]
        )

    assert text(0) == text(0) != text(1)


def test_seen_items(systems: dict, targets: pl.DataFrame) -> None:
    systems["generative"] = recommendations([(3, 93, 1)])  # 93 is in user 3's history
    call = {"split": "test", "num_items": 100, "baselines": (), "samples": 10}
    with pytest.raises(ValueError, match=r"generative: 1 .*\(user 3, item 93\)"):
        evaluate(systems, targets, **call)
    assert evaluate(systems, targets, **call, seen_items="kept")["seen_items"] == "kept"
    repeat = split_table([(0, [5, 6], 5), (1, [5], 6)])
    assert evaluate({"x": recommendations([])}, repeat, **call)["targets_in_history"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 5, 2)], "user 0, item 5 has rank 2, expected 1"),
        ([(0, 5, 1), (0, 6, 1), (0, 7, 2)], "rank 2, expected 3"),
        ([(0, 5, 1), (0, 5, 2)], "item 5 twice"),
        ([(0, 5, None)], "item 5 has rank None"),
    ],
)
def test_malformed_tables_are_refused(rows: list, message: str, targets: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match=f"mine: .*{message}"):
        per_user(recommendations(rows), targets, num_items=100, where="mine")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("measure", [per_user, coverage])
def test_a_score_that_is_no_number_is_refused(score: float, measure: Any) -> None:
    rows = [(7, 4, 1.0, 1), (7, 5, score, 2)]
    table = pl.DataFrame(rows, schema=dict(schema.RECOMMENDATIONS), orient="row")
    truth = split_table([(7, [], 4)])
    with pytest.raises(
        ValueError, match=r"user 7, item 5 has score \S+ \(row 2; 1 .*a finite number"
    ):
        measure(table, truth, num_items=10)
    with pytest.raises(ValueError, match="mine: user 7, item 5 has score"):
        evaluate({"mine": table}, truth, split="test", num_items=10, baselines=())


def test_a_place_without_an_item_may_score_minus_infinity() -> None:
    rows = [(7, 4, 1.0, 1), (7, -1, -math.inf, 2), (7, -1, -math.inf, 3)]
    table = pl.DataFrame(rows, schema=dict(schema.RECOMMENDATIONS), orient="row")
    found = per_user(table, split_table([(7, [], 4)]), num_items=10, ks=(3,))
    assert found["recall@3"].to_list() == [1]
    assert found["invalid_rate@3"].to_list() == pytest.approx([2 / 3])
    with pytest.raises(ValueError, match="item -1 has score nan"):
        per_user(
            table.with_columns(score=pl.lit(math.nan, pl.Float32))
            .tail(1)
            .with_columns(rank=pl.lit(1, pl.Int32)),
            split_table([(7, [], 4)]),
            num_items=10,
        )


@pytest.mark.parametrize("num_items", [0, -1])
@pytest.mark.parametrize("measure", [per_user, coverage])
def test_a_catalogue_of_no_items_is_refused(num_items: int, measure: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"num_items is {num_items}; expected the number of items"
    ):
        measure(recommendations([]), split_table([(7, [], 0)]), num_items=num_items)
    with pytest.raises(
        ValueError, match=rf"num_items is {num_items}; expected the number of items"
    ):
        evaluate({"x": recommendations([])}, split_table([(7, [], 0)]), split="test",
                 num_items=num_items, baselines=())  # fmt: skip


@pytest.mark.parametrize("target", [10, -1, None])
def test_a_target_outside_of_the_catalogue_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=rf"targets: user 7 has the target {target}; .* 0 to 9"):
        per_user(recommendations([]), split_table([(7, [], target)]), num_items=10)


def test_bad_arguments_are_refused(systems: dict, targets: pl.DataFrame) -> None:
    call = {"split": "test", "num_items": 100}
    with pytest.raises(ValueError, match=r"baselines \['cooccurrence'\] .* retrieve"):
        evaluate(systems, targets, **call)
    with pytest.raises(ValueError, match="no users"):
        evaluate(systems, targets.clear(), **call, baselines=())
    with pytest.raises(ValueError, match="user stands twice"):
        evaluate(systems, pl.concat([targets, targets]), **call, baselines=())
    with pytest.raises(ValueError, match="ks is"):
        evaluate(systems, targets, **call, baselines=(), ks=(0,))
    with pytest.raises(ValueError, match="ks is"):
        coverage(systems["other"], targets, num_items=100, ks=(0,))
    with pytest.raises(ValueError, match="samples is 0"):
        evaluate(systems, targets, **call, baselines=(), samples=0)
    with pytest.raises(ValueError, match="column 'rank' is missing"):
        evaluate({"x": systems["other"].drop("rank")}, targets, **call, baselines=())
