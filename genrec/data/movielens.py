"""Reads MovieLens (`ratings.csv`, `movies.csv`, or `.dat`) and, where there is one, a folder of posters.

Every cell is read as text first, so that a bad one can be named instead of guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.data import tables
from genrec.data.context import read_names, settle_context
from genrec.data.images import attach_images, verify_images
from genrec.data.settings import MovieLensSettings
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean, existing
from genrec.data.text import is_utf8
from genrec.data.timestamps import parse, settle
from genrec.progress import Progress, silent


def read(
    settings: MovieLensSettings,
    *,
    folder: Path,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads what `settings` name; see `read_movielens`. A `ReadSource`."""
    return read_movielens(**settings.options(), on_bad=on_bad, progress=progress)


def read_movielens(
    ratings: str | Path,
    movies: str | Path,
    *,
    images: str | Path | None = None,
    check_images: bool = True,
    min_rating: float = 0.0,
    context: Sequence[str] = (),
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads one MovieLens release: CSV (ml-latest-small, ml-25m, ml-32m, ...) or `.dat` (1M, 10M).

    Files that end in `.dat` have the same columns in this order, without a header, and `::` between
    them. The titles of 1M are in ISO 8859-1: a `.dat` file that is not UTF-8 is read so.

    Args:
        ratings: CSV with userId, movieId, rating, timestamp (seconds); any case, any order.
        movies: CSV with movieId, title, genres (separated by |).
        images: a folder with `<movieId>.jpg|jpeg|png|webp`.
        check_images: decode every image once (see `verify_images`).
        min_rating: ratings below it are no interactions; they are counted, not bad.
        context: `rating`, or nothing: what is kept with each interaction.
        on_bad: raise on bad rows, or drop and count them.
        progress: called with "check images".

    Returns:
        The data in file order, with the attributes genres and year (from the title, or null).

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file is empty, is not CSV or lacks a column; a bad row.
    """
    bad_rows = BadRows(on_bad)
    items = attach_images(_items(Path(movies), bad_rows), images)
    log = _interactions(Path(ratings), min_rating, bad_rows)
    log = settle_context(
        log.with_columns(pl.col("value").alias(n) for n in read_names(context)),
        context,
        where=ratings,
    )
    items, log = clean(items, log, bad_rows, items_from=movies, interactions_from=ratings)
    if images is not None and check_images:
        items, lost = verify_images(items, on_bad=on_bad, progress=progress)
        if lost:
            bad_rows.count("unreadable_image", lost)
    attributes = [name for name in items.columns if name not in (*RAW_ITEMS, "row")]
    return RawData(
        items.select(*RAW_ITEMS, *attributes),
        log.select(*RAW_INTERACTIONS, *context),
        dropped=bad_rows.dropped,
    )


def _read(path: Path, columns: Sequence[str], bad_rows: BadRows) -> pl.DataFrame:
    """Reads `columns` (matched without case) as text, plus `row`: the line number in the file."""
    existing(path, what=f"CSV with the columns {', '.join(columns)}")
    # Line numbers hold where no cell spans lines, as in every release.
    if path.suffix.lower() == ".dat":
        return tables.read(
            path,
            bad_rows=bad_rows,
            form="csv",
            separator="::",
            header=columns,
            encoding="utf-8" if is_utf8(path) else "iso-8859-1",
        )
    table = tables.read(path, bad_rows=bad_rows, form="csv")
    columns_there = {name.strip().lower(): name for name in table.columns}
    for name in columns:
        if name.lower() not in columns_there:
            raise ValueError(
                f"{path}: column '{name}' is missing; found {table.columns[1:]}, "
                f"expected {list(columns)}. Add the column or rename the one that holds it. (Files "
                "of 1M and 10M, without a header and with '::', keep their ending .dat.)"
            )
    return table.select("row", *(pl.col(columns_there[n.lower()]).alias(n) for n in columns))


def _items(path: Path, bad_rows: BadRows) -> pl.DataFrame:
    genres = pl.when(~pl.col("genres").str.starts_with("(no genres")).then(pl.col("genres"))
    listed = pl.col("genres").str.replace_all("|", ", ", literal=True)
    about = pl.concat_str(
        pl.lit("Film"),
        pl.format(" from {}", "year").fill_null(""),
        pl.format(": {}", listed.str.to_lowercase().str.replace("imax", "IMAX")).fill_null(""),
        pl.lit("."),
    )
    return (
        _read(path, ("movieId", "title", "genres"), bad_rows)
        .rename({"movieId": "item_id"})
        .with_columns(
            pl.col("item_id", "title").str.strip_chars(),
            genres.alias("genres"),
            year=pl.col("title").str.extract(r"\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$"),
        )
        .with_columns(description=about, genres=listed)
    )


def _interactions(path: Path, min_rating: float, bad_rows: BadRows) -> pl.DataFrame:
    log = _read(path, ("userId", "movieId", "rating", "timestamp"), bad_rows)
    log = log.rename({"userId": "user_id", "movieId": "item_id"}).with_columns(
        pl.col("user_id", "item_id").str.strip_chars(),
        value=pl.col("rating").str.strip_chars().cast(pl.Float64, strict=False),
    )
    log = bad_rows.reject(
        log,
        pl.col("value").is_null() | pl.col("value").is_nan(),
        reason="bad_rating",
        where=path,
        problem="rating that cannot be read; expected a number",
        fix="Correct the rating",
        show=("user_id", "item_id", "rating"),
    )
    log = settle(parse(log, unit="s", bad_rows=bad_rows, where=path), where=path, times="ns")
    kept = log.filter(pl.col("value") >= min_rating)
    if below := len(log) - len(kept):
        bad_rows.count("below_min_rating", below)
    if kept.is_empty():
        raise ValueError(
            f"{path}: no rating reaches min_rating={min_rating:g}; the highest found is "
            f"{log['value'].to_numpy().max():g}. Lower prepare.source.min_rating."
        )
    return kept
