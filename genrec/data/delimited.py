"""Text files with a separator: CSV, TSV and others; and the errors that all readers of tables share.

What polars refuses is looked up again in the file, so that the message can name the line.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import polars as pl
import polars.selectors as cs

from genrec.data.source import BadRows
from genrec.data.text import guarded, head, is_utf16, open_text

WHOLE = pl.QueryOptFlags(projection_pushdown=False)
_BATCH = 1_000_000  # lines that are split into cells at once


def columns_of(path: Path) -> list[str]:
    """Returns the columns of a CSV file, as its header names them.

    Raises:
        ValueError: the header has a column twice, or the file is UTF-16.
    """
    return list(_scan_cells(path, ",", '"', ragged=False).drop("_row").collect_schema())


def _scan_cells(path: Path, separator: str, quote: str | None, *, ragged: bool) -> pl.LazyFrame:
    if is_utf16(path):
        raise ValueError(f"{path}: the file is UTF-16. Save it as UTF-8.")
    lazy = pl.scan_csv(
        path,
        separator=separator,
        quote_char=quote,
        eol_char=_line_end(path, quote),
        infer_schema=False,
        row_index_name="_row",
        row_index_offset=2,
        truncate_ragged_lines=ragged,
    )
    names = list(lazy.collect_schema())
    if again := [n for n in names if "_duplicated_" in n]:
        raise ValueError(
            f"{path}: the header has a column twice: {again[0].partition('_dupl')[0]!r}. "
            "Rename or remove one of them."
        )
    return lazy


def _line_end(path: Path, quote: str | None) -> str:
    """Returns what ends a line: a carriage return where there is no other end outside of quotes."""
    start = head(path, 2**20)
    bare = start if quote is None else re.sub(rb'"[^"]*"', b"", start)
    return "\r" if b"\r" in bare and b"\n" not in bare else "\n"


def read_cells(
    path: Path,
    columns: Mapping[str, str] | None,
    bad_rows: BadRows,
    separator: str,
    quote: str | None,
    field: str,
) -> pl.DataFrame:
    """Reads CSV. Longer rows make polars stop; shorter ones end in a null, so those are looked up."""

    def scan(*, ragged: bool) -> pl.LazyFrame:
        lazy = _scan_cells(path, separator, quote, ragged=ragged)
        last = pl.col(list(lazy.collect_schema())[-1]).alias("_last")
        empty = pl.all_horizontal(pl.all().exclude("_row").is_null())  # a blank line is no row
        kept = lazy.filter(~empty).with_columns(last)
        return selected(kept, columns and {**columns, "_last": "_last"}, path, field)

    try:
        table = scan(ragged=False).collect(engine="streaming", optimizations=WHOLE)
    except pl.exceptions.ComputeError as error:
        if "truncate_ragged_lines" not in str(error):
            table = collect(path, "csv", lambda: scan(ragged=False))
        else:
            table = collect(path, "csv", lambda: scan(ragged=True))
            return _without_ragged(table, path, separator, quote, bad_rows).drop("_last")
    except (pl.exceptions.PolarsError, OSError):
        table = collect(path, "csv", lambda: scan(ragged=False))
    if table["_last"].null_count():
        table = _without_ragged(table, path, separator, quote, bad_rows)
    return table.drop("_last")


def _without_ragged(
    table: pl.DataFrame, path: Path, separator: str, quote: str | None, bad_rows: BadRows
) -> pl.DataFrame:
    """Judges the rows that have more or fewer cells than the header."""
    ragged_rows: dict[str, list[int]] = {"row": [], "cells": []}
    limit = csv.field_size_limit(2**31 - 1)
    row = 1
    try:
        with open_text(path, newline=_line_end(path, quote)) as text:
            reader = csv.reader(
                guarded(text, path),
                delimiter=separator,
                quotechar=quote,
                quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
            )
            width = len(next(reader))
            for row, cells in enumerate(reader, 2):
                if cells and len(cells) != width:
                    ragged_rows["row"].append(row)
                    ragged_rows["cells"].append(len(cells))
    except csv.Error as error:  # "new-line character seen in unquoted field"
        raise ValueError(
            f"{path}: row {row + 1} holds a carriage return outside of quotes ({error}): lines end in "
            "more than one way. Save the file with one kind of line end."
        ) from error
    finally:
        csv.field_size_limit(limit)
    ragged = pl.DataFrame(ragged_rows, schema={"row": table.schema["row"], "cells": pl.Int64})
    if ragged.is_empty():
        return table
    table = table.join(ragged, on="row", how="left", maintain_order="left")
    table = table.with_columns(pl.col("cells").fill_null(width))
    return _of_width(table, width, path, separator, quote, bad_rows)


def _of_width(
    table: pl.DataFrame,
    width: int,
    path: Path,
    separator: str,
    quote: str | None,
    bad_rows: BadRows,
) -> pl.DataFrame:
    """Judges the rows whose number of `cells` is another than the header's; drops the column."""
    fix = f'Put cells that contain the separator {separator!r} into "quotes"'
    if quote is None:
        fix = (
            f"Files of this kind have no quotes: replace a {separator!r} within a cell, such as a "
            "title, by a space"
        )
    return bad_rows.reject(
        table,
        pl.col("cells") != width,
        reason="ragged_row",
        where=path,
        problem=f"row with more or fewer cells than the {width} of the header",
        fix=fix,
        show=("cells",),
    ).drop("cells")


