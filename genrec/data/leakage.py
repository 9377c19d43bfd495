"""Proof that a leave-last-out split is one: no held-out item reaches anything that is learned from.

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
) -> None:
    """Checks that the split tables agree with one another and with the log.

    For every user: one row in each table; the log holds exactly one validation and one test row;
    no training row is later than the validation row, and that no later than the test row; the
    training rows are train.history + target; valid.history is that sequence; test.history adds the
    validation target; the held-out rows are the targets.

    Args:
        train: user, history, target (see `genrec.schema`).
        valid: the same.
        test: the same.
        interactions: user, item, timestamp, split.
        repeats: with "drop", also no target may stand in its own history.

    Raises:
        LeakageError: naming the first user for whom this does not hold, and how.
        ValueError: a table lacks a column.
    """
    for name, table in zip(SPLITS, (train, valid, test), strict=True):
        check(table, SPLIT, name)
        twice = table.filter(pl.col("user").is_duplicated())
        _none(twice, f"has more than one row in {name}")
    check(interactions, INTERACTIONS, "interactions")
    log = _per_user(interactions)
    for name, table in zip(SPLITS, (train, valid, test), strict=True):
        _none(log.join(table, on="user", how="anti"), f"is in the interactions but not in {name}")
        _none(table.join(log, on="user", how="anti"), f"is in {name} but not in the interactions")
    _check_order(log)
    _check_nesting(train, valid, test, log)
    if repeats == "drop":
        for name, table in zip(SPLITS, (train, valid, test), strict=True):
            leaked = table.filter(pl.col("history").list.contains(pl.col("target")))
            _none(leaked, f"has the {name} target in the {name} history")


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
            "expected a leave-last-out split. Run prepare again; if it stays, report it."
        )
