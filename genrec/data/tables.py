"""Reads owners' tables: parquet, CSV, TSV and JSON lines, plain, gzip or zstd, through polars.

Cells of text files stay text, so that no id loses a zero and no formula is anything but letters;
what polars refuses is looked up again in the file, so that the message can name the line.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl
import polars.selectors as cs

from genrec.data.lines import as_written, guarded, lines, open_text
from genrec.data.source import BadRows, existing
from genrec.data.text import as_text
from genrec.resources import matching

Format = Literal["parquet", "csv", "tsv", "jsonl"]
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_WHOLE = pl.QueryOptFlags(projection_pushdown=False)


def files(pattern: str | Path, *, what: str) -> list[Path]:
    """Returns the files that a path or glob names, none of them empty.

    They are in the order of their names, numbers by size: `clicks-2` comes before `clicks-10`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is empty.
    """
    found = sorted(matching(pattern), key=_in_sequence)
    return [existing(path, what=what) for path in found or [Path(pattern)]]


def _in_sequence(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], str(path)


def format_of(path: Path) -> Format:
    """Returns the format that a file's name tells.

    Raises:
        ValueError: it tells none.
    """
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".zst")]
    if not suffixes or suffixes[-1] not in _SUFFIXES:
        raise ValueError(
            f"{path}: unknown kind of file; expected a name that ends in "
            f"{', '.join(sorted(_SUFFIXES))}, with .gz or .zst after it where it is compressed."
        )
    return _SUFFIXES[suffixes[-1]]


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    bad_rows: BadRows,
    form: Format | None = None,
    separator: str | None = None,
    quote: str | None = '"',
    field: str = "prepare.source",
    exact: Sequence[str] = (),
) -> pl.DataFrame:
    """Reads columns of one file.

    Args:
        path: its name tells format and compression.
        columns: our name to the owner's; None reads all of them (JSON lines: only in this form are
            lists and objects kept).
        bad_rows: what to do with a ragged row of CSV; all else that is wrong with a file raises.
        form: the format where the name does not tell it.
        separator: of CSV and TSV where it is neither "," nor a tab.
        quote: of CSV and TSV; None where quotes are letters like others.
        field: the part of the recipe that names columns, for messages.
        exact: our names of columns whose decimals JSON lines keep digit by digit, not as float64.

    Returns:
        `row` (UInt32: the line in a text file without line breaks in cells; the place from 1 in
        parquet), then the columns: String from text files, their own type from parquet.

    Raises:
        ValueError: the file is cut off, not UTF-8, misshapen, without rows or lacks a column.
    """
    form = form or format_of(path)
    if form == "jsonl" and columns is None:
        table = _objects(path)
    elif form == "jsonl":
        table = _collect(path, form, lambda: _scan_lines(path, columns or {}, field))
        for ours in exact:
            if columns and ours in columns and (digits := as_written(path, columns[ours])):
                texts = [as_text(value) for value in digits]
                table = table.with_columns(pl.Series(ours, texts, dtype=pl.String))
    elif form == "parquet":
        scan = pl.scan_parquet(path, row_index_name="_row", row_index_offset=1)
        table = _collect(path, form, lambda: _selected(scan, columns, path, field))
    else:
        separator = separator or ("\t" if form == "tsv" else ",")
        table = _read_cells(path, columns, bad_rows, separator, quote, field)
    if table.is_empty():
        raise ValueError(f"{path}: no rows; expected at least one. Is it the right file?")
    return table


def _collect(path: Path, form: Format, scan: Callable[[], pl.LazyFrame]) -> pl.DataFrame:
    """Runs a scan in batches; on failure reads the file as text, to say where it is wrong."""
    try:
        return scan().collect(engine="streaming", optimizations=_WHOLE)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0]
        if form == "parquet":
            raise ValueError(
                f"{path}: not readable as parquet ({problem}). Write the file again."
            ) from error
        if form == "jsonl":
            for _ in lines(path):
                pass
            with path.open("rb") as stream:
                if stream.read(3) == b"\xef\xbb\xbf":
                    problem = "it begins with a byte order mark; save it as UTF-8 without one"
        else:
            with open_text(path) as text:
                for _ in guarded(text, path):
                    pass
            problem += "; is a quote opened and never closed?"
        raise ValueError(f"{path}: not readable as {form} ({problem}).") from error


def _selected(
    scan: pl.LazyFrame, columns: Mapping[str, str] | None, path: Path, field: str
) -> pl.LazyFrame:
    found = [name for name in scan.collect_schema() if name not in ("_row", "_last")]
    if columns is None:
        return scan.select(
            pl.col("_row").alias("row"),
            *(pl.col(n).alias(_free(n)) for n in found),
            cs.by_name("_last", require_all=False),
        )
    for ours, theirs in columns.items():
        if theirs not in (*found, "_last"):
            raise missing(path, ours, theirs, found, field)
    row = pl.col("_row").alias("row")
    return scan.select(row, *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()))


def missing(path: Path, ours: str, theirs: str, found: Sequence[str], field: str) -> ValueError:
    """Returns the error that a file lacks a column, with what it has and where to name it."""
    near = difflib.get_close_matches(theirs, found, n=1, cutoff=0.6)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    one = (
        " The file seems to have one column only: name its `separator`." if len(found) == 1 else ""
    )
    return ValueError(
        f"{path}: column '{theirs}' is missing; found {list(found)}.{one} {hint}"
        f"Name the column that holds it in {field}.{ours}."
    )


def id_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Returns ids as text, so that 12, 12.0 (what a gap makes of whole numbers) and "12" are one."""
    ids = pl.col(column)
    if dtype.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        return pl.when(whole == ids).then(whole.cast(pl.String)).otherwise(ids.cast(pl.String))
    text = ids.cast(pl.String)
    return text.str.strip_chars() if dtype == pl.String else text


