"""What every data source returns, and the one place where bad rows are judged.

A source is a function from its settings to `RawData`, around one with plain keyword arguments;
`split.prepare` does the rest. A bad row is an error that says how to fix it, or is dropped and counted.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, get_args

import polars as pl

from genrec import registry
from genrec.data.protocols import Parts
from genrec.data.settings import SourceSettings, UserFile
from genrec.progress import Progress, silent

logger = logging.getLogger(__name__)
OnBad = Literal["error", "drop"]
# What timestamps are: nanoseconds since 1970 (UTC); numbers without a unit, larger the later, which
# compare between users; or positions in a list or file, which do not.
Times = Literal["ns", "order", "none"]

RAW_ITEMS = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "image": pl.String,
}
RAW_INTERACTIONS = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
RAW_GROUPS = {"user_id": pl.String, "item_id": pl.String, "group": pl.String}


@dataclass(frozen=True)
class GivenSplit:
    """A split that comes with the data, in dense ids.

    Attributes:
        name: of the dataset, for messages.
        items: schema `ITEMS`.
        users: user and user_id, also users without interactions.
        parts: the split; its interactions are those of `RawData.interactions`, row by row.
    """

    name: str
    items: pl.DataFrame
    users: pl.DataFrame
    parts: Parts


@dataclass(frozen=True)
class RawData:
    """A catalogue and its interaction log, in the owner's ids and in file order.

    Attributes:
        items: item_id, title, description (String, never null), image (String or null: a path,
            absolute or relative to the output folder), then any attribute columns (String, numbers or
            Boolean, or null); `image_url` among them is where an image can be fetched.
        interactions: user_id, item_id (String), timestamp (Int64, see `times`), then any context
            (String or Float64, or null).
        times: what timestamps are.
        sids: published SIDs by item_id, all of one length; None where the source has none.
        further_sids: those of further sets of SIDs.
        truth: what only a synthetic source knows, by table name; for evaluation only.
        groups: user_id, item_id, group (String): the groups of an interaction, such as what decided it;
            it may have several or none. Metrics are reported for each; only `evaluate` reads it. None
            where the source has no groups.
        dropped: how many rows the source left out, by reason.
        given: the split that comes with the data; None where there is none.
        user_attributes: user_id (String), then what is known of users (String or Float64, or null), each
            user at most once; None where the source has none.
        findings: what is odd about the files, as sentences; the source has warned of it.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    sids: dict[str, tuple[int, ...]] | None = None
    truth: dict[str, pl.DataFrame] = field(default_factory=dict)
    groups: pl.DataFrame | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    times: Times = "ns"
    given: GivenSplit | None = None
    findings: tuple[str, ...] = ()
    further_sids: tuple[dict[str, tuple[int, ...]], ...] = ()
    user_attributes: pl.DataFrame | None = None


class ReadSource(Protocol):
    """What a source's settings name as their `implementation`."""

    def __call__(
        self, settings: Any, *, folder: Path, on_bad: OnBad, progress: Progress
    ) -> RawData:
        """Reads a dataset.

        Args:
            settings: the source's section, a `SourceSettings`.
            folder: where files may be written that stay with the tables, such as images.
            on_bad: raise on bad rows, or drop and count them.
            progress: called while it reads.

        Raises:
            FileNotFoundError: a file or folder is missing.
            ValueError: a file cannot be read; a bad row.
        """


