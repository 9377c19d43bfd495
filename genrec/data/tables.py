"""Reads owners' tables: parquet, CSV, TSV and JSON lines, plain, gzip or zstd, through polars.

Cells of text files stay text, so that no id loses a zero and no formula is anything but letters;
what polars refuses is looked up again in the file, so that the message can name the line.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import polars as pl
import polars.selectors as cs

from genrec.data.lines import guarded, head, is_utf16, lines, open_text, whole_lines
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
_EXACT = 2**53  # from here on a float is not one whole number only
_BATCH = 1_000_000  # lines that are split into cells at once


def files(pattern: str | Path, *, what: str) -> list[Path]:
    """Returns the files that a path or glob names, sorted, none of them empty.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is empty.
    """
    found = matching(pattern)
    return [existing(path, what=what) for path in found or [Path(pattern)]]


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
    header: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    ids: Collection[str] = (),
    field: str = "prepare.source",
) -> pl.DataFrame:
    """Reads columns of one file.

    Args:
        path: its name tells format and compression.
        columns: our name to the owner's; None reads all of them (JSON lines: only in this form are
            lists and objects kept).
        bad_rows: what to do with a ragged row of CSV; all else that is wrong with a file raises.
        form: the format where the name does not tell it.
        separator: of CSV and TSV where it is neither "," nor a tab. With one of several letters,
            such as "::", quotes are letters like others.
        quote: of CSV and TSV; None where quotes are letters like others.
        header: the columns of a file that does not name them; needs a separator of several letters.
        encoding: Python's name of it; needs a separator of several letters.
        ids: which columns (by our names, where there are some) are ids: they become text by `id_text`.
        field: the part of the recipe that names columns, for messages.

    Returns:
        `row` (UInt32: the line in a text file without line breaks in cells; the place from 1 in
        parquet), then the columns: String from text files, their own type from parquet. Whole
        numbers of JSON are exact: where neither Int64 nor Float64 holds all of a column, it is text.

    Raises:
        ValueError: the file is cut off, not UTF-8, misshapen, without rows or lacks a column; an id
            that cannot be told from others.
    """
    form = form or format_of(path)
    separator = separator or ("\t" if form == "tsv" else ",")
    if form == "jsonl" and columns is None:
        table = _objects(path, bad_rows, ids)
    elif form == "jsonl":
        table = _read_lines(path, columns or {}, bad_rows, field)
    elif form == "parquet":
        scan = pl.scan_parquet(path, row_index_name="_row", row_index_offset=1)
        table = _collect(path, form, lambda: _selected(scan, columns, path, field))
    elif len(separator) > 1:
        table = _split_cells(path, columns, bad_rows, separator, header, encoding, field)
    else:
        table = _read_cells(path, columns, bad_rows, separator, quote, field)
    if table.is_empty():
        raise ValueError(f"{path}: no rows; expected at least one. Is it the right file?")
    known = [name for name in ids if name in table.columns]
    for name in known:
        _check_floats(path, table[name], columns[name] if columns else name)
    return table.with_columns(id_text(name, table.schema[name]).alias(name) for name in known)


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
    """Returns ids as text, so that 12, 12.0 (what a gap makes of whole numbers) and "12" are one.

    A float that is not a number is no id: null.
    """
    ids = pl.col(column)
    if dtype.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        text = pl.when(whole == ids).then(whole.cast(pl.String)).otherwise(ids.cast(pl.String))
        return pl.when(ids.is_not_nan()).then(text)
    text = ids.cast(pl.String)
    return text.str.strip_chars() if dtype == pl.String else text


def _check_floats(path: Path, ids: pl.Series, name: str) -> None:
    """Raises where whole numbers as floats are so large that two ids may have become one."""
    if ids.dtype.is_float() and len(large := ids.filter(ids.is_finite() & (ids.abs() >= _EXACT))):
        raise ValueError(
            f"{path}: the ids in '{name}' are floating-point numbers, and {len(large):,} of them "
            f"(first: {large[0]:.0f}) are 2^53 or more, where a float stands for several whole "
            "numbers. Write the ids as whole numbers or as text."
        )


def as_attribute(column: str, dtype: pl.DataType) -> pl.Expr | None:
    """Returns a column as an attribute: numbers and truth values as they are, the rest as text.

    None where it can be neither (pictures within the table, for instance).
    """
    value = pl.col(column)
    if isinstance(dtype, pl.Decimal):
        return value.cast(pl.Float64 if dtype.scale else pl.String)  # without a fraction: an EAN
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


def _read_lines(
    path: Path, columns: Mapping[str, str], bad_rows: BadRows, field: str
) -> pl.DataFrame:
    """Reads fields of JSON lines as text; a field that the first line lacks must be in another.

    Polars is fast, and writes half of a character as NUL, or refuses it; so it does NaN, a byte order
    mark, and lines that end in a carriage return. Such a file is read line by line.
    """
    first = next(lines(path), (0, {}))[1]
    schema = dict.fromkeys(columns.values(), pl.String())
    scan = pl.scan_ndjson(path, schema=schema, row_index_name="_row", row_index_offset=1)
    try:
        table = _selected(scan, columns, path, field).collect(
            engine="streaming", optimizations=_WHOLE
        )
        odd = table.select(pl.col(list(columns)).str.contains("\0", literal=True).any())
        again = any(odd.row(0))
    except (pl.exceptions.PolarsError, OSError):
        again = True
    if again:
        theirs = set(columns.values())
        found = _objects(path, bad_rows, ids=theirs, fields=theirs, texts=True)
        absent = [pl.lit(None, pl.String).alias(name) for name in theirs - set(found.columns)]
        table = found.with_columns(absent).select(
            "row", *(pl.col(_free(name)).alias(ours) for ours, name in columns.items())
        )
    for ours, name in columns.items():
        if name not in first and not table[ours].count():
            raise missing(path, ours, name, list(first), field)
    return table


def columns_of(path: Path) -> list[str]:
    """Returns the columns of a CSV file, as its header names them.

    Raises:
        ValueError: a column stands twice, or the file is UTF-16.
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
            f"{path}: a column stands twice in the header: {again[0].partition('_dupl')[0]!r}. "
            "Rename or remove one of them."
        )
    return lazy


