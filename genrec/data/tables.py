"""Reads owners' tables: parquet, CSV, TSV and JSON lines, plain, gzip or zstd, through polars.

Cells of text files stay text, so that no id loses a zero and no formula is anything but letters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from genrec.data.delimited import (
    WHOLE,
    collect,
    free,
    missing,
    read_cells,
    selected,
    split_cells,
)
from genrec.data.source import BadRows, existing
from genrec.data.text import as_text, as_written, lines, whole_lines
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
_EXACT = 2**53  # from here on a float is not one whole number only


def files(pattern: str | Path, *, what: str) -> list[Path]:
    """Returns the files that a path or glob names, none of them empty.

    They are in the order of their names, numbers by size: `clicks-2` comes before `clicks-10`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is empty.
    """
    paths = sorted(matching(pattern), key=_in_sequence)
    return [existing(path, what=what) for path in paths or [Path(pattern)]]


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
    header: Sequence[str] | None = None,
    encoding: str = "utf-8-sig",
    ids: Collection[str] = (),
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
        separator: of CSV and TSV where it is neither "," nor a tab. With one of several letters,
            such as "::", quotes are letters like others.
        quote: of CSV and TSV; None where quotes are letters like others.
        header: the columns of a file that does not name them; needs a separator of several letters.
        encoding: Python's name of it; needs a separator of several letters.
        ids: which columns (by our names, where there are some) are ids: they become text by `id_text`.
        field: the part of the recipe that names columns, for messages.
        exact: our names of columns whose decimals JSON lines keep digit by digit, not as float64.

    Returns:
        `row` (UInt32: the line in a text file without line breaks in cells; the place from 1 in
        parquet), then the columns: String from text files, their own type from parquet. Whole
        numbers of JSON are exact: where neither Int64 nor Float64 holds all of a column, it is text.

    Raises:
        ValueError: the file is cut off, not UTF-8, misshapen, without rows or lacks a column; an id
            that may be several.
    """
    form = form or format_of(path)
    separator = separator or ("\t" if form == "tsv" else ",")
    if form == "jsonl" and columns is None:
        table = _objects(path, bad_rows, ids)
    elif form == "jsonl":
        table = _read_lines(path, columns or {}, bad_rows, field)
        for ours in exact:
            if columns and ours in columns and (digits := as_written(path, columns[ours])):
                texts = [as_text(value) for value in digits.values()]
                if len(texts) > len(table):  # lines with a broken id were dropped
                    texts = [as_text(digits[line]) for line in table["row"]]
                table = table.with_columns(pl.Series(ours, texts, dtype=pl.String))
    elif form == "parquet":
        scan = pl.scan_parquet(path, row_index_name="_row", row_index_offset=1)
        table = collect(path, form, lambda: selected(scan, columns, path, field))
    elif len(separator) > 1:
        table = split_cells(path, columns, bad_rows, separator, header, encoding, field)
    else:
        table = read_cells(path, columns, bad_rows, separator, quote, field)
    if table.is_empty():
        raise ValueError(f"{path}: no rows; expected at least one. Is it the right file?")
    known = [name for name in ids if name in table.columns]
    for name in known:
        _check_floats(path, table[name], columns[name] if columns else name)
    return table.with_columns(id_text(name, table.schema[name]).alias(name) for name in known)


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

    None where it can be neither (images within the table, for instance).
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
        table = selected(scan, columns, path, field).collect(
            engine="streaming", optimizations=WHOLE
        )
        odd = table.select(pl.col(list(columns)).str.contains("\0", literal=True).any())
        again = any(odd.row(0))
    except (pl.exceptions.PolarsError, OSError):
        again = True
    if again:
        theirs = set(columns.values())
        objects = _objects(path, bad_rows, ids=theirs, fields=theirs, texts=True)
        absent = [pl.lit(None, pl.String).alias(name) for name in theirs - set(objects.columns)]
        table = objects.with_columns(absent).select(
            "row", *(pl.col(free(name)).alias(ours) for ours, name in columns.items())
        )
    for ours, name in columns.items():
        if name not in first and not table[ours].count():
            raise missing(path, ours, name, list(first), field)
    return table


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
    own = [make(free(name), cells) for name, cells in columns.items()]
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