def split_cells(
    path: Path,
    columns: Mapping[str, str] | None,
    bad_rows: BadRows,
    separator: str,
    header: Sequence[str] | None,
    encoding: str,
    field: str,
) -> pl.DataFrame:
    """Reads cells that several letters separate, as in MovieLens-1M: `1::1193::5::978300760`."""
    parts: list[pl.Series] = []
    with open_text(path, encoding=encoding) as text:
        stream = guarded(text, path)
        names = list(header or next(stream, "").rstrip("\r\n").split(separator))
        while batch := [line.rstrip("\r\n") for line in islice(stream, _BATCH)]:
            parts.append(pl.Series("line", batch, dtype=pl.String))
    if again := [name for n, name in enumerate(names) if name in names[:n]]:
        raise ValueError(
            f"{path}: the header has a column twice: {again[0]!r}. Rename or remove one of them."
        )
    line = pl.concat(parts or [pl.Series("line", [], dtype=pl.String)]).to_frame()
    table = (
        line.with_row_index("row", 1 if header else 2)
        .filter(pl.col("line") != "")
        .with_columns(pl.col("line").str.split(separator))
        .with_columns(cells=pl.col("line").list.len().cast(pl.Int64))
    )
    table = _of_width(table, len(names), path, separator, None, bad_rows)
    for ours, theirs in (columns or {}).items():
        if theirs not in names:
            raise missing(path, ours, theirs, names, field)
    wanted = columns or {free(name): name for name in names}
    cell = {theirs: pl.col("line").list.get(n) for n, theirs in enumerate(names)}
    return table.select(
        "row",
        *(
            pl.when(cell[theirs] != "").then(cell[theirs]).alias(ours)  # as an empty cell of CSV
            for ours, theirs in wanted.items()
        ),
    )


def collect(path: Path, form: str, scan: Callable[[], pl.LazyFrame]) -> pl.DataFrame:
    """Runs a scan in batches; on failure reads the file as text, to say where it is wrong."""
    try:
        return scan().collect(engine="streaming", optimizations=WHOLE)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0]
        if form == "parquet":
            raise ValueError(
                f"{path}: not readable as parquet ({problem}). Write the file again."
            ) from error
        with open_text(path) as text:
            for _ in guarded(text, path):
                pass
        problem += "; is a quote opened and never closed?"
        raise ValueError(f"{path}: not readable as {form} ({problem}).") from error


def selected(
    scan: pl.LazyFrame, columns: Mapping[str, str] | None, path: Path, field: str
) -> pl.LazyFrame:
    """Returns `row` and columns of a scan, by our names or, with None, all by their own."""
    names = [name for name in scan.collect_schema() if name not in ("_row", "_last")]
    if columns is None:
        return scan.select(
            pl.col("_row").alias("row"),
            *(pl.col(n).alias(free(n)) for n in names),
            cs.by_name("_last", require_all=False),
        )
    for ours, theirs in columns.items():
        if theirs not in (*names, "_last"):
            raise missing(path, ours, theirs, names, field)
    row = pl.col("_row").alias("row")
    return scan.select(row, *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()))


def missing(path: Path, ours: str, theirs: str, columns: Sequence[str], field: str) -> ValueError:
    """Returns the error that a file lacks a column, with what it has and where to name it."""
    near = difflib.get_close_matches(theirs, columns, n=1, cutoff=0.6)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    separator = (
        " The file seems to have one column only: name its `separator`."
        if len(columns) == 1
        else ""
    )
    return ValueError(
        f"{path}: column '{theirs}' is missing; found {list(columns)}.{separator} {hint}"
        f"Name the column that holds it in {field}.{ours}."
    )


def free(name: str) -> str:
    """Returns a name that is not `row`, which is ours."""
    return "row_source" if name == "row" else name