def _line_end(path: Path, quote: str | None) -> str:
    """Returns what ends a line: a carriage return where there is no other end outside of quotes."""
    start = head(path, 2**20)
    bare = start if quote is None else re.sub(rb'"[^"]*"', b"", start)
    return "\r" if b"\r" in bare and b"\n" not in bare else "\n"


def _read_cells(
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
                    found["row"].append(row)
                    found["cells"].append(len(cells))
    except csv.Error as error:  # "new-line character seen in unquoted field"
        raise ValueError(
            f"{path}: row {row + 1} holds a carriage return outside of quotes ({error}): lines end in "
            "more than one way. Save the file with one kind of line end."
        ) from error
    finally:
        csv.field_size_limit(limit)
    ragged = pl.DataFrame(found, schema={"row": table.schema["row"], "cells": pl.Int64})
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
        mend=fix,
        show=("cells",),
    ).drop("cells")


def _split_cells(
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
            f"{path}: a column stands twice in the header: {again[0]!r}. Rename or remove one of them."
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
    wanted = columns or {_free(name): name for name in names}
    cell = {theirs: pl.col("line").list.get(n) for n, theirs in enumerate(names)}
    return table.select(
        "row",
        *(
            pl.when(cell[theirs] != "").then(cell[theirs]).alias(ours)  # as an empty cell of CSV
            for ours, theirs in wanted.items()
        ),
    )


def _objects(
    path: Path,
    bad_rows: BadRows,
    ids: Collection[str] = (),
    *,
    fields: Collection[str] | None = None,
    texts: bool = False,
) -> pl.DataFrame:
    """Reads JSON lines whole; a column keeps numbers, truth values or lists of texts, or is text."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {}
    for number, value in whole_lines(path, bad_rows, ids=ids, fields=fields):
        for name in value:
            if name not in columns:
                columns[name] = [None] * len(rows)
        for name, cells in columns.items():
            cells.append(value.get(name))
        rows.append(number)
    make = _texts if texts else _series
    own = [make(_free(name), cells) for name, cells in columns.items()]
    return pl.DataFrame([pl.Series("row", rows, dtype=pl.UInt32), *own])


def _series(name: str, cells: list[Any]) -> pl.Series:
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return pl.Series(name, cells, dtype=pl.Boolean)
    if kinds and kinds <= {int, float}:
        whole = [cell for cell in cells if type(cell) is int]
        held = _EXACT if float in kinds else 2**63 - 1
        if all(-held <= cell <= held for cell in whole):
            return pl.Series(name, cells, dtype=pl.Float64 if float in kinds else pl.Int64)
    if list in kinds:
        lists = [c if isinstance(c, list) else [c] for c in cells]
        texts = [[text for part in c if (text := as_text(part))] for c in lists]
        return pl.Series(name, texts, dtype=pl.List(pl.String))
    return _texts(name, cells)


def _texts(name: str, cells: list[Any]) -> pl.Series:
    return pl.Series(name, [_cell_text(cell) for cell in cells], dtype=pl.String)


def _cell_text(cell: Any) -> str | None:
    """Returns a cell as text: 3.0 is 3, for so are ids, and truth values are JSON's."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        if cell != cell:
            return None
        return str(int(cell)) if cell.is_integer() else str(cell)
    return as_text(cell)


def _free(name: str) -> str:
    return "row_source" if name == "row" else name
