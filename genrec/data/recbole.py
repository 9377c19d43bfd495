"""RecBole's atomic files: tab-separated, each header field with its type, as `item_id:token`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.data import files, tables
from genrec.data.context import read_names, settle_context
from genrec.data.delimited import Layout, missing
from genrec.data.files import OWN_COLUMNS, at_least
from genrec.data.images import place_images
from genrec.data.settings import RecBoleSettings, UserFile
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean
from genrec.data.text import guarded, open_text
from genrec.data.timestamps import Unit, parse, settle, times_of
from genrec.progress import Progress, silent

TYPES = ("token", "token_seq", "float", "float_seq")


def read(
    settings: RecBoleSettings, *, folder: Path, on_bad: OnBad = "error", progress: Progress = silent
) -> RawData:
    """Reads what `settings` name; see `read_recbole`. A `ReadSource`."""
    return read_recbole(**settings.options(), on_bad=on_bad, progress=progress)


def read_recbole(
    interactions: str | Path,
    items: str | Path,
    *,
    user: str = "user_id",
    item: str = "item_id",
    timestamp: str | None = "timestamp",
    unit: Unit = "auto",
    title: str | None = None,
    description: Sequence[str] | None = None,
    rating: str | None = None,
    min_rating: float = 0.0,
    context: Sequence[str] = (),
    images: str | None = None,
    max_unknown: float = 0.05,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads `<name>.inter` and `<name>.item`.

    Args:
        interactions: the `.inter` file.
        items: the `.item` file.
        user: the field of user ids (RecBole's USER_ID_FIELD).
        item: the field of item ids, in both files (ITEM_ID_FIELD).
        timestamp: the field of times (TIME_FIELD); None where there are none, and the order of rows
            counts.
        unit: of the times, see `timestamps.parse`.
        title: the field of titles; None takes `title`, or the one field whose name ends in it.
        description: fields joined to the description; None takes `description` where there is one.
        rating: the field of ratings.
        min_rating: ratings below are no interactions.
        context: fields of `.inter` that are kept with each interaction.
        images: as of `read_files`; URLs are expected in a field `image`.
        max_unknown: see `source.clean`.
        max_bytes: largest image file.
        max_pixels: largest width x height of an image.
        on_bad: raise on bad rows, or drop and count them.
        progress: called with "check images".

    Returns:
        The data in file order; further fields are attributes, those of type float as numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, has no typed header or lacks a field; a bad row.
    """
    bad_rows = BadRows(on_bad)
    fields = {"user_id": user, "item_id": item, "timestamp": timestamp, "rating": rating}
    there = {ours: theirs for ours, theirs in fields.items() if theirs is not None}
    log = _read(Path(interactions), there | read_names(context), bad_rows)
    if rating is not None:
        log = at_least(log, min_rating, bad_rows=bad_rows, where=interactions, field=rating)
    if timestamp is None:
        log = log.with_columns(timestamp=pl.int_range(pl.len()))
    else:
        log = parse(
            log,
            unit=unit,
            bad_rows=bad_rows,
            where=interactions,
            field=timestamp,
            setting="prepare.source.unit",
        )
        log = settle(log, where=interactions, times=times_of(timestamp, unit))
    log = settle_context(log, context, where=interactions)
    table = _items(Path(items), item, title, description, bad_rows)
    table, log = clean(
        table,
        log,
        bad_rows,
        items_from=items,
        interactions_from=interactions,
        max_unknown=max_unknown,
    )
    table = place_images(
        table,
        images,
        bad_rows=bad_rows,
        where=items,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        progress=progress,
    )
    return RawData(
        table.select(*RAW_ITEMS, pl.exclude(*RAW_ITEMS, "row")),
        log.select(*RAW_INTERACTIONS, *context),
        dropped=bad_rows.dropped,
        times=times_of(timestamp, unit),
    )


def read_users(spec: UserFile, bad_rows: BadRows) -> pl.DataFrame:
    """Reads a `.user` file; `spec` names its fields without their types. See `files.read_users`."""
    types = header(Path(spec.path))
    tsv = spec.model_copy(update={"format": "tsv", "quoting": "none"})
    typed = {name: f"{name}:{kind}" for name, kind in types.items()}
    return files.read_users(tsv, bad_rows, names=typed)


def header(path: Path) -> dict[str, str]:
    """Returns the fields of an atomic file and their types.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or its header is not `name:type` by tabs.
    """
    tables.files(path, what="a RecBole atomic file")
    with open_text(path) as stream:
        first = next(iter(guarded(stream, path)), "").rstrip("\r\n")
    fields = dict(cell.rpartition(":")[::2] for cell in first.split("\t"))
    odd = [name for name in fields if not name or ":" in name]
    if odd or not set(fields.values()) <= set(TYPES):
        raise ValueError(
            f"{path}: line 1 is {first[:200]!r}, expected fields by tabs, each with its type, such as "
            f"'user_id:token\\titem_id:token\\ttimestamp:float'; types are {', '.join(TYPES)}."
        )
    return fields


def _read(path: Path, columns: dict[str, str] | None, bad_rows: BadRows) -> pl.DataFrame:
    """Reads fields of one file as text, by our names or, with None, all by their own."""
    types = header(path)
    chosen = {name: name for name in types} if columns is None else columns
    for ours, theirs in chosen.items():
        if theirs not in types:
            raise missing(Layout(path, path, "\t"), ours, theirs, list(types))
    typed = {ours: f"{theirs}:{types[theirs]}" for ours, theirs in chosen.items()}
    return tables.read(path, typed, bad_rows=bad_rows, form="tsv", quoting="none")


def _items(
    path: Path, item: str, title: str | None, description: Sequence[str] | None, bad_rows: BadRows
) -> pl.DataFrame:
    types = header(path)
    title = title or _title(path, list(types))
    texts = [n for n in ("description",) if n in types] if description is None else description
    for ours, names in (("item", [item]), ("title", [title]), ("description", texts)):
        for theirs in names:
            if theirs not in types:
                raise missing(Layout(path, path, "\t"), ours, theirs, list(types))
    table = _read(path, None, bad_rows)
    extra = [n for n in types if n not in (item, title, "image", *texts)]
    for name in [n for n in extra if types[n] == "float"]:
        table = bad_rows.reject(
            table,
            pl.col(name).is_not_null() & pl.col(name).cast(pl.Float64, strict=False).is_null(),
            reason="bad_number",
            where=path,
            problem=f"'{name}' that is not a number, although its type is float",
            fix="Correct the cell, or make the field's type token",
            show=(item, name),
        )
    return table.select(
        "row",
        pl.col(item).alias("item_id"),
        pl.col(title).str.strip_chars().alias("title"),
        pl.concat_str(pl.lit(""), *texts, separator=" ", ignore_nulls=True)
        .str.strip_chars()
        .alias("description"),
        pl.col("image") if "image" in types else pl.lit(None, pl.String).alias("image"),
        *(
            pl.col(n)
            .cast(pl.Float64 if types[n] == "float" else pl.String, strict=False)
            .alias(f"{n}_source" if n in OWN_COLUMNS else n)
            for n in extra
        ),
    )


def _title(path: Path, fields: Sequence[str]) -> str:
    titles = ["title"] if "title" in fields else [n for n in fields if n.endswith("title")]
    if len(titles) != 1:
        raise ValueError(
            f"{path}: no field 'title', nor a single one that ends in it; found {list(fields)}. "
            "Name the field that holds the title in prepare.source.title."
        )
    return titles[0]
