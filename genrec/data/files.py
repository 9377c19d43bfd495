"""A user's own catalogue and log: any column names, attributes kept, images by path or URL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.data import tables
from genrec.data.cells import missing
from genrec.data.images import place_images
from genrec.data.logs import read_log, with_file
from genrec.data.settings import FilesSettings, ItemFile, LogFile
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean
from genrec.data.timestamps import times_of
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
        progress: told "read files" and "check images".

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
    found = [name for name in table.columns if name != "row"]
    texts = [n for n in ("description",) if n in found]
    texts = texts if spec.description is None else list(spec.description)
    image = spec.image or ("image" if "image" in found else None)
    named: dict[str, Sequence[str]] = {
        "item": [spec.item],
        "title": [spec.title],
        "image": [image] if image else [],
    }
    named |= {"description": texts, "attributes": spec.attributes or ()}
    named["numbers"] = spec.numbers
    for ours, names in named.items():
        for theirs in names:
            if theirs not in found:
                raise missing(path, ours, theirs, found, part)
    taken = {spec.item, spec.title, image, *texts}
    chosen = (
        spec.attributes if spec.attributes is not None else [n for n in found if n not in taken]
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
