"""From raw data to the tables that every stage reads: dense ids, repeats, k-core, then a split.

How it is split is a protocol's business (`protocols`); nothing that is learned may see a held-out
interaction, and `check_no_leakage` proves it on the finished tables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from genrec.data.card import describe, out_of_order
from genrec.data.context import context_of
from genrec.data.leakage import check_no_leakage
from genrec.data.protocols import Given, LastOut, Parts, SplitProtocol, order_only
from genrec.data.source import (
    RAW_GROUPS,
    RAW_ITEMS,
    BadRows,
    OnBad,
    RawData,
    clean,
)
from genrec.progress import Progress, silent
from genrec.schema import GROUPS, ITEMS, SPLITS, USERS, check

logger = logging.getLogger(__name__)

Repeats = Literal["drop", "last", "exact", "consecutive", "keep"]
ONCE = ("drop", "last")  # under these policies nobody has an item twice


@dataclass(frozen=True)
class Prepared:
    """The tables of `genrec.schema`, ready to write.

    Attributes:
        items, users, interactions: catalogue, users and log in dense ids.
        train, valid, test: at most one row per user (user, history, target).
        sids: int32 [N, L], the published SID of each item; None where the source has none.
        further_sids: those of further sets, int32 [N, L_m].
        groups: which groups a choice belongs to; None where the source has none.
        user_attributes: what is known of users, by `user`, of those of whom anything is; None where the
            source has none.
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
    further_sids: tuple[np.ndarray, ...] = ()
    user_attributes: pl.DataFrame | None = None


