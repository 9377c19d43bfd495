"""Numbering, filters, groups and splits; logs without times."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import Pipeline, schema
from genrec.data import (
    ColdItems,
    ColdUsers,
    ItemFile,
    LogFile,
    RandomOut,
    RawData,
    Temporal,
    k_core,
    prepare,
    read_files,
    read_recbole,
    sid_array,
)
from genrec.data.source import RAW_GROUPS, RAW_INTERACTIONS, RAW_ITEMS
from genrec.schema import GROUPS

Rows = list[tuple[str, str, int]]


def raw(rows: Rows, item_ids: str = "abcdef", **more: Any) -> RawData:
    items = [(i, f"title {i}", "", None) for i in item_ids]
    return RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row"),
        **more,
    )


# z comes first in the file; its times are out of order and two are equal (c before a: file order).
ROWS = [
    *(("z", "b", 30), ("y", "a", 1), ("z", "c", 10), ("z", "a", 10), ("y", "d", 2)),
    *(("z", "f", 40), ("y", "b", 3)),
]


def test_tables_by_hand() -> None:
    done = prepare(raw(ROWS), core=0)
    assert done.items["item_id"].to_list() == list("abcdef")
    assert done.users.rows() == [(0, "z"), (1, "y")]
    assert done.interactions.rows() == [
        *((0, 2, 10, "train"), (0, 0, 10, "train"), (0, 1, 30, "valid"), (0, 5, 40, "test")),
        *((1, 0, 1, "train"), (1, 3, 2, "valid"), (1, 1, 3, "test")),
    ]
    assert done.train.rows() == [(0, [2], 0), (1, [], 0)]
    assert done.valid.rows() == [(0, [2, 0], 1), (1, [0], 3)]
    assert done.test.rows() == [(0, [2, 0, 1], 5), (1, [0, 3], 1)]
    assert done.sids is None
    for table, columns in (
        (done.items, schema.ITEMS),
        (done.users, schema.USERS),
        (done.interactions, schema.INTERACTIONS),
        (done.train, schema.SPLIT),
    ):
        schema.check(table, columns, "test")


def test_stats_by_hand() -> None:
    stats = prepare(raw(ROWS, times="order"), core=0).stats
    # Training rows: z takes c and a, y takes a. Test targets f and b are both unseen in them.
    assert stats == {
        "items": 6,
        "users": 2,
        "interactions": 7,
        "density": 7 / 12,
        "length_mean": 3.5,
        "length_median": 3.5,
        "length_max": 4,
        "repeats": 0.0,
        "items_with_image": 0,
        "image_share": 0.0,
        "items_without_description": 6,
        "items_unseen_in_train": 4,
        "valid_targets_unseen_in_train": 1.0,
        "test_targets_unseen_in_train": 1.0,
        "valid_targets_in_history": 0.0,
        "test_targets_in_history": 0.0,
        # Items have 0, 1, 1, 1, 2, 2: Gini (-3 - 1 + 1 + 6 + 10) / (6 * 7).
        "popularity": {
            "gini": 13 / 42,
            "top_1_percent": 2 / 7,
            "top_10_percent": 2 / 7,
            "top_20_percent": 2 / 7,
            "items_with_one_interaction": 3,
        },
        "title_characters": {"median": 7.0, "p95": 7.0, "max": 7},
        "description_characters": {"median": 0.0, "p95": 0.0, "max": 0},
        "time": {"first": 1, "last": 40, "unit": "order", "equal_neighbours": 1},
        "split": {"kind": "last_out"},
        "users_in": {"train": 2, "valid": 2, "test": 2},
        "dropped": {},
    }


def test_repeats() -> None:
    rows = [("u", "a", 5), ("u", "b", 1), ("u", "a", 2), ("u", "c", 3), ("u", "b", 9)]
    dropped = prepare(raw(rows), core=0)  # in time: b1 a2 c3 (a5) (b9)
    assert dropped.test.rows() == [(0, [1, 0], 2)]
    assert dropped.stats["dropped"] == {"repeated_interaction": 2}
    kept = prepare(raw(rows), core=0, repeats="keep")
    assert kept.test.rows() == [(0, [1, 0, 2, 0], 1)]
    assert kept.stats["test_targets_in_history"] == 1.0


def test_users_too_short_are_dropped_and_counted() -> None:
    rows = [*ROWS, ("one", "a", 1), ("two", "a", 1), ("two", "b", 2)]
    done = prepare(raw(rows), core=0)
    assert done.users["user_id"].to_list() == ["z", "y"]
    assert done.stats["dropped"] == {"user_too_short": 2, "interaction_of_user_too_short": 3}


def test_catalogue_shrinks_with_a_core_only() -> None:
    rows = [(u, i, t) for u in "uvw" for t, i in enumerate("abc")] + [("u", "d", 9)]
    for core in (0, 1):
        assert len(prepare(raw(rows), core=core).items) == 6
    done = prepare(raw(rows), core=2)
    assert done.items["item_id"].to_list() == ["a", "b", "c"]
    assert done.stats["dropped"] == {
        "interaction_outside_core": 1,
        "item_outside_core": 1,
        "item_never_interacted_with": 2,
    }


def test_a_core_below_three_still_leaves_users_that_can_be_split() -> None:
    rows = [(u, i, t) for u in "uv" for t, i in enumerate("abc")]
    rows += [("w", "a", 1), ("w", "b", 2), ("w", "f", 3)]  # f goes, then w has two left
    assert prepare(raw(rows), core=2).users["user_id"].to_list() == ["u", "v"]


def test_nothing_left() -> None:
    with pytest.raises(ValueError, match=r"nothing is left of 7 .* 5-core; lower prepare.core"):
        prepare(raw(ROWS), core=5)
    with pytest.raises(ValueError, match="no user has 3 interactions"):
        prepare(raw(ROWS[:3]), core=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"core": -1}, "prepare.core: found -1"),
        ({"repeats": "merge"}, "prepare.repeats: found 'merge'"),
        ({"on_bad": "skip"}, "prepare.on_bad: found 'skip'"),
    ],
)
def test_bad_settings(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        prepare(raw(ROWS), **options)


def test_hand_made_data_is_judged_too() -> None:
    rows = [*ROWS, ("z", "nowhere", 1)]
    with pytest.raises(ValueError, match="item_id 'nowhere'"):
        prepare(raw(rows), core=0)
    done = prepare(raw(rows, dropped={"empty_title": 4}), core=0, on_bad="drop")
    assert done.stats["dropped"] == {"empty_title": 4, "unknown_item": 1}


def test_extra_columns_of_items_stay_and_of_the_log_go() -> None:
    data = raw(ROWS)
    data = RawData(
        data.items.with_columns(brand=pl.lit("x")),
        data.interactions.with_columns(item=pl.lit(0), order=pl.lit(1), user=pl.lit(3)),
    )
    done = prepare(data, core=0)
    assert done.items.columns == ["item", *RAW_ITEMS, "brand"]
    assert done.test.equals(prepare(raw(ROWS), core=0).test)


def test_published_sids_in_dense_order() -> None:
    rows = [(u, i, t) for u in "uvw" for t, i in enumerate("fca")]
    sids = {item: (n, n + 10) for n, item in enumerate("abcdef")}
    done = prepare(raw(rows, sids=sids), core=3)
    assert done.items["item_id"].to_list() == ["a", "c", "f"]
    assert done.sids is not None
    assert done.sids.dtype == np.int32
    assert done.sids.tolist() == [[0, 10], [2, 12], [5, 15]]
    with pytest.raises(KeyError, match="1 items have no SID"):
        sid_array({"a": (1,), "c": (2,)}, done.items)


logs = st.lists(
    st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcdef"), st.integers(0, 5)), max_size=60
)


def slow_core(rows: list[tuple[str, str]], core: int) -> list[tuple[str, str]]:
    """Takes out one offender at a time; the largest core does not depend on the order."""
    while True:
        users, items = Counter(u for u, _ in rows), Counter(i for _, i in rows)
        low = [u for u in users if users[u] < core] + [i for i in items if items[i] < core]
        if not low:
            return rows
        rows = [(u, i) for u, i in rows if low[0] not in (u, i)]


@settings(max_examples=60, deadline=None)
@given(logs, st.integers(0, 4))
def test_k_core_is_the_largest(rows: Rows, core: int) -> None:
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    kept = k_core(log, core).select("user", "item").rows()
    assert kept == slow_core([(u, i) for u, i, _ in rows], core)


@settings(max_examples=60, deadline=None)
@given(logs, st.sampled_from(["drop", "keep"]))
def test_split_against_plain_python(rows: Rows, repeats: Any) -> None:
    sequences: dict[str, list[str]] = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        sequence = sequences.setdefault(user, [])
        if repeats == "keep" or item not in sequence:
            sequence.append(item)
    order = list(dict.fromkeys(user for user, _, _ in rows))
    expected = [[*map("abcdef".index, sequences[u])] for u in order if len(sequences[u]) > 2]
    if not expected:
        with pytest.raises(ValueError, match=r"no user has 3|no usable rows"):
            prepare(raw(rows), core=0, repeats=repeats)
        return
    done = prepare(raw(rows), core=0, repeats=repeats)
    assert done.train.rows() == [(u, s[:-3], s[-3]) for u, s in enumerate(expected)]
    assert done.valid.rows() == [(u, s[:-2], s[-2]) for u, s in enumerate(expected)]
    assert done.test.rows() == [(u, s[:-1], s[-1]) for u, s in enumerate(expected)]


CATALOGUE = pl.DataFrame([(i, f"title {i}", "", None) for i in "abcd"], RAW_ITEMS, orient="row")
LOG = [("z", "b", 1), ("y", "a", 1), ("z", "c", 2), ("z", "a", 3), ("y", "b", 2), ("x", "a", 1)]
LOG += [("y", "d", 3)]


def grouped(groups: list[tuple[str, str, str]] | None) -> RawData:
    log = pl.DataFrame(LOG, RAW_INTERACTIONS, orient="row")
    table = None if groups is None else pl.DataFrame(groups, RAW_GROUPS, orient="row")
    return RawData(CATALOGUE, log, groups=table)


def test_groups_get_the_numbers_of_users_and_items() -> None:
    groups = [
        ("y", "d", "late"),
        ("z", "c", "b"),
        ("z", "c", "a"),
        ("z", "c", "a"),
        ("x", "a", "a"),
    ]
    done = prepare(grouped(groups), core=0)
    assert done.users["user_id"].to_list() == ["z", "y"]  # x is too short
    assert done.groups is not None
    assert done.groups.schema == GROUPS
    assert done.groups.rows() == [(0, 2, "a"), (0, 2, "b"), (1, 3, "late")]


def test_a_source_without_groups() -> None:
    assert prepare(grouped(None), core=0).groups is None


def test_a_groups_table_that_does_not_fit() -> None:
    wrong = RawData(CATALOGUE, grouped(None).interactions, groups=pl.DataFrame({"user_id": ["z"]}))
    with pytest.raises(ValueError, match="groups: column 'item_id' is missing"):
        prepare(wrong, core=0)


USERS, ITEMS = 30, 40


def shop(folder: Path, rows: list[tuple[int, int]]) -> RawData:
    items = "".join(f"i{n:02},title {n}\n" for n in range(ITEMS))
    (folder / "items.csv").write_text("item_id,title\n" + items)
    log = "".join(f"u{user},i{item:02}\n" for user, item in rows)
    (folder / "log.csv").write_text("user_id,item_id\n" + log)
    return read_files(
        ItemFile(path=f"{folder}/items.csv"), LogFile(path=f"{folder}/log.csv", timestamp=None)
    )


# User by user, in an order that is none of the catalogue.
MIXED = [(user, (user * 7 + step * 11) % ITEMS) for user in range(USERS) for step in range(5)]


def test_the_card_says_no_times(tmp_path: Path) -> None:
    raw = shop(tmp_path, MIXED)
    assert raw.times == "none"
    stats = prepare(raw, core=0).stats
    assert stats["time"] == "no times"
    assert "1970" not in json.dumps(stats)
    assert "findings" not in stats


def test_of_recbole_too(tmp_path: Path) -> None:
    inter = "".join(f"u\ti{n}\n" for n in range(4))
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\n" + inter)
    item = "".join(f"i{n}\tt\n" for n in range(4))
    (tmp_path / "a.item").write_text("item_id:token\ttitle:token_seq\n" + item)
    raw = read_recbole(tmp_path / "a.inter", tmp_path / "a.item", timestamp=None)
    assert prepare(raw, core=0).stats["time"] == "no times"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": Temporal()}, r"prepare\.split\.kind=temporal compares the times"),
        ({"split": ColdItems()}, r"prepare\.split\.kind=cold_items compares the times"),
        ({"repeats": "exact"}, r"prepare\.repeats=exact drops what a user did at the same time"),
    ],
)
def test_what_needs_times_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said + r".* has no times: `timestamp: null`, a format"):
        prepare(shop(tmp_path, MIXED), core=0, **options)


@pytest.mark.parametrize("first", [0, 1])
def test_places_in_a_list_are_no_times_in_any_order_of_rows(first: int) -> None:
    rows = [(f"u{u}", f"i{n}", first + n) for n in (3, 0, 2, 1) for u in range(4)]
    items = [(f"i{n}", "t", "", None) for n in range(4)]
    raw = RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row"),
        times="order",
    )
    assert prepare(raw, core=0).stats["time"] == "no times"
    with pytest.raises(ValueError, match="has no times"):
        prepare(raw, core=0, split=Temporal())


def test_numbers_without_a_unit_are_shown_as_they_are(tmp_path: Path) -> None:
    shop(tmp_path, MIXED)
    rows = "".join(f"u{u},i{n:02},{10 * n + u}\n" for u in range(5) for n in range(5))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    raw = read_files(
        ItemFile(path=f"{tmp_path}/items.csv"), LogFile(path=f"{tmp_path}/log.csv", unit="order")
    )
    stats = prepare(raw, core=0, split=Temporal(valid=0.2, test=0.2)).stats
    assert stats["time"] == {"first": 0, "last": 44, "unit": "order", "equal_neighbours": 0}
    assert stats["split"] == {"kind": "temporal", "valid_from": 30, "test_from": 40}


def test_a_random_hold_out(tmp_path: Path) -> None:
    raw = shop(tmp_path, MIXED)
    done = prepare(raw, core=0, split=RandomOut())
    own: dict[int, list[int]] = {}
    for user, item in prepare(raw, core=0).interactions.select("user", "item").iter_rows():
        own.setdefault(user, []).append(item)
    tables = [
        dict(zip(t["user"], t.rows(), strict=True)) for t in (done.train, done.valid, done.test)
    ]
    for user, items in own.items():
        (_, known, last), (_, longer, valid), (_, longest, test) = (t[user] for t in tables)
        assert [*known, last] == longer == [i for i in items if i not in (valid, test)]
        assert longest == [*longer, valid]
        assert sorted(items) == sorted([*longest, test])
    places = [items.index(tables[2][user][2]) for user, items in own.items()]
    assert all(2 <= places.count(place) <= 11 for place in range(5))  # 6 each, were it even
    again = prepare(raw, core=0, split=RandomOut())
    assert again.test.equals(done.test)
    assert not prepare(raw, core=0, split=RandomOut(seed=1)).test.equals(done.test)


def test_a_random_hold_out_does_not_mind_the_order_of_times() -> None:
    rows = [(f"u{u}", f"i{n}", 10**18 + n) for u in range(9) for n in range(6)]
    items = [(f"i{n}", "t", "", None) for n in range(6)]
    raw = RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row"),
    )
    done = prepare(raw, core=0, split=RandomOut())
    assert done.stats["time"]["equal_neighbours"] == 0  # type: ignore[index]
    assert done.test["target"].n_unique() > 1  # not the newest of each


# Sorted by item: what comes last in the catalogue is asked for and never learned from.
SORTED = sorted((user, user % 4 + step * 9) for user in range(USERS) for step in range(4))


@pytest.mark.parametrize(
    ("rows", "signs"),
    [
        (SORTED, ["100% of the users have their items in the order of the catalogue"]),
        (
            [
                (u, (ITEMS - u if s == 4 else (u * 7 + s * 11) % 10))
                for u in range(30)
                for s in range(5)
            ],
            ["% of the test targets are items that nobody has in training ("],
        ),
    ],
)
def test_an_order_that_is_plainly_none_of_time(
    rows: list[tuple[int, int]],
    signs: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        stats = prepare(shop(tmp_path, rows), core=0, repeats="keep").stats
    assert [record.getMessage() for record in caplog.records] == stats["findings"]
    (finding,) = stats["findings"]  # type: ignore[misc]
    assert finding.startswith("the order of rows is not an order of time: ")
    assert all(sign in finding for sign in signs)
    assert finding.endswith("prepare.split.kind=random, which holds out at random")
    # Nothing to say where the order was given up, or where times made it.
    raw = shop(tmp_path, rows)
    assert "findings" not in prepare(raw, core=0, repeats="keep", split=RandomOut()).stats
    timed = RawData(raw.items, raw.interactions, times="order")
    assert "findings" not in prepare(timed, core=0, repeats="keep").stats


def test_by_recipe(tmp_path: Path) -> None:
    shop(tmp_path, SORTED)
    source = {
        "kind": "files",
        "items": {"path": f"{tmp_path}/items.csv"},
        "interactions": {"path": f"{tmp_path}/log.csv", "timestamp": None},
    }
    recipe = {"prepare": {"source": source, "core": 0}, "runtime": {"store": f"{tmp_path}/store"}}
    (tmp_path / "shop.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="has no times"):
        Pipeline.load(tmp_path / "shop.yaml", "prepare.split.kind=temporal").run(only="prepare")
    pipeline = Pipeline.load(tmp_path / "shop.yaml", "prepare.split={kind: random, seed: 3}")
    pipeline.run(only="prepare")
    stats = pipeline["prepare"].load("stats.json")
    assert stats["time"] == "no times"
    assert stats["split"] == {"kind": "random"}
    expected = prepare(shop(tmp_path, SORTED), core=0, split=RandomOut(seed=3)).test
    assert pipeline["prepare"].load("test.parquet").equals(expected)


def test_cold_start_users_need_no_times(tmp_path: Path) -> None:
    assert prepare(shop(tmp_path, MIXED), core=0, split=ColdUsers()).stats["time"] == "no times"
    pairs = [row for n, row in enumerate(MIXED) if n % 5 > 2]
    stats = prepare(shop(tmp_path, pairs), core=0, split=ColdUsers(valid=0.4, test=0.4)).stats
    assert "findings" not in stats
