"""A log of interactions: which count, by rating, or by the weights of several kinds.

What decides whether an interaction counts is known at its time: weights add up as they come, never
looking ahead, so nothing of a held-out future reaches training.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec.data import tables
from genrec.data.settings import LogFile
from genrec.data.source import BadRows
from genrec.data.timestamps import parse, settle, times_of
from genrec.progress import Progress, silent


def with_file(parts: list[pl.DataFrame], paths: list[Path]) -> list[pl.DataFrame]:
    """Returns tables with the column `file` where there are several, for messages."""
    if len(parts) == 1:
        return parts
    names = pl.Enum([str(path) for path in paths])
    return [
        part.with_columns(file=pl.lit(str(path), dtype=names))
        for part, path in zip(parts, paths, strict=True)
    ]


def read_log(spec: LogFile, bad_rows: BadRows, progress: Progress = silent) -> pl.DataFrame:
    """Reads the interactions that count.

    Args:
        spec: the files and what counts.
        bad_rows: what to do with a bad rating, time, type or a ragged row.
        progress: told "read files".

    Returns:
        user_id, item_id (String), timestamp (Int64, see `timestamps.times_of`), row, and file where
        there are several; file by file, rows in their order, or by time where weights are given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read or lacks a column; a bad row.
    """
    paths = tables.files(spec.path, what="a log with a user, an item and a time per row")
    parts: list[pl.DataFrame] = []
    for done, path in enumerate(paths, 1):
        parts.append(_log_part(path, spec, bad_rows, first=sum(map(len, parts))))
        progress("read files", done, len(paths))
    log = pl.concat(with_file(parts, paths), how="diagonal")
    log = settle(log, where=spec.path, times=times_of(spec.timestamp, spec.unit))
    return _reaching(log, spec, bad_rows) if spec.type else log


def _log_part(path: Path, spec: LogFile, bad_rows: BadRows, *, first: int) -> pl.DataFrame:
    part = "prepare.source.interactions"
    columns = {"user": spec.user, "item": spec.item, "timestamp": spec.timestamp}
    columns |= {"type": spec.type, "rating": spec.rating}
    named = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    ids = ("user", "item")
    log = tables.read(
        path,
        named,
        bad_rows=bad_rows,
        separator=spec.separator,
        ids=ids,
        field=part,
        exact=("timestamp",),
    )
    log = log.rename({name: f"{name}_id" for name in ids})
    if spec.rating is not None:
        log = at_least(log, spec.min_rating, bad_rows=bad_rows, where=path, field=spec.rating)
    if spec.type is not None:
        log = _weighed(log, spec, bad_rows, path)
    if spec.timestamp is None:
        return log.with_columns(timestamp=pl.int_range(first, first + pl.len()))
    return parse(
        log,
        unit=spec.unit,
        bad_rows=bad_rows,
        where=path,
        field=spec.timestamp,
        setting=f"{part}.unit",
    )


def at_least(
    log: pl.DataFrame, least: float, *, bad_rows: BadRows, where: str | Path, field: str
) -> pl.DataFrame:
    """Returns the rows whose `rating` reaches a number; those below are counted, and no bad rows.

    Raises:
        ValueError: a rating is no number (unless such rows are dropped), or none reaches it.
    """
    value = pl.col("rating").cast(pl.Float64, strict=False)
    log = bad_rows.reject(
        log,
        value.is_null() | value.is_nan(),
        reason="bad_rating",
        where=where,
        problem=f"rating in '{field}' that is not a number",
        fix="Correct the rating",
        show=("user_id", "item_id", "rating"),
    ).with_columns(value)
    kept = log.filter(pl.col("rating") >= least)
    if below := len(log) - len(kept):
        bad_rows.count("below_min_rating", below)
    if kept.is_empty() and len(log):
        raise ValueError(
            f"{where}: no rating reaches min_rating={least:g}; the highest found is "
            f"{log['rating'].to_numpy().max():g}. Lower it in prepare.source."
        )
    return kept.drop("rating")


def _weighed(log: pl.DataFrame, spec: LogFile, bad_rows: BadRows, path: Path) -> pl.DataFrame:
    kinds, weights = list(spec.weights), list(spec.weights.values())
    weight = pl.col("type").replace_strict(kinds, weights, default=None, return_dtype=pl.Float64)
    found = log["type"].unique().sort().head(10).to_list()
    return (
        bad_rows.reject(
            log,
            weight.is_null(),
            reason="unnamed_type",
            where=path,
            problem=f"interaction of a type without weight; found the types {found}, weights for "
            f"{kinds}",
            fix="Name it in prepare.source.interactions.weights (0 where it shall not count)",
            show=("user_id", "item_id", "type"),
        )
        .with_columns(weight=weight)
        .drop("type")
    )


def _reaching(log: pl.DataFrame, spec: LogFile, bad_rows: BadRows) -> pl.DataFrame:
    so_far = pl.col("weight").cum_sum().over("user_id", "item_id")
    kept = log.sort("timestamp", maintain_order=True).filter(so_far >= spec.threshold - 1e-9)
    if below := len(log) - len(kept):
        bad_rows.count("below_threshold", below)
    return kept.drop("weight")