def prepare(
    raw: RawData,
    *,
    core: int = 5,
    repeats: Repeats = "drop",
    split: SplitProtocol[Any] | None = None,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> Prepared:
    """Filters, numbers and splits a dataset.

    Steps, each on what the one before left: bad rows; order by time, ties in file order; repeats;
    users with too few interactions to be split (fewer than 3 for leave-last-out); k-core to a fixed
    point; split.

    Args:
        raw: what a source returned.
        core: every user and every item keeps at least this many interactions. With 0 or 1 the whole
            catalogue stays; above, only items that are still interacted with.
        repeats: of each user and item, "drop" keeps the first in time, "last" the last; "exact" drops
            only what has the same time; "consecutive" makes one of a run of the same item,
            its first; "keep" keeps them all.
        split: how to split; leave-last-out by default. `Given` takes the split that the data bring as
            it is, and nothing is filtered: whether it leaks, whoever made it has to know. What can be
            said of it, such as targets that are in their own history, is in the stats.
        on_bad: raise on bad rows, or drop and count them (matters for hand-made `RawData`; the
            sources have judged their own).
        progress: called with "prepare".

    Returns:
        Items numbered in the order of `raw.items`, users by first appearance in the raw log.

    Raises:
        ValueError: bad settings or rows, nothing is left, a part of the split is empty, or a split or
            `repeats` by time of data without times.
        LeakageError: our own bug: the split is not one.
    """
    if repeats not in get_args(Repeats):
        raise ValueError(f"prepare.repeats: found {repeats!r}, expected one of {get_args(Repeats)}")
    if core < 0:
        raise ValueError(f"prepare.core: found {core}, expected 0 (no filter) or more")
    protocol = split or LastOut()
    if isinstance(protocol, Given):
        return _as_given(raw)
    times = "none" if order_only(raw.interactions) else raw.times
    if times == "none":
        _refuse_times(protocol, repeats)
    steps = 5
    bad_rows = BadRows(on_bad)
    bad_rows.dropped.update(raw.dropped)
    items, log = clean(
        raw.items, raw.interactions, bad_rows, items_from="items", interactions_from="interactions"
    )
    users = raw.interactions.select(pl.col("user_id").unique(maintain_order=True))
    log = _numbered(log, items, users)
    progress("prepare", 1, steps)
    log = _in_time_order(log, repeats, bad_rows)
    progress("prepare", 2, steps)
    log = _filtered(log, core, protocol.min_length, bad_rows)
    progress("prepare", 3, steps)
    if core > 1:
        catalogue = len(items)
        items, log = _shrunk("item", items, log)
        gone = catalogue - len(items) - bad_rows.dropped.get("item_outside_core", 0)
        if gone:
            bad_rows.count("item_never_interacted_with", gone)
    users, log = _shrunk("user", users, log)
    items, users = _table_of_items(items), _table_of_users(users)
    parts = protocol.split(log.sort("user", maintain_order=True))
    for reason, count in parts.dropped.items():
        bad_rows.count(reason, count)
    findings = out_of_order(parts, protocol.kind) if times == "none" else []
    for finding in findings:
        logger.warning("%s", finding)
    findings = [*raw.findings, *findings]
    progress("prepare", 4, steps)
    check_no_leakage(
        parts.train,
        parts.valid,
        parts.test,
        parts.interactions,
        repeats="drop" if repeats in ONCE else "keep",
        kind=protocol.kind,
        hidden=parts.hidden,
    )
    progress("prepare", 5, steps)
    stats = describe(items, users, parts, kind=protocol.kind, times=times, dropped=bad_rows.dropped)
    if findings:
        stats["findings"] = findings
    groups = _groups(raw.groups, users, items, parts, protocol)
    return _prepared(raw, items, users, parts, groups, stats)


def _as_given(raw: RawData) -> Prepared:
    """Returns the source's own split, numbers unchanged."""
    given = raw.given
    if given is None:
        raise ValueError("prepare.split.kind=given: this source brings no split; choose another")
    parts, items = given.parts, given.items
    for part in SPLITS:
        if getattr(parts, part).is_empty():
            raise ValueError(
                f"{given.name}: the given split has no {part} row; choose another split"
            )
    known = given.users["user"].is_in(parts.interactions["user"].unique().implode())
    if not known.all():
        raise ValueError(
            f"{given.name}: {(~known).sum()} users are in no part; expected each in one"
        )
    users = given.users.sort("user").select("user", "user_id")
    stats = describe(items, users, parts, kind="given", times=raw.times, dropped={})
    return _prepared(raw, items, users, parts, None, stats)


def _prepared(
    raw: RawData,
    items: pl.DataFrame,
    users: pl.DataFrame,
    parts: Parts,
    groups: pl.DataFrame | None,
    stats: dict[str, object],
) -> Prepared:
    attributes = None
    if raw.user_attributes is not None:
        attributes = users.join(
            raw.user_attributes, on="user_id", how="inner", maintain_order="left"
        ).drop("user_id")
        stats["users_with_attributes"] = len(attributes)
    return Prepared(
        items,
        users,
        parts.interactions,
        parts.train,
        parts.valid,
        parts.test,
        sids=None if raw.sids is None else sid_array(raw.sids, items),
        groups=groups,
        stats=stats,
        further_sids=tuple(sid_array(sids, items) for sids in raw.further_sids),
        user_attributes=attributes,
    )


def _refuse_times(protocol: SplitProtocol[Any], repeats: Repeats) -> None:
    why = (
        "this source has no times: `timestamp: null`, a format without times, or timestamps that count "
        "0, 1, 2, ... for every user"
    )
    if protocol.needs_time:
        raise ValueError(
            f"prepare.split.kind={protocol.kind} compares the times of different users, and {why}. Use "
            "last_out or cold_users where rows are in order of time, random where they do not, or "
            "name the column of times"
        )
    if repeats == "exact":
        raise ValueError(
            f"prepare.repeats=exact drops what a user did at the same time, and {why}. Use drop, last, "
            "consecutive or keep, or name the column of times"
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


def _groups(
    groups: pl.DataFrame | None,
    users: pl.DataFrame,
    items: pl.DataFrame,
    parts: Parts,
    protocol: SplitProtocol[Any],
) -> pl.DataFrame | None:
    """Returns the source's groups and, where new items are asked for, who is asked for one."""
    tables = [] if groups is None else [_dense_groups(groups, users, items)]
    if protocol.needs_time:
        known = pl.col("item").is_in(parts.trained.implode())
        name = pl.when(known).then(pl.lit("known item")).otherwise(pl.lit("new item"))
        targets = pl.concat([parts.valid, parts.test]).select("user", item="target")
        tables.append(targets.with_columns(group=name))
    return pl.concat(tables).unique().sort(list(GROUPS)) if tables else None


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


def _numbered(log: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Returns user, item, timestamp, context with the rows of `users` and `items` for numbers.

    Ids as text are several times as large, and everything that follows sorts and groups by them.
    """
    for what, table in (("user", users), ("item", items)):
        ids = table[f"{what}_id"]
        number = pl.int_range(len(ids), dtype=pl.Int32, eager=True)
        log = log.with_columns(
            pl.col(f"{what}_id").replace_strict(ids, number, return_dtype=pl.Int32).alias(what)
        ).drop(f"{what}_id")
    return log.select("user", "item", "timestamp", *context_of(log))


def _shrunk(what: str, table: pl.DataFrame, log: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns the rows of `table` that are still in the log, and the log with their new numbers."""
    there = np.zeros(len(table), dtype=bool)
    there[log[what].to_numpy()] = True
    number = pl.Series(what, (np.cumsum(there) - 1).astype(np.int32))
    return table.filter(pl.Series(there)), log.with_columns(number.gather(log[what]))


def _in_time_order(log: pl.DataFrame, repeats: Repeats, bad_rows: BadRows) -> pl.DataFrame:
    """Orders each user's rows by time, ties in file order; drops repeats if asked."""
    log = log.sort("timestamp", maintain_order=True)
    keys = ["user", "item"]
    if repeats == "keep":
        return log
    if repeats == "consecutive":
        before = pl.col("item").shift(1).over("user")
        kept = log.filter(pl.col("item").ne_missing(before))
    elif repeats == "exact":
        kept = log.unique([*keys, "timestamp"], keep="first", maintain_order=True)
    else:
        kept = log.unique(keys, keep="first" if repeats == "drop" else "last", maintain_order=True)
    if repeated := len(log) - len(kept):
        bad_rows.count("repeated_interaction", repeated)
    return kept


def _filtered(log: pl.DataFrame, core: int, least: int, bad_rows: BadRows) -> pl.DataFrame:
    """Drops users that cannot be split, then everything outside the k-core."""
    kept = _at_least(log, "user", least)
    if short := log["user"].n_unique() - kept["user"].n_unique():
        bad_rows.count("user_too_short", short)
        bad_rows.count("interaction_of_user_too_short", len(log) - len(kept))
    if kept.is_empty():
        raise ValueError(
            f"interactions: no user has {least} interactions ({short} users have fewer), so "
            "none can be split into train, valid and test. Bring longer histories."
        )
    inner = k_core(kept, core, min_user=least) if core > 1 else kept
    if inner.is_empty():
        raise ValueError(
            f"interactions: nothing is left of {len(kept)} interactions after the {core}-core; "
            f"lower prepare.core (found {core}; 0 keeps everything) or bring more data."
        )
    for what in ("user", "item"):
        if lost := kept[what].n_unique() - inner[what].n_unique():
            bad_rows.count(f"{what}_outside_core", lost)
    if lost := len(kept) - len(inner):
        bad_rows.count("interaction_outside_core", lost)
    return inner


def k_core(log: pl.DataFrame, core: int, *, min_user: int = 0) -> pl.DataFrame:
    """Returns the largest part of `log` where every user and item has at least `core` rows.

    Args:
        log: user and item, one row per interaction; order is kept.
        core: least number of rows per user and per item.
        min_user: a higher least number for users.

    Returns:
        The rows left, perhaps none.
    """
    while True:
        kept = _at_least(_at_least(log, "item", core), "user", max(core, min_user))
        if len(kept) == len(log):
            return kept
        log = kept


def _at_least(log: pl.DataFrame, column: str, count: int) -> pl.DataFrame:
    return log.filter(pl.len().over(column) >= count)


def _table_of_items(items: pl.DataFrame) -> pl.DataFrame:
    attributes = [name for name in items.columns if name not in (*RAW_ITEMS, "item")]
    numbers = pl.int_range(len(items), dtype=pl.Int32).alias("item")
    return check(items.select(numbers, *RAW_ITEMS, *attributes), ITEMS, "prepare: items")


def _table_of_users(users: pl.DataFrame) -> pl.DataFrame:
    numbers = pl.int_range(len(users), dtype=pl.Int32).alias("user")
    return check(users.select(numbers, "user_id"), USERS, "prepare: users")
