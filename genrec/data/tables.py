"""Reads owners' tables: parquet, CSV, TSV, JSON lines and Excel; plain, gzip, zstd or zip.

Cells of text files and of Excel stay text, so that no id loses a zero and no formula is anything but
letters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import polars as pl

from genrec.data.delimited import (
    WHOLE,
    Layout,
    collect,
    free,
    missing,
    read_cells,
    selected,
    split_cells,
)
from genrec.data.settings import PACKED, SUFFIXES, Format, Quoting
from genrec.data.source import BadRows, existing
from genrec.data.text import as_text, as_written, lines, plain_copy, whole_lines, zip_member
from genrec.extras import install
from genrec.resources import matching

_EXACT = 2**53  # from here on a float is not one whole number only


def files(pattern: str | Path, *, what: str) -> list[Path]:
    """Returns the files that a path, a glob or a folder of parts names, none of them empty.

    They are in the order of their names, numbers by size: `clicks-2` comes before `clicks-10`. In a
    folder, names that begin with "_" or "." are left out, such as Spark's `_SUCCESS`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is empty.
    """
    paths = sorted(matching(pattern), key=_in_sequence)
    if (folder := Path(pattern)).is_dir():
        parts = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(("_", "."))]
        paths = sorted(parts, key=_in_sequence)
        if not paths:
            raise FileNotFoundError(f"{folder}: no files in this folder; expected {what}.")
    return [existing(path, what=what) for path in paths or [Path(pattern)]]


def _in_sequence(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], str(path)


def format_of(path: Path, section: str | None = None) -> Format:
    """Returns the format that a file's name tells; of a zip archive, the name of the file in it.

    Args:
        path: the file.
        section: the part of the recipe that can name the format; None where none can.

    Raises:
        ValueError: the name tells none.
    """
    name = Path(zip_member(path)) if path.suffix.lower() == ".zip" else path
    suffixes = [s.lower() for s in name.suffixes if s.lower() not in PACKED]
    if not suffixes or suffixes[-1] not in SUFFIXES:
        option = (
            f" Or set `format` in {section}: csv with a `separator`, tsv, jsonl, parquet or xlsx."
            if section
            else ""
        )
        raise ValueError(
            f"{path}: unknown kind of file; expected a name that ends in "
            f"{', '.join(sorted(SUFFIXES))}, with {', '.join(PACKED)} after it where it is compressed."
            f"{option}"
        )
    return SUFFIXES[suffixes[-1]]


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    bad_rows: BadRows,
    form: Format | None = None,
    separator: str | None = None,
    quoting: Quoting = "double",
    header: Sequence[str] | None = None,
    encoding: str = "utf-8",
    sheet: str | None = None,
    ids: Collection[str] = (),
    field: str = "prepare.source",
    options: bool = False,
    exact: Sequence[str] = (),
    expect: Sequence[tuple[str, str]] = (),
) -> pl.DataFrame:
    """Reads columns of one file.

    Args:
        path: its name tells format and compression.
        columns: our name to the owner's; None reads all of them (JSON lines: only in this form are
            lists and objects kept).
        bad_rows: what to do with a ragged row of CSV; all else that is wrong with a file raises.
        form: the format where the name does not tell it.
        separator: of a text file; None: a comma, or a tab in TSV. With one of several characters, such
            as "::", quotes are ordinary characters.
        quoting: how a quote within a quoted cell is written, or "none".
        header: the columns of a text or Excel file that does not name them.
        encoding: of a text file; Python's name of it.
        sheet: of an Excel file with several: a name, or a glob.
        ids: which columns (by our names, where there are some) are ids: they become text by `id_text`.
        field: the part of the recipe that names columns, for messages.
        options: whether that part also has `format`, `columns`, `quoting`, ..., for messages.
        exact: our names of columns whose decimals JSON lines keep digit by digit, not as float64.
        expect: columns that have to be there: our name and the owner's.

    Returns:
        `row` (UInt32: the line in a text file without line breaks in cells; the row of a sheet, counted
        on over several; the place from 1 in parquet), then the columns: String from text files and
        Excel, their own type from parquet. Whole numbers of JSON are exact: where neither Int64 nor
        Float64 holds all of a column, it is text.

    Raises:
        ValueError: the file is cut off, not in this encoding, misshapen, without rows or lacks a column;
            an id that may be several; an option that does not fit the format.
        ModuleNotFoundError: the package that reads Excel is not installed.
    """
    form = form or format_of(path, field if options else None)
    is_text = form in ("csv", "tsv")
    if (separator or quoting != "double") and not is_text:
        raise ValueError(
            f"{path}: `separator` and `quoting` are for text files, and this is read as {form}. Leave "
            f"them out, or set `format` in {field}."
        )
    if header and form in ("parquet", "jsonl"):
        raise ValueError(f"{path}: `columns` is for files without a header, and {form} has names.")
    separator = separator or ("\t" if form == "tsv" else ",")
    wide = len(separator) > 1
    escaped = separator if is_text and quoting == "backslash" else None
    copied = "utf-8" if form in ("parquet", "xlsx") or (is_text and wide) else encoding
    with plain_copy(path, encoding=copied, escaped=escaped) as file:
        layout = Layout(
            *(path, file, separator, None if quoting == "none" else '"', header),
            encoding=encoding if is_text and wide else "utf-8",
            section=field,
            options=options and form not in ("parquet", "jsonl"),
        )
        if form == "xlsx":
            table = _read_sheets(layout, columns, sheet)
        elif form == "jsonl":
            table = _read_json(layout, columns, bad_rows, ids, exact)
        elif form == "parquet":
            scan = pl.scan_parquet(file, row_index_name="_row", row_index_offset=1)
            table = collect(layout, form, lambda: selected(scan, columns, layout))
        elif wide:
            table = split_cells(layout, columns, bad_rows)
        else:
            table = read_cells(layout, columns, bad_rows)
    for ours, theirs in expect:
        if free(theirs) not in table.columns:
            raise missing(layout, ours, theirs, table.columns[1:])
    if table.is_empty():
        raise ValueError(f"{path}: no rows; expected at least one. Is it the right file?")
    return as_ids(path, table, {name: columns[name] if columns else name for name in ids})


def as_ids(path: Path, table: pl.DataFrame, ids: Mapping[str, str]) -> pl.DataFrame:
    """Returns a table with some columns as ids, by `id_text`.

    Args:
        path: where they come from, for messages.
        table: any table.
        ids: columns, those that are there, and the owner's names of them.

    Raises:
        ValueError: floating-point ids so large that one may stand for several.
    """
    known = {name: theirs for name, theirs in ids.items() if name in table.columns}
    for name, theirs in known.items():
        _check_floats(path, table[name], theirs)
    return table.with_columns(id_text(name, table.schema[name]).alias(name) for name in known)


def _read_json(
    layout: Layout,
    columns: Mapping[str, str] | None,
    bad_rows: BadRows,
    ids: Collection[str],
    exact: Sequence[str],
) -> pl.DataFrame:
    if columns is None:
        return _objects(layout, bad_rows, ids)
    table = _read_lines(layout, columns, bad_rows)
    for ours in exact:
        if ours in columns and (digits := as_written(layout.file, columns[ours])):
            texts = [as_text(value) for value in digits.values()]
            if len(texts) > len(table):  # lines with a broken id were dropped
                texts = [as_text(digits[line]) for line in table["row"]]
            table = table.with_columns(pl.Series(ours, texts, dtype=pl.String))
    return table


def _read_sheets(
    layout: Layout, columns: Mapping[str, str] | None, sheet: str | None
) -> pl.DataFrame:
    """Reads the sheets of an Excel file as text: numbers as written, dates as ISO 8601."""
    try:
        import fastexcel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{layout.path}: reading Excel needs fastexcel; run: {install('excel')}. Or save the "
            "sheet as CSV."
        ) from error
    try:
        book = fastexcel.read_excel(str(layout.file))
        names = [n for n in book.sheet_names if sheet is None or fnmatchcase(n, sheet)]
        if len(names) != 1 and (sheet is None or not names):
            raise ValueError(
                f"{layout.path}: found the sheets {book.sheet_names}, expected "
                f"{'one' if sheet is None else repr(sheet)}. Set `sheet` in {layout.section} to a name, "
                "or to a glob where several follow one another."
            )
        parts = [
            book.load_sheet(
                name, header_row=None if layout.header else 0, dtypes="string"
            ).to_polars()
            for name in names
        ]
    except fastexcel.FastExcelError as error:
        problem = str(error).splitlines()[0]
        raise ValueError(
            f"{layout.path}: not readable as Excel ({problem}). Is the file cut off? Copy it again."
        ) from error
    if layout.header:
        parts = [_named(layout, part) for part in parts]
    if other := [
        n for n, part in zip(names, parts, strict=True) if part.columns != parts[0].columns
    ]:
        raise ValueError(
            f"{layout.path}: sheet {other[0]!r} has other columns than {names[0]!r}; expected the "
            f"same. Name one sheet by `sheet` in {layout.section}."
        )
    table = pl.concat(parts).with_row_index("_row", layout.first_row)
    filled = table.filter(~pl.all_horizontal(pl.all().exclude("_row").is_null()))
    return selected(filled.lazy(), columns, layout).collect()


def _named(layout: Layout, table: pl.DataFrame) -> pl.DataFrame:
    names = list(layout.header or ())
    if len(names) != table.width:
        raise ValueError(
            f"{layout.path}: `columns` has {len(names)} names, and the sheet {table.width} columns. "
            f"Correct `columns` in {layout.section}."
        )
    return table.rename(dict(zip(table.columns, names, strict=True)))


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


def _read_lines(layout: Layout, columns: Mapping[str, str], bad_rows: BadRows) -> pl.DataFrame:
    """Reads fields of JSON lines as text; a field that the first line lacks must be in another.

    Polars is fast, and writes half of a character as NUL, or refuses it; so it does NaN, a byte order
    mark, and lines that end in a carriage return. Such a file is read line by line.
    """
    first = next(lines(layout.file, shown=layout.path), (0, {}))[1]
    schema = dict.fromkeys(columns.values(), pl.String())
    scan = pl.scan_ndjson(layout.file, schema=schema, row_index_name="_row", row_index_offset=1)
    try:
        table = selected(scan, columns, layout).collect(engine="streaming", optimizations=WHOLE)
        odd = table.select(pl.col(list(columns)).str.contains("\0", literal=True).any())
        again = any(odd.row(0))
    except (pl.exceptions.PolarsError, OSError):
        again = True
    if again:
        theirs = set(columns.values())
        objects = _objects(layout, bad_rows, ids=theirs, fields=theirs, texts=True)
        absent = [pl.lit(None, pl.String).alias(name) for name in theirs - set(objects.columns)]
        table = objects.with_columns(absent).select(
            "row", *(pl.col(free(name)).alias(ours) for ours, name in columns.items())
        )
    for ours, name in columns.items():
        if name not in first and not table[ours].count():
            raise missing(layout, ours, name, list(first))
    return table


def _objects(
    layout: Layout,
    bad_rows: BadRows,
    ids: Collection[str] = (),
    *,
    fields: Collection[str] | None = None,
    texts: bool = False,
) -> pl.DataFrame:
    """Reads JSON lines whole; a column keeps numbers, truth values or lists of texts, or is text."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {}
    for number, value in whole_lines(
        layout.file, bad_rows, ids=ids, fields=fields, shown=layout.path
    ):
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