def as_attribute(column: str, dtype: pl.DataType) -> pl.Expr | None:
    """Returns a column as an attribute: numbers and truth values as they are, the rest as text.

    None where it can be neither (pictures within the table, for instance).
    """
    value = pl.col(column)
    if dtype.is_decimal():
        return value.cast(pl.Float64)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return value
    if isinstance(dtype, pl.List):
        parts = value.cast(pl.List(pl.String), strict=False).list
        return pl.when(parts.len() > 0).then(parts.join(", ", ignore_nulls=True))
    if isinstance(dtype, pl.Struct):
        return value.struct.json_encode()
    if dtype == pl.String or dtype.is_temporal() or isinstance(dtype, pl.Categorical | pl.Enum):
        text = value.cast(pl.String).str.strip_chars()
        return pl.when(text != "").then(text)
    return None


def _scan_lines(path: Path, columns: Mapping[str, str], field: str) -> pl.LazyFrame:
    """Scans fields of JSON lines as text; a field that the first line lacks must be in another."""
    schema = dict.fromkeys(columns.values(), pl.String())
    scan = pl.scan_ndjson(path, schema=schema, row_index_name="_row", row_index_offset=1)
    first = next(lines(path), (0, {}))[1]
    absent = [(ours, theirs) for ours, theirs in columns.items() if theirs not in first]
    if absent:
        some = scan.select(pl.col(theirs).is_not_null().any() for _, theirs in absent).collect()
        for ours, theirs in absent:
            if not some[theirs][0]:
                raise missing(path, ours, theirs, list(first), field)
    return _selected(scan, columns, path, field)