def read_source(
    settings: SourceSettings,
    *,
    folder: str | Path,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads a dataset by whatever source `settings` belong to, and its table of users, if it has one.

    Raises:
        FileNotFoundError, ValueError: as `ReadSource`; or nobody of the table is in the data.
    """
    read: ReadSource = registry.implementation(settings)
    raw = read(settings, folder=Path(folder), on_bad=on_bad, progress=progress)
    if settings.user_file is None:
        return raw
    bad_rows = BadRows(on_bad)
    bad_rows.dropped.update(raw.dropped)
    users: pl.DataFrame = registry.resolve(settings.read_users)(settings.user_file, bad_rows)
    return _with_users(raw, users, settings.user_file, bad_rows)


def _with_users(raw: RawData, users: pl.DataFrame, spec: UserFile, bad_rows: BadRows) -> RawData:
    known = raw.interactions["user_id"] if raw.given is None else raw.given.users["user_id"]
    if not users["user_id"].is_in(known.implode()).any():
        raise ValueError(
            f"{spec.path}: nobody in '{spec.user}' is in the interactions: ids there are such as "
            f"{users['user_id'].head(3).to_list()}, and those of the interactions such as "
            f"{known.head(3).to_list()}. Ids are compared letter by letter: write them alike, or name "
            "another column by `user` in prepare.source.users."
        )
    return replace(
        raw,
        user_attributes=users,
        dropped=bad_rows.dropped,
        findings=(*raw.findings, *bad_rows.findings),
    )


class BadRows:
    """Raises on bad rows, or drops and counts them; warns of what is odd and keeps it.

    Args:
        on_bad: "error" raises `ValueError` at the first kind of bad row met; "drop" removes such
            rows and counts them in `dropped` under their reason.

    Raises:
        ValueError: `on_bad` is neither.
    """

    def __init__(self, on_bad: OnBad = "error") -> None:
        if on_bad not in get_args(OnBad):
            raise ValueError(f"prepare.on_bad: found {on_bad!r}, expected one of {get_args(OnBad)}")
        self.on_bad = on_bad
        self.dropped: dict[str, int] = {}
        self.findings: list[str] = []

    def reject(
        self,
        table: pl.DataFrame,
        bad: pl.Expr,
        *,
        reason: str,
        where: str | Path,
        problem: str,
        fix: str,
        show: Sequence[str],
    ) -> pl.DataFrame:
        """Returns `table` without the rows where `bad` holds.

        Args:
            table: any table.
            bad: a boolean expression over its columns; null counts as False.
            reason: the key in `dropped`.
            where: the file that the rows came from.
            problem: what was found and what was expected.
            fix: what the owner can do about it.
            show: columns that identify a row in the message (so do columns `file` and `row`).

        Raises:
            ValueError: there are such rows and `on_bad` is "error".
        """
        mask = table.select(bad.fill_null(False)).to_series()
        if not (count := int(mask.sum())):
            return table
        if self.on_bad == "error":
            columns = [name for name in ("file", "row", *show) if name in table.columns]
            shown = table.filter(mask).select(columns).head(3).rows(named=True)
            self.fail(where, f"{problem} ({count} in all; first: {_listed(shown)})", fix)
        self.count(reason, count)
        return table.filter(~mask)

    def count(self, reason: str, count: int = 1) -> None:
        """Adds `count` dropped rows under `reason`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def warn(self, finding: str) -> None:
        """Warns of what is odd and no error; `findings` keeps it, once."""
        if finding not in self.findings:
            logger.warning("%s", finding)
            self.findings.append(finding)

    @staticmethod
    def fail(where: str | Path, problem: str, fix: str) -> None:
        """Raises the error of a bad row, with both ways to fix it.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{where}: {problem}. {fix}, or set prepare.on_bad=drop to drop and count such rows."
        )


def _listed(rows: Sequence[Mapping[str, object]]) -> str:
    return "; ".join(", ".join(f"{k} {v!r}" for k, v in row.items()) for row in rows)


def existing(path: str | Path, *, what: str) -> Path:
    """Returns `path` as a Path if it is a file that is not empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected {what}. "
            "Correct the path in the recipe's prepare.source."
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; expected {what}.")
    return path


def clean(
    items: pl.DataFrame,
    interactions: pl.DataFrame,
    bad_rows: BadRows,
    *,
    items_from: str | Path,
    interactions_from: str | Path,
    max_unknown: float | None = None,
    fixes: Mapping[str, str] = MappingProxyType({}),
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns both tables with every bad row judged.

    Args:
        items: the columns of `RAW_ITEMS`, and any more.
        interactions: the columns of `RAW_INTERACTIONS`, and any more (`row` is shown in errors).
        bad_rows: what to do with an empty id or title, a repeated item_id, an empty user or time,
            an interaction with an item that is not in the catalogue.
        items_from: the catalogue's file, for the messages.
        interactions_from: the log's file.
        max_unknown: interactions with items that the catalogue lacks are dropped and counted up to
            this share of all; more are an error whatever `bad_rows` does, for then the two files
            hardly belong together. None judges them like any other bad row.
        fixes: what else the owner can do, by reason; for messages.

    Raises:
        ValueError: a bad row (unless they are dropped), or a table without rows.
    """
    items = _clean_items(items, bad_rows, items_from, fixes)
    interactions = _clean_interactions(interactions, bad_rows, interactions_from, fixes)
    if max_unknown is None:
        interactions = bad_rows.reject(
            interactions,
            ~pl.col("item_id").is_in(items["item_id"].implode()),
            reason="unknown_item",
            where=interactions_from,
            problem=f"interaction with an item that {items_from} does not have",
            fix="Add the item to the catalogue or remove the interaction",
            show=("user_id", "item_id"),
        )
    else:
        interactions = _tolerated(
            interactions, items["item_id"], bad_rows, max_unknown, items_from, interactions_from
        )
    for table, where in ((items, items_from), (interactions, interactions_from)):
        if table.is_empty():
            dropped = f" (dropped: {bad_rows.dropped})" if bad_rows.dropped else ""
            raise ValueError(f"{where}: no usable rows{dropped}; expected at least one.")
    return items, interactions


def _fix(usual: str, reason: str, fixes: Mapping[str, str]) -> str:
    return f"{usual}, or {fixes[reason]}" if reason in fixes else usual


def _clean_items(
    items: pl.DataFrame, bad_rows: BadRows, where: str | Path, fixes: Mapping[str, str]
) -> pl.DataFrame:
    items = bad_rows.reject(
        items,
        _blank("item_id"),
        reason="item_without_id",
        where=where,
        problem="item without an item_id; expected a non-empty id",
        fix="Give the item an id",
        show=("title",),
    )
    items = bad_rows.reject(
        items,
        ~pl.col("item_id").is_first_distinct(),
        reason="repeated_item_id",
        where=where,
        problem="repeated item_id; expected every item once",
        fix=_fix("Keep one row per item", "repeated_item_id", fixes),
        show=("item_id",),
    )
    return bad_rows.reject(
        items,
        _blank("title"),
        reason="empty_title",
        where=where,
        problem="empty title; expected some text",
        fix="Fill in the title",
        show=("item_id",),
    ).with_columns(pl.col("description").fill_null(""))


def _clean_interactions(
    interactions: pl.DataFrame, bad_rows: BadRows, where: str | Path, fixes: Mapping[str, str]
) -> pl.DataFrame:
    for column in ("user_id", "item_id", "timestamp"):
        empty = pl.col(column).is_null() if column == "timestamp" else _blank(column)
        reason = f"interaction_without_{column}"
        interactions = bad_rows.reject(
            interactions,
            empty,
            reason=reason,
            where=where,
            problem=f"interaction without {column}",
            fix=_fix(f"Fill in the {column}", reason, fixes),
            show=tuple(RAW_INTERACTIONS),
        )
    return interactions


def _tolerated(
    interactions: pl.DataFrame,
    known: pl.Series,
    bad_rows: BadRows,
    most: float,
    items_from: str | Path,
    where: str | Path,
) -> pl.DataFrame:
    """Drops and counts interactions with unknown items, up to a share of all."""
    mask = ~interactions["item_id"].is_in(known.implode())
    count, total = int(mask.sum()), len(interactions)
    if count > most * total:
        absent = interactions.filter(mask)["item_id"].unique(maintain_order=True)
        alike = _plain(absent).is_in(_plain(known).implode()).sum()
        hint = (
            f" Of {len(absent):,} such ids {alike:,} differ from one there only by case, zeros in front "
            "or '.0' behind."
        )
        raise ValueError(
            f"{where}: {count:,} of {total:,} interactions ({count / total:.1%}) are with items that "
            f"{items_from} does not have, such as {absent.head(3).to_list()}; expected at most "
            f"{most:.1%}.{hint if alike else ''} Ids are compared letter by letter: write them alike, "
            "name another id column, or raise prepare.source.max_unknown to drop and count them."
        )
    if count:
        bad_rows.count("unknown_item", count)
        return interactions.filter(~mask)
    return interactions


def _plain(ids: pl.Series) -> pl.Series:
    """Returns ids as they would be, had no spreadsheet touched them; for a hint only."""
    return ids.str.to_lowercase().str.replace(r"\.0$", "").str.strip_chars_start("0")


def _blank(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column).str.strip_chars() == "")


def hashed(ids: pl.Series, salt: str) -> pl.Series:
    """Returns the HMAC-SHA256 of each id, 64 hex digits.

    Raises:
        ValueError: the salt is empty.
    """
    if not salt:
        raise ValueError("prepare.hash_users.salt is empty; anybody could compute such hashes")
    key = salt.encode()
    digests = [hmac.new(key, own.encode(), hashlib.sha256).hexdigest() for own in ids]
    return pl.Series(ids.name, digests, dtype=pl.String)


def hash_users(raw: RawData, salt: str) -> RawData:
    """Returns the same data with every user id as 64 hex digits; order and rows stay.

    HMAC-SHA256 (RFC 2104): without the salt nobody can try ids until one fits. It hides names, not
    habits: a history that somebody knows can still be recognised.

    Args:
        raw: any source's data; its log, groups, truth, the given split's users and the users'
            attributes are rewritten.
        salt: the secret; the same salt and id give the same digits.

    Raises:
        ValueError: the salt is empty.
    """
    tables = [raw.interactions, *raw.truth.values()]
    tables += [raw.groups] if raw.groups is not None else []
    tables += [raw.given.users] if raw.given is not None else []
    tables += [raw.user_attributes] if raw.user_attributes is not None else []
    known = (
        pl.concat([t["user_id"] for t in tables if "user_id" in t.columns]).unique().drop_nulls()
    )
    new = pl.col("user_id").replace_strict(known, hashed(known, salt))

    def rewritten(table: pl.DataFrame) -> pl.DataFrame:
        return table.with_columns(new) if "user_id" in table.columns else table

    return replace(
        raw,
        interactions=rewritten(raw.interactions),
        groups=None if raw.groups is None else rewritten(raw.groups),
        truth={name: rewritten(table) for name, table in raw.truth.items()},
        given=None if raw.given is None else replace(raw.given, users=rewritten(raw.given.users)),
        user_attributes=None if raw.user_attributes is None else rewritten(raw.user_attributes),
    )
