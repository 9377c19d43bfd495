"""Dense ids, k-core and leave-last-out, by hand and against slow oracles."""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import schema
from genrec.data import RawData, k_core, prepare, sid_array
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS

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
    found = k_core(log, core).select("user", "item").rows()
    assert found == slow_core([(u, i) for u, i, _ in rows], core)


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