def _read_cells(
    path: Path,
    columns: Mapping[str, str] | None,
    bad_rows: BadRows,
    separator: str,
    quote: str | None,
    field: str,
) -> pl.DataFrame:
    """Reads CSV. Longer rows make polars stop; shorter ones end in a null, so those are looked up."""
    if path.suffix not in (".gz", ".zst"):
        with path.open("rb") as stream:
            if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise ValueError(f"{path}: the file is UTF-16. Save it as UTF-8.")

    def scan(*, ragged: bool) -> pl.LazyFrame:
        lazy = pl.scan_csv(
            path,
            separator=separator,
            quote_char=quote,
            infer_schema=False,
            row_index_name="_row",
            row_index_offset=2,
            truncate_ragged_lines=ragged,
        )
        names = list(lazy.collect_schema())
        if again := [n for n in names if "_duplicated_" in n]:
            raise ValueError(
                f"{path}: a column stands twice in the header: {again[0].partition('_dupl')[0]!r}. "
                "Rename or remove one of them."
            )
        last = pl.col(names[-1]).alias("_last")
        empty = pl.all_horizontal(pl.all().exclude("_row").is_null())  # a blank line is no row
        kept = lazy.filter(~empty).with_columns(last)
        return _selected(kept, columns and {**columns, "_last": "_last"}, path, field)

    try:
        table = scan(ragged=False).collect(engine="streaming", optimizations=_WHOLE)
    except pl.exceptions.ComputeError as error:
        if "truncate_ragged_lines" not in str(error):
            table = _collect(path, "csv", lambda: scan(ragged=False))
        else:
            table = _collect(path, "csv", lambda: scan(ragged=True))
            return _without_ragged(table, path, separator, quote, bad_rows).drop("_last")
    except (pl.exceptions.PolarsError, OSError):
        table = _collect(path, "csv", lambda: scan(ragged=False))
    if table["_last"].null_count():
        table = _without_ragged(table, path, separator, quote, bad_rows)
    return table.drop("_last")


def _without_ragged(
    table: pl.DataFrame, path: Path, separator: str, quote: str | None, bad_rows: BadRows
) -> pl.DataFrame:
    """Judges the rows that have more or fewer cells than the header."""
    found: dict[str, list[int]] = {"row": [], "cells": []}
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with open_text(path) as text:
            reader = csv.reader(
                guarded(text, path),
                delimiter=separator,
                quotechar=quote,
                quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
            )
            width = len(next(reader))
            for row, cells in enumerate(reader, 2):
                if cells and len(cells) != width:
                    found["row"].append(row)
                    found["cells"].append(len(cells))
    finally:
        csv.field_size_limit(limit)
    ragged = pl.DataFrame(found, schema={"row": table.schema["row"], "cells": pl.Int64})
    if ragged.is_empty():
        return table
    return bad_rows.reject(
        table.join(ragged, on="row", how="left", maintain_order="left"),
        pl.col("cells").is_not_null(),
        reason="ragged_row",
        where=path,
        problem=f"row with more or fewer cells than the {width} of the header",
        mend=f'Put cells that contain the separator {separator!r} into "quotes"',
        show=("cells",),
    ).drop("cells")


def _objects(path: Path) -> pl.DataFrame:
    """Reads JSON lines whole; a column keeps numbers, truth values or lists of texts, or is text."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {}
    for number, value in lines(path):
        for name in value:
            if name not in columns:
                columns[name] = [None] * len(rows)
        for name, cells in columns.items():
            cells.append(value.get(name))
        rows.append(number)
    own = [_series(_free(name), cells) for name, cells in columns.items()]
    return pl.DataFrame([pl.Series("row", rows, dtype=pl.UInt32), *own])


def _series(name: str, cells: list[Any]) -> pl.Series:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return pl.Series(name, cells, dtype=pl.Boolean)
    if kinds and kinds <= {int, float}:
        # Ids may be whole numbers beyond what a float holds.
        return pl.Series(name, cells, dtype=pl.Int64 if kinds == {int} else pl.Float64)
    if list in kinds:
        lists = [c if isinstance(c, list) else [c] for c in cells]
        texts = [[text for part in c if (text := as_text(part))] for c in lists]
        return pl.Series(name, texts, dtype=pl.List(pl.String))
    return pl.Series(name, [as_text(cell) for cell in cells], dtype=pl.String)


def _free(name: str) -> str:
    return "row_source" if name == "row" else name
