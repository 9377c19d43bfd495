"""From raw data to the tables that every stage reads: dense ids, k-core, leave-last-out.

The last interaction of a user is the test target, the last but one the validation target; nothing
that is learned may see either, and `check_no_leakage` proves it on the finished tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from genrec.data.leakage import check_no_leakage
from genrec.data.source import (
    RAW_GROUPS,
    RAW_INTERACTIONS,
    RAW_ITEMS,
    BadRows,
    OnBad,
    RawData,
    clean,
)
from genrec.progress import Progress, silent
from genrec.schema import GROUPS, INTERACTIONS, ITEMS, SPLIT, USERS, check

Repeats = Literal["drop", "keep"]
MIN_LENGTH = 3  # one target each for train, valid and test


@dataclass(frozen=True)
class Prepared:
    """The tables of `genrec.schema`, ready to write.

    Attributes:
        items, users, interactions: catalogue, users and log in dense ids.
        train, valid, test: one row per user (user, history, target).
        sids: int32 [N, L], the published SID of each item; None where the source has none.
        groups: which groups a choice belongs to; None where the source has none.
        stats: counts, dropped rows by reason and shares, ready for JSON.
    """

    items: pl.DataFrame
    users: pl.DataFrame
    interactions: pl.DataFrame
    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    sids: np.ndarray | None
    groups: pl.DataFrame | None
    stats: dict[str, object]


def prepare(
    raw: RawData,
    *,
    core: int = 5,
    repeats: Repeats = "drop",
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> Prepared:
    """Filters, numbers and splits a dataset.

    Steps, each on what the one before left: bad rows; repeats; users with fewer than 3 interactions
    (they cannot be split); k-core to a fixed point; order by time, ties in file order; split.

    Args:
        raw: what a source returned.
        core: every user and every item keeps at least this many interactions. With 0 or 1 the whole
            catalogue stays; above, only items that are still interacted with.
        repeats: "drop" keeps the first (in time) of each user and item; "keep" keeps them all.
        on_bad: raise on bad rows, or drop and count them (matters for hand-made `RawData`; the
            sources have judged their own).
        progress: told "prepare".

    Returns:
        Items numbered in the order of `raw.items`, users by first appearance in the raw log.

    Raises:
        ValueError: bad settings or rows, or nothing is left.
        LeakageError: our own bug: the split is not one.
    """
    if repeats not in get_args(Repeats):
        raise ValueError(f"prepare.repeats: found {repeats!r}, expected one of {get_args(Repeats)}")
    if core < 0:
        raise ValueError(f"prepare.core: found {core}, expected 0 (no filter) or more")
    steps = 5
    bad_rows = BadRows(on_bad)
    bad_rows.dropped.update(raw.dropped)
    items, log = clean(
        raw.items, raw.interactions, bad_rows, items_from="items", interactions_from="interactions"
    )
    progress("prepare", 1, steps)
    log = _in_time_order(log, repeats, bad_rows)
    progress("prepare", 2, steps)
    log = _filtered(log, core, bad_rows)
    progress("prepare", 3, steps)
    items = _numbered_items(items, log, shrink=core > 1, bad_rows=bad_rows)
    users = _numbered_users(raw.interactions, log)
    interactions = _dense(log, items, users)
    tables = _leave_last_out(interactions)
    progress("prepare", 4, steps)
    check_no_leakage(*tables, interactions, repeats=repeats)
    progress("prepare", 5, steps)
    return Prepared(
        items,
        users,
        interactions,
        *tables,
        sids=None if raw.sids is None else sid_array(raw.sids, items),
        groups=None if raw.groups is None else _dense_groups(raw.groups, users, items),
        stats=_stats(items, users, interactions, tables[2], bad_rows.dropped),
    )


def sid_array(sids: Mapping[str, tuple[int, ...]], items: pl.DataFrame) -> np.ndarray:
    """Returns published SIDs in dense order.

    Args:
        sids: codes by item_id, all of one length L.
        items: the items table; row i is item i.

    Returns:
        int32 [N, L].

    Raises:
        KeyError: an item has no SID.
    """
    missing = [item_id for item_id in items["item_id"] if item_id not in sids]
    if missing:
        raise KeyError(f"{len(missing)} items have no SID, first {missing[:3]}; expected all to.")
    return np.array([sids[item_id] for item_id in items["item_id"]], dtype=np.int32)


def _dense_groups(groups: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Returns groups in dense ids, of the users and items that are left, sorted, each row once."""
    dense = (
        check(groups, RAW_GROUPS, "groups")
        .join(users, on="user_id", how="inner")
        .join(items.select("item", "item_id"), on="item_id", how="inner")
        .select(list(GROUPS))
        .unique()
        .sort(list(GROUPS))
    )
    return check(dense, GROUPS, "prepare: groups")


def _in_time_order(log: pl.DataFrame, repeats: Repeats, bad_rows: BadRows) -> pl.DataFrame:
    """Orders each user's rows by time, ties in file order; drops repeats if asked."""
    log = log.select(list(RAW_INTERACTIONS)).sort("timestamp", maintain_order=True)
    if repeats == "keep":
        return log
    first = log.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    if repeated := len(log) - len(first):
        bad_rows.count("repeated_interaction", repeated)
    return first


