"""Checks that a split does not leak: no held-out interaction is part of what is learned from.

Kept apart from the code that splits, so that it can be run on tables from anywhere.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from genrec.schema import INTERACTIONS, SPLIT, SPLITS, check


class LeakageError(ValueError):
    """A held-out interaction is visible where something is learned from."""


def check_no_leakage(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    test: pl.DataFrame,
    interactions: pl.DataFrame,
    *,
    repeats: Literal["drop", "keep"] = "keep",
    kind: str = "last_out",
    hidden: pl.Series | None = None,
) -> None:
    """Checks that the split tables agree with one another and with the log.

    Of leave-last-out, for every user: one row in each table; the log holds exactly one validation and
    one test row; no training row is later than the validation row, and that no later than the test
    row; the training rows are train.history + target; valid.history is that sequence; test.history
    adds the validation target; the held-out rows are the targets.

    Of every other split: at most one row in each table; the training rows are train.history + target;
    a target is a held-out row of its part; its history is what the user did before it, without rows of
    a later part; no user's parts overlap in time (of `random`, whose parts have no order in time, they
    do not overlap in the log). Then, by kind: all training comes before all validation, and that before
    all test (temporal); hidden items are in no training row and no history (cold_items); no user is in
    two parts (cold_users).

    Args:
        train: user, history, target (see `genrec.schema`).
        valid: the same.
        test: the same.
        interactions: user, item, timestamp, split.
        repeats: with "drop", no target may be in its own history.
        kind: of split, see `protocols`.
        hidden: items held out of training.

    Raises:
        LeakageError: naming the first user for whom this does not hold, and how.
        ValueError: a table lacks a column.
    """
    for name, table in zip(SPLITS, (train, valid, test), strict=True):
        check(table, SPLIT, name)
        twice = table.filter(pl.col("user").is_duplicated())
        _none(twice, f"has more than one row in {name}")
    check(interactions, INTERACTIONS, "interactions")
    if kind == "last_out":
        _check_last_out(train, valid, test, interactions)
    else:
        _check_parts((train, valid, test), interactions, kind, hidden)
    if repeats == "drop":
        for name, table in zip(SPLITS, (train, valid, test), strict=True):
            leaked = table.filter(pl.col("history").list.contains(pl.col("target")))
            _none(leaked, f"has the {name} target in the {name} history")


def _check_last_out(
    train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, interactions: pl.DataFrame
) -> None:
    log = _per_user(interactions)
    for name, table in zip(SPLITS, (train, valid, test), strict=True):
        _none(log.join(table, on="user", how="anti"), f"is in the interactions but not in {name}")
        _none(table.join(log, on="user", how="anti"), f"is in {name} but not in the interactions")
    _check_order(log)
    _check_nesting(train, valid, test, log)


def _check_parts(
    tables: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
    interactions: pl.DataFrame,
    kind: str,
    hidden: pl.Series | None,
) -> None:
    log = interactions.with_columns(
        at=pl.int_range(pl.len()).over("user"),
        part=pl.col("split").replace_strict(SPLITS, range(3), return_dtype=pl.Int8),
    )
    if kind != "random":
        late = log.filter(pl.col("timestamp").shift(1).over("user") > pl.col("timestamp"))
        _none(late, "has interactions that are not in the order of time")
    back = log.filter(pl.col("part").shift(1).over("user") > pl.col("part"))
    _none(back, "has an interaction of an earlier part after one of a later part")
    _check_training(tables[0], log)
    cold = pl.Series("item", [], dtype=pl.Int32) if hidden is None else hidden
    for number, table in enumerate(tables[1:], start=1):
        _check_asked(table, log, cold, number)
    _check_kind(log, kind, cold)


def _check_training(train: pl.DataFrame, log: pl.DataFrame) -> None:
    rows = log.filter(pl.col("part") == 0)
    learned = rows.group_by("user", maintain_order=True).agg("item")
    sequences = train.select("user", sequence=pl.concat_list("history", "target"))
    both = learned.join(sequences, on="user", how="full", coalesce=True)
    wrong = both.filter(pl.col("item").ne_missing(pl.col("sequence")))
    _none(wrong, "has training interactions other than the train sequence")


def _check_asked(rows_of_part: pl.DataFrame, log: pl.DataFrame, cold: pl.Series, part: int) -> None:
    """Compares one part's rows with the log: history, target and their order."""
    name, is_cold = SPLITS[part], pl.col("item").is_in(cold.implode())
    ahead = log.filter(~is_cold).group_by("user", maintain_order=True).agg("item", "at", "part")
    length = pl.col("history").list.len()
    rows = rows_of_part.join(ahead, on="user", how="left").with_columns(
        known=pl.col("item").list.head(length),
        parts=pl.col("part").list.head(length),
        newest=pl.col("at").list.head(length).list.max(),
    )
    wrong = rows.filter(pl.col("known").ne_missing(pl.col("history")) | (length == 0))
    _none(wrong, f"has a {name} history that is not what came first")
    _none(rows.filter(pl.col("parts").list.max() > part), f"has a later part in the {name} history")
    held = log.filter(pl.col("part") == part).select("user", "item", target_at="at")
    reached = rows.join(held, left_on=["user", "target"], right_on=["user", "item"], how="left")
    last = reached.group_by("user").agg(pl.col("target_at").max(), pl.col("newest").first())
    _none(last.filter(pl.col("target_at").is_null()), f"has a {name} target that is no {name} row")
    wrong = last.filter(pl.col("target_at") <= pl.col("newest"))
    _none(wrong, f"has the {name} target before the end of the {name} history")


