"""A user's own catalogue and log: any column names, attributes kept, images by path or URL.

What decides whether an interaction counts is known at its time: weights add up as they come, never
looking ahead, so nothing of a held-out future reaches training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.data import tables
from genrec.data.delimited import missing
from genrec.data.images import place_images
from genrec.data.settings import FilesSettings, ItemFile, LogFile
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean
from genrec.data.timestamps import parse, settle, times_of
from genrec.progress import Progress, silent

# An attribute of one of these names gets the suffix `_source`.
OWN_COLUMNS = ("item", "user", "row", "file", "image_url", *RAW_ITEMS)


def read(
    settings: FilesSettings, *, folder: Path, on_bad: OnBad = "error", progress: Progress = silent
) -> RawData:
    """Reads what `settings` name; see `read_files`. A `ReadSource`."""
    return read_files(**settings.options(), on_bad=on_bad, progress=progress)


def read_files(
    items: ItemFile,
    interactions: LogFile,
    *,
    images: str | None = None,
    max_unknown: float = 0.05,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads a user's own catalogue and log.

    Args:
        items: the catalogue.
        interactions: the log.
        images: a folder that the paths of the image column start at and never leave (without such
            a column, its images are found by item id); or "download", and the column has URLs,
            which are left in `image_url` (see `download.fetch`); None for no images.
        max_unknown: see `source.clean`.
        max_bytes: largest image file.
        max_pixels: largest width x height of an image.
        on_bad: raise on bad rows, or drop and count them. A damaged file always raises.
        progress: called with "read files" and "check images".

    Returns:
        The data in file order, several files by name (`x-2` before `x-10`); by time where weights are
        given.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file cannot be read or lacks a column; a bad row.
    """
    bad_rows = BadRows(on_bad)
    log = read_log(interactions, bad_rows, progress)
    table = _items(items, bad_rows)
    table, log = clean(
        table,
        log,
        bad_rows,
        items_from=items.path,
        interactions_from=interactions.path,
        max_unknown=max_unknown,
    )
    table = place_images(
        table,
        images,
        bad_rows=bad_rows,
        where=items.path,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        progress=progress,
    )
    attributes = [name for name in table.columns if name not in (*RAW_ITEMS, "row", "file")]
    return RawData(
        table.select(*RAW_ITEMS, *attributes),
        log.select(list(RAW_INTERACTIONS)),
        dropped=bad_rows.dropped,
        times=times_of(interactions.timestamp, interactions.unit),
    )


def _items(spec: ItemFile, bad_rows: BadRows) -> pl.DataFrame:
    paths = tables.files(spec.path, what="a catalogue with an id and a title per item")
    parts = [_item_part(path, spec, bad_rows) for path in paths]
    return pl.concat(with_file(parts, paths), how="diagonal_relaxed")


def _item_part(path: Path, spec: ItemFile, bad_rows: BadRows) -> pl.DataFrame:
    part = "prepare.source.items"
    table = tables.read(
        path, bad_rows=bad_rows, separator=spec.separator, ids=(spec.item,), field=part
    )
    columns = [name for name in table.columns if name != "row"]
    texts = [n for n in ("description",) if n in columns]
    texts = texts if spec.description is None else list(spec.description)
    image = spec.image or ("image" if "image" in columns else None)
    named: dict[str, Sequence[str]] = {
        "item": [spec.item],
        "title": [spec.title],
        "image": [image] if image else [],
    }
    named |= {"description": texts, "attributes": spec.attributes or ()}
    named["numbers"] = spec.numbers
    for ours, names in named.items():
        for theirs in names:
            if theirs not in columns:
                raise missing(path, ours, theirs, columns, part)
    taken = {spec.item, spec.title, image, *texts}
    chosen = (
        spec.attributes if spec.attributes is not None else [n for n in columns if n not in taken]
    )
    extra = [(n, tables.as_attribute(n, table.schema[n])) for n in chosen]
    return _numbers(
        table.select(
            "row",
            pl.col(spec.item).alias("item_id"),
            _text(table, spec.title).alias("title"),
            pl.concat_str(
                pl.lit(""), *(_text(table, n) for n in texts), separator=" ", ignore_nulls=True
            )
            .str.strip_chars()
            .alias("description"),
            _first(table, image).alias("image"),
            *(e.alias(f"{n}_source" if n in OWN_COLUMNS else n) for n, e in extra if e is not None),
        ),
        spec,
        path,
        bad_rows,
    )


def _text(table: pl.DataFrame, column: str) -> pl.Expr:
    value = tables.as_attribute(column, table.schema[column])
    return pl.lit(None, pl.String) if value is None else value.cast(pl.String)


def _first(table: pl.DataFrame, column: str | None) -> pl.Expr:
    """Returns the first of several images."""
    if column is None:
        return pl.lit(None, dtype=pl.String)
    if isinstance(table.schema[column], pl.List):
        return pl.col(column).list.first().cast(pl.String)
    return _text(table, column)


def _numbers(table: pl.DataFrame, spec: ItemFile, path: Path, bad_rows: BadRows) -> pl.DataFrame:
    for name in spec.numbers:
        column = f"{name}_source" if name in OWN_COLUMNS else name
        number = pl.col(column).cast(pl.Float64, strict=False)
        table = bad_rows.reject(
            table,
            pl.col(column).is_not_null() & number.is_null(),
            reason="bad_number",
            where=path,
            problem=f"'{name}' that is not a number; expected such as 12.99",
            fix="Correct the cell, or take the column out of prepare.source.items.numbers",
            show=("item_id", column),
        ).with_columns(number)
    return table


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
        progress: called with "read files".

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
    types = log["type"].unique().sort().head(10).to_list()
    return (
        bad_rows.reject(
            log,
            weight.is_null(),
            reason="unnamed_type",
            where=path,
            problem=f"interaction of a type without weight; found the types {types}, weights for "
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