def _filtered(log: pl.DataFrame, core: int, bad_rows: BadRows) -> pl.DataFrame:
    """Drops users that cannot be split, then everything outside the k-core."""
    kept = _at_least(log, "user_id", MIN_LENGTH)
    if short := log["user_id"].n_unique() - kept["user_id"].n_unique():
        bad_rows.count("user_too_short", short)
        bad_rows.count("interaction_of_user_too_short", len(log) - len(kept))
    if kept.is_empty():
        raise ValueError(
            f"interactions: no user has {MIN_LENGTH} interactions ({short} users have fewer), so "
            "none can be split into train, valid and test. Bring longer histories."
        )
    inner = k_core(kept, core, min_user=MIN_LENGTH) if core > 1 else kept
    if inner.is_empty():
        raise ValueError(
            f"interactions: nothing is left of {len(kept)} interactions after the {core}-core; "
            f"lower prepare.core (found {core}; 0 keeps everything) or bring more data."
        )
    for what in ("user", "item"):
        if lost := kept[f"{what}_id"].n_unique() - inner[f"{what}_id"].n_unique():
            bad_rows.count(f"{what}_outside_core", lost)
    if lost := len(kept) - len(inner):
        bad_rows.count("interaction_outside_core", lost)
    return inner


def k_core(log: pl.DataFrame, core: int, *, min_user: int = 0) -> pl.DataFrame:
    """Returns the largest part of `log` where every user and item has at least `core` rows.

    Args:
        log: user_id and item_id, one row per interaction; order is kept.
        core: least number of rows per user and per item.
        min_user: a higher least number for users.

    Returns:
        The rows left, perhaps none.
    """
    while True:
        kept = _at_least(_at_least(log, "item_id", core), "user_id", max(core, min_user))
        if len(kept) == len(log):
            return kept
        log = kept


def _at_least(log: pl.DataFrame, column: str, count: int) -> pl.DataFrame:
    return log.filter(pl.len().over(column) >= count)


def _numbered_items(
    items: pl.DataFrame, log: pl.DataFrame, *, shrink: bool, bad_rows: BadRows
) -> pl.DataFrame:
    if shrink:
        kept = items.filter(pl.col("item_id").is_in(log["item_id"].implode()))
        outside = len(items) - len(kept) - bad_rows.dropped.get("item_outside_core", 0)
        if outside:
            bad_rows.count("item_never_interacted_with", outside)
        items = kept
    attributes = [name for name in items.columns if name not in (*RAW_ITEMS, "item")]
    items = items.select(*RAW_ITEMS, *attributes)
    numbers = pl.int_range(len(items), dtype=pl.Int32).alias("item")
    return check(items.select(numbers, pl.all()), ITEMS, "prepare: items")


def _numbered_users(raw: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    first_seen = raw.select(pl.col("user_id").unique(maintain_order=True))
    users = first_seen.join(log.select("user_id").unique(), on="user_id", how="semi")
    numbers = pl.int_range(len(users), dtype=pl.Int32).alias("user")
    return check(users.select(numbers, "user_id"), USERS, "prepare: users")


def _dense(log: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Returns the log in dense ids, by user and time, each row with its split."""
    dense = (
        log.with_row_index("order")
        .join(users, on="user_id", how="inner")
        .join(items.select("item", "item_id"), on="item_id", how="inner")
        .sort("user", "order")
    )
    from_end = pl.len().over("user") - pl.int_range(pl.len()).over("user")  # 1 is the last
    split = (
        pl.when(from_end == 1)
        .then(pl.lit("test"))
        .when(from_end == 2)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )
    dense = dense.select("user", "item", "timestamp", split=split)
    return check(dense, INTERACTIONS, "prepare: interactions")


def _leave_last_out(
    interactions: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Returns train, valid and test: targets are the third last, second last and last item."""
    sequences = interactions.group_by("user", maintain_order=True).agg("item")
    item = pl.col("item")
    tables = [
        sequences.select(
            "user",
            history=item.list.head(item.list.len() - back),
            target=item.list.get(-back),
        )
        for back in (3, 2, 1)
    ]
    train, valid, test = (check(table, SPLIT, "prepare: split") for table in tables)
    return train, valid, test


def _stats(
    items: pl.DataFrame,
    users: pl.DataFrame,
    interactions: pl.DataFrame,
    test: pl.DataFrame,
    dropped: Mapping[str, int],
) -> dict[str, object]:
    lengths = interactions.group_by("user").len()["len"]
    trained = interactions.filter(pl.col("split") == "train")["item"].unique()
    seen = test.select(pl.col("target").is_in(trained.implode())).to_series()
    repeated = test.select(pl.col("history").list.contains(pl.col("target"))).to_series()
    return {
        "items": len(items),
        "users": len(users),
        "interactions": len(interactions),
        "density": len(interactions) / (len(items) * len(users)),
        "length_mean": len(interactions) / len(users),
        "length_median": float(np.median(lengths.to_numpy())),
        "length_max": int(lengths.to_numpy().max()),
        "items_with_image": int(items["image"].count()),
        "items_without_description": int((items["description"] == "").sum()),
        "items_unseen_in_train": len(items) - len(trained),
        "test_targets_unseen_in_train": 1.0 - int(seen.sum()) / len(test),
        "test_targets_in_history": int(repeated.sum()) / len(test),
        "dropped": dict(sorted(dropped.items())),
    }
