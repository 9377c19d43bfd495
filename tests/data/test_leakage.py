"""Every way of leaking that we can think of is caught, and names the user."""

from collections.abc import Callable

import polars as pl
import pytest

from genrec.data import LeakageError, check_no_leakage
from genrec.schema import INTERACTIONS, SPLIT, SPLITS

# Users 3 and 8; items 0..9 in time order.
SEQUENCES = {3: [0, 1, 2, 3, 4], 8: [5, 6, 7]}
Tables = dict[str, pl.DataFrame]


def tables() -> Tables:
    tables = {
        name: pl.DataFrame(
            [(u, s[:-back], s[-back]) for u, s in SEQUENCES.items()], schema=SPLIT, orient="row"
        )
        for name, back in zip(SPLITS, (3, 2, 1), strict=True)
    }
    rows = [
        (user, item, time, SPLITS[max(0, 3 - len(s) + time)])
        for user, s in SEQUENCES.items()
        for time, item in enumerate(s)
    ]
    tables["interactions"] = pl.DataFrame(rows, schema=INTERACTIONS, orient="row")
    return tables


def check(tables: Tables, **options: str) -> None:
    check_no_leakage(*(tables[name] for name in (*SPLITS, "interactions")), **options)  # type: ignore[arg-type]


def edited(table: pl.DataFrame, user: int, **values: object) -> pl.DataFrame:
    """Replaces cells of one user's rows."""
    rows = [{**r, **(values if r["user"] == user else {})} for r in table.rows(named=True)]
    return pl.DataFrame(rows, schema=dict(table.schema))


def test_a_proper_split_passes() -> None:
    check(tables())
    check(tables(), repeats="drop")


def target_in_train(t: Tables) -> None:
    """The validation target of user 3 is trained on."""
    t["train"] = edited(t["train"], 3, target=3)


def target_in_train_history(t: Tables) -> None:
    t["train"] = edited(t["train"], 8, history=[6])


def valid_row_in_training_log(t: Tables) -> None:
    """The log calls the validation interaction a training one."""
    held_out = (pl.col("user") == 3) & (pl.col("split") == "valid")
    split = pl.when(held_out).then(pl.lit("train")).otherwise("split").alias("split")
    t["interactions"] = t["interactions"].with_columns(split)


def copy_in_training_log(t: Tables) -> None:
    """The validation item also stands among the training rows, at an early time."""
    extra = pl.DataFrame([(3, 3, 0, "train")], schema=INTERACTIONS, orient="row")
    t["interactions"] = pl.concat([extra, t["interactions"]])


def later_training_event(t: Tables) -> None:
    """A training row after the validation row, that only its time gives away."""
    late = (pl.col("user") == 3) & (pl.col("item") == 2)
    time = pl.when(late).then(99).otherwise("timestamp").cast(pl.Int64).alias("timestamp")
    t["interactions"] = t["interactions"].with_columns(time)


def reversed_in_time(t: Tables) -> None:
    early = (pl.col("user") == 8) & (pl.col("split") == "test")
    time = pl.when(early).then(0).otherwise("timestamp").cast(pl.Int64).alias("timestamp")
    t["interactions"] = t["interactions"].with_columns(time)


def valid_history_too_long(t: Tables) -> None:
    t["valid"] = edited(t["valid"], 3, history=[0, 1, 2, 3])


def valid_history_too_short(t: Tables) -> None:
    t["valid"] = edited(t["valid"], 8, history=[])


def history_without_valid(t: Tables) -> None:
    t["test"] = edited(t["test"], 3, history=[0, 1, 2])


def history_in_other_order(t: Tables) -> None:
    t["test"] = edited(t["test"], 8, history=[6, 5])


def targets_swapped(t: Tables) -> None:
    """Nested, yet the other way round than the log."""
    t["valid"] = edited(t["valid"], 8, target=7)
    t["test"] = edited(t["test"], 8, history=[5, 7], target=6)


def user_missing(t: Tables) -> None:
    t["valid"] = t["valid"].filter(pl.col("user") != 8)


def user_from_nowhere(t: Tables) -> None:
    extra = pl.DataFrame([(9, [1], 2)], schema=SPLIT, orient="row")
    t["train"] = pl.concat([t["train"], extra])


def user_twice(t: Tables) -> None:
    t["test"] = pl.concat([t["test"], t["test"].filter(pl.col("user") == 3)])


@pytest.mark.parametrize(
    ("leak", "said"),
    [
        (target_in_train, "user 3 has a valid history that is not the train history and its"),
        (target_in_train_history, "user 8 has a valid history that is not the train"),
        (valid_row_in_training_log, "user 3 has not exactly one valid interaction"),
        (copy_in_training_log, "user 3 has training interactions other than the train sequence"),
        (later_training_event, "user 3 has a train interaction after the valid interaction"),
        (reversed_in_time, "user 8 has a valid interaction after the test interaction"),
        (valid_history_too_long, "user 3 has a valid history that is not the train history"),
        (valid_history_too_short, "user 8 has a valid history that is not"),
        (history_without_valid, "user 3 has a test history that is not the valid history"),
        (history_in_other_order, "user 8 has a test history that is not"),
        (targets_swapped, "user 8 has a valid target other than the valid interaction"),
        (user_missing, "user 8 is in the interactions but not in valid"),
        (user_from_nowhere, "user 9 is in train but not in the interactions"),
        (user_twice, "user 3 has more than one row in test"),
    ],
)
def test_leaks_are_caught(leak: Callable[[Tables], None], said: str) -> None:
    broken = tables()
    leak(broken)
    with pytest.raises(LeakageError) as error:
        check(broken)
    assert said in str(error.value)
    assert isinstance(error.value, ValueError)