def _check_kind(log: pl.DataFrame, kind: str, cold: pl.Series) -> None:
    if kind == "temporal":
        for part in (1, 2):
            ends = log.filter(pl.col("part") < part)["timestamp"].max()
            early = log.filter((pl.col("part") == part) & (pl.col("timestamp") <= pl.lit(ends)))
            _none(early, f"has a {SPLITS[part]} interaction before the cut")
    if kind == "cold_users":
        mixed = log.group_by("user", maintain_order=True).agg(pl.col("part").n_unique())
        _none(mixed.filter(pl.col("part") > 1), "is in two parts")
    trained = log.filter((pl.col("part") == 0) & pl.col("item").is_in(cold.implode()))
    _none(trained, "has a held-out item among the training interactions")


def _per_user(interactions: pl.DataFrame) -> pl.DataFrame:
    """One row per user: items and time range of each split, in the order of the log."""
    columns = []
    for name in SPLITS:
        rows = pl.col("split") == name
        time = pl.col("timestamp").filter(rows)
        columns += [
            pl.col("item").filter(rows).alias(f"{name}_items"),
            time.min().alias(f"{name}_first"),
            time.max().alias(f"{name}_last"),
        ]
    return interactions.group_by("user", maintain_order=True).agg(columns)


def _check_order(log: pl.DataFrame) -> None:
    for name in ("valid", "test"):
        wrong = log.filter(pl.col(f"{name}_items").list.len() != 1)
        _none(wrong, f"has not exactly one {name} interaction")
    for earlier, later in (("train", "valid"), ("valid", "test")):
        wrong = log.filter(pl.col(f"{earlier}_last") > pl.col(f"{later}_first"))
        _none(wrong, f"has a {earlier} interaction after the {later} interaction")


def _check_nesting(
    train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, log: pl.DataFrame
) -> None:
    """Compares whole sequences, so that an item too many or too few anywhere is found."""
    tables = (
        log.join(train.select("user", s0="history", t0="target"), on="user")
        .join(valid.select("user", s1="history", t1="target"), on="user")
        .join(test.select("user", s2="history", t2="target"), on="user")
        .with_columns(
            known=pl.concat_list("s0", "t0"),
            longer=pl.concat_list("s1", "t1"),
            valid_item=pl.col("valid_items").list.first(),
            test_item=pl.col("test_items").list.first(),
        )
    )
    for left, right, problem in (
        ("s1", "known", "has a valid history that is not the train history and its target"),
        ("s2", "longer", "has a test history that is not the valid history and its target"),
        ("train_items", "known", "has training interactions other than the train sequence"),
        ("valid_item", "t1", "has a valid target other than the valid interaction"),
        ("test_item", "t2", "has a test target other than the test interaction"),
    ):
        _none(tables.filter(pl.col(left).ne_missing(pl.col(right))), problem)


def _none(wrong: pl.DataFrame, problem: str) -> None:
    if not wrong.is_empty():
        users = wrong["user"].unique(maintain_order=True).to_list()
        raise LeakageError(
            f"user {users[0]} {problem} ({len(users)} users in all); "
            "expected a split without leaks. Run prepare again; if it stays, report it."
        )