def test_a_repeated_target_is_a_leak_only_where_repeats_are_dropped() -> None:
    broken = tables()
    broken["test"] = edited(broken["test"], 8, target=5)
    held_out = (pl.col("user") == 8) & (pl.col("split") == "test")
    item = pl.when(held_out).then(5).otherwise("item").cast(pl.Int32).alias("item")
    broken["interactions"] = broken["interactions"].with_columns(item)
    check(broken, repeats="keep")
    with pytest.raises(LeakageError, match="user 8 has the test target in the test history"):
        check(broken, repeats="drop")


# The other ways to split. Users 0..2; item 9 is held out of training in `cold`.
LATER = {
    "temporal": [
        *((0, 0, 1, "train"), (0, 1, 5, "valid"), (0, 2, 9, "test")),
        *((1, 3, 2, "train"), (1, 4, 3, "train"), (2, 5, 6, "valid"), (2, 6, 8, "test")),
    ],
    "cold_items": [
        *((0, 0, 1, "train"), (0, 9, 5, "valid"), (0, 2, 9, "test")),
        *((1, 3, 1, "train"), (1, 4, 2, "valid"), (1, 9, 9, "test")),
    ],
    "cold_users": [
        *((0, 0, 1, "train"), (0, 1, 5, "train")),
        *((1, 3, 2, "valid"), (1, 4, 3, "valid"), (2, 5, 6, "test"), (2, 6, 8, "test")),
    ],
}
ROWS: dict[str, dict[str, list[tuple[int, list[int], int]]]] = {
    "temporal": {
        "train": [(0, [], 0), (1, [3], 4)],
        "valid": [(0, [0], 1)],
        "test": [(0, [0, 1], 2), (2, [5], 6)],
    },
    "cold_items": {
        "train": [(0, [], 0), (1, [], 3)],
        "valid": [(0, [0], 9), (1, [3], 4)],
        "test": [(0, [0], 2), (1, [3, 4], 9)],
    },
    "cold_users": {"train": [(0, [0], 1)], "valid": [(1, [3], 4)], "test": [(2, [5], 6)]},
}


def parts_of(kind: str, **changed: object) -> Tables:
    rows = {**ROWS[kind], "interactions": LATER[kind], **changed}
    return {
        name: pl.DataFrame(
            rows[name], schema=INTERACTIONS if name == "interactions" else SPLIT, orient="row"
        )
        for name in (*SPLITS, "interactions")
    }


def check_kind(kind: str, **changed: object) -> None:
    check(parts_of(kind, **changed), kind=kind, hidden=pl.Series([9], dtype=pl.Int32))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(LATER))
def test_the_other_splits_pass(kind: str) -> None:
    check_kind(kind)


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        (
            "temporal",
            {"train": [(0, [0], 1), (1, [3], 4)]},
            "user 0 has training interactions other",
        ),
        ("temporal", {"train": [(1, [3], 4)]}, "user 0 has training interactions other"),
        ("temporal", {"train": [*ROWS["temporal"]["train"], (2, [], 5)]}, "user 2 has training"),
        ("temporal", {"valid": [(0, [0, 1], 1)]}, "user 0 has the valid target before the end"),
        ("temporal", {"valid": [(0, [1], 1)]}, "user 0 has a valid history that is not what came"),
        ("temporal", {"valid": [(0, [0], 2)]}, "user 0 has a valid target that is no valid row"),
        (
            "temporal",
            {"valid": [(0, [0, 1, 2], 1)]},
            "user 0 has a later part in the valid history",
        ),
        ("temporal", {"valid": [(7, [0], 1)]}, "user 7 has a valid history that is not what came"),
        ("temporal", {"test": [(0, [0, 1], 2)] * 2}, "user 0 has more than one row in test"),
        (
            "temporal",
            {
                "interactions": [
                    (1, 3, 7, "train") if r[:2] == (1, 3) else r for r in LATER["temporal"]
                ]
            },
            "user 1 has interactions that are not in the order of time",
        ),
        (
            "temporal",
            {
                "interactions": [*LATER["temporal"], (3, 0, 7, "train")],
                "train": [*ROWS["temporal"]["train"], (3, [], 0)],
            },
            "user 0 has a valid interaction before the cut",
        ),
        (
            "cold_items",
            {"test": [(0, [0, 9], 2)]},
            "user 0 has a test history that is not what came",
        ),
        (
            "cold_items",
            {
                "interactions": [(0, 9, 0, "train"), *LATER["cold_items"]],
                "train": [(0, [9], 0), (1, [], 3)],
            },
            "user 0 has a held-out item among the training interactions",
        ),
        (
            "cold_users",
            {
                "interactions": [
                    *LATER["cold_users"][:3],
                    (1, 4, 3, "test"),
                    *LATER["cold_users"][4:],
                ],
                "valid": [],
                "test": [(1, [3], 4), (2, [5], 6)],
            },
            "user 1 is in two parts",
        ),
        (
            "cold_users",
            {"interactions": [(0, 0, 1, "valid"), *LATER["cold_users"][1:]], "train": [(0, [], 1)]},
            "user 0 has an interaction of an earlier part after one of a later part",
        ),
    ],
)
def test_leaks_of_the_other_splits(kind: str, changed: dict[str, object], said: str) -> None:
    with pytest.raises(LeakageError, match=said):
        check_kind(kind, **changed)
