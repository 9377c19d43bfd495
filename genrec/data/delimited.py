"""Text files with a separator: CSV, TSV and others; and the errors that all readers of tables share.

What polars refuses is looked up again in the file, so that the message can name the row, and the option
that would read it.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import polars as pl
import polars.selectors as cs

from genrec.data.source import BadRows
from genrec.data.text import guarded, head, is_utf8_name, is_utf16, open_text, plain_copy, utf16

WHOLE = pl.QueryOptFlags(projection_pushdown=False)
_BATCH = 1_000_000  # lines that are split into cells at once
_ORDINARY = " if quotes are ordinary characters in this file"
_ESCAPED = ' if quotes within cells are written \\"'
_NUMBER = re.compile(r"[+-]?\d[\d.,:/ -]*")


@dataclass(frozen=True)
class Layout:
    """How a file is cut into rows and cells, and how messages name it.

    Attributes:
        path: the file, as messages name it.
        file: what is read: the same, or a plain copy of it.
        separator: between cells. With one of several characters, quotes are ordinary characters.
        quote: around cells; None where quotes are ordinary characters.
        header: the names of the columns; None where the first row has them.
        encoding: of `file`.
        section: the part of the recipe that names the columns.
        options: whether that part also has `columns`, `quoting` and the like.
    """

    path: Path
    file: Path
    separator: str
    quote: str | None = '"'
    header: Sequence[str] | None = None
    encoding: str = "utf-8"
    section: str = "prepare.source"
    options: bool = False

    @property
    def first_row(self) -> int:
        """The number of the first row of data."""
        return 1 if self.header else 2

    @contextmanager
    def open(self, newline: str = "") -> Iterator[TextIO]:
        """Opens the file as text; see `text.open_text`."""
        name = "utf-8-sig" if is_utf8_name(self.encoding) else self.encoding
        with open_text(self.file, encoding=name, newline=newline) as text:
            yield text

    def option(self, value: str, condition: str = "") -> str:
        """Returns a hint at an option, such as `quoting: none`, where the recipe has it."""
        return f" Set `{value}` in {self.section}{condition}." if self.options else ""


def columns_of(path: Path) -> list[str]:
    """Returns the columns of a CSV file, as its header names them.

    Raises:
        ValueError: the header has a column twice, or the file is UTF-16.
    """
    with plain_copy(path, encoding="utf-8") as file:
        return list(_scan(Layout(path, file, ","), ragged=False).drop("_row").collect_schema())


def _scan(layout: Layout, *, ragged: bool) -> pl.LazyFrame:
    if is_utf16(layout.file):
        raise utf16(layout.path)
    lazy = pl.scan_csv(
        layout.file,
        separator=layout.separator,
        quote_char=layout.quote,
        has_header=layout.header is None,
        eol_char=_line_end(layout),
        infer_schema=False,
        row_index_name="_row",
        row_index_offset=layout.first_row,
        truncate_ragged_lines=ragged,
    )
    names = list(lazy.collect_schema())[1:]
    if layout.header is not None:
        if len(names) != len(layout.header):
            raise _other_width(layout)
        return lazy.rename(dict(zip(names, layout.header, strict=True)))
    if again := [n for n in names if "_duplicated_" in n]:
        raise _twice(layout, names, again[0].partition("_duplicated_")[0])
    return lazy


def _line_end(layout: Layout) -> str:
    """Returns what ends a line: a carriage return where there is no other end outside of quotes."""
    start = head(layout.file, 2**20)
    bare = start if layout.quote is None else re.sub(rb'"[^"]*"', b"", start)
    return "\r" if b"\r" in bare and b"\n" not in bare else "\n"


def read_cells(
    layout: Layout, columns: Mapping[str, str] | None, bad_rows: BadRows
) -> pl.DataFrame:
    """Reads a file whose separator is one character, all cells as text.

    Longer rows make polars stop; shorter ones end in a null, so those are looked up.
    """

    def scan(*, ragged: bool) -> pl.LazyFrame:
        lazy = _scan(layout, ragged=ragged)
        last = pl.col(list(lazy.collect_schema())[-1]).alias("_last")
        empty = pl.all_horizontal(pl.all().exclude("_row").is_null())  # a blank line is no row
        kept = lazy.filter(~empty).with_columns(last)
        return selected(kept, columns and {**columns, "_last": "_last"}, layout)

    def collected(*, ragged: bool) -> pl.DataFrame:
        return collect(layout, "csv", lambda: scan(ragged=ragged))

    try:
        table = scan(ragged=False).collect(engine="streaming", optimizations=WHOLE)
    except pl.exceptions.ComputeError as error:
        if "truncate_ragged_lines" not in str(error):
            table = collected(ragged=False)
        else:
            table = collected(ragged=True)
            return _without_ragged(table, layout, bad_rows).drop("_last")
    except (pl.exceptions.PolarsError, OSError):
        table = collected(ragged=False)
    if table["_last"].null_count():
        table = _without_ragged(table, layout, bad_rows)
    table = table.drop("_last")
    if layout.options and layout.quote:
        _check_quotes(table, layout, bad_rows)
    return table


@contextmanager
def _csv_reader(layout: Layout, *, strict: bool = False) -> Iterator[Any]:
    """Opens the file for Python's reader, which is slow and knows where it is."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with layout.open(newline=_line_end(layout)) as text:
            yield csv.reader(
                guarded(text, layout.path),
                delimiter=layout.separator,
                quotechar=layout.quote,
                quoting=csv.QUOTE_NONE if layout.quote is None else csv.QUOTE_MINIMAL,
                strict=strict,
            )
    finally:
        csv.field_size_limit(limit)


def _without_ragged(table: pl.DataFrame, layout: Layout, bad_rows: BadRows) -> pl.DataFrame:
    """Judges the rows that have more or fewer cells than the header."""
    rows: list[int] = []
    counts: list[int] = []
    hint = ""
    row = layout.first_row - 1
    try:
        with _csv_reader(layout) as reader:
            width = len(layout.header or next(reader))
            for row, cells in enumerate(reader, layout.first_row):
                if cells and len(cells) != width:
                    rows.append(row)
                    counts.append(len(cells))
                    hint = hint or _advice(layout, cells)
    except csv.Error as error:  # "new-line character seen in unquoted field"
        raise ValueError(
            f"{layout.path}: row {row + 1} holds a carriage return outside of quotes ({error}): lines "
            "end in more than one way. Save the file with one kind of line end."
        ) from error
    ragged = pl.DataFrame(
        {"row": rows, "cells": counts}, schema={"row": table.schema["row"], "cells": pl.Int64}
    )
    if ragged.is_empty():
        return table
    table = table.join(ragged, on="row", how="left", maintain_order="left")
    table = table.with_columns(pl.col("cells").fill_null(width))
    return _of_width(table, width, layout, bad_rows, hint)


def _advice(layout: Layout, cells: Sequence[str]) -> str:
    """Returns the option that would read a row with too many or too few cells, as far as it shows."""
    if layout.quote is None:
        quoted = any(cell.startswith('"') for cell in cells)
        return layout.option("quoting: double", " if cells are in quotes") if quoted else ""
    if any("\\" in cell for cell in cells):
        return layout.option("quoting: backslash", _ESCAPED)
    odd = layout.path == layout.file and any('"' in cell for cell in cells)
    return layout.option("quoting: none", _ORDINARY) if odd or "\n" in "".join(cells) else ""


def _of_width(
    table: pl.DataFrame, width: int, layout: Layout, bad_rows: BadRows, hint: str = ""
) -> pl.DataFrame:
    """Judges the rows whose number of `cells` is another than the header's; drops the column."""
    fix = f'Put cells that contain the separator {layout.separator!r} into "quotes"'
    if layout.quote is None or len(layout.separator) > 1:
        fix = (
            f"This file is read without quotes: replace a {layout.separator!r} within a cell, such as a "
            "title, by a space"
        )
    short = table.filter(pl.col("cells") < width)["row"]
    if len(short) == 1 and short[0] == table["row"].max():
        hint = "It is the last row: copy the file again, if it was cut short"
    return bad_rows.reject(
        table,
        pl.col("cells") != width,
        reason="ragged_row",
        where=layout.path,
        problem="row with more or fewer cells than the "
        f"{width} of {'`columns`' if layout.header else 'the header'}",
        fix=hint.strip().removesuffix(".") or fix,
        show=("cells",),
    ).drop("cells")


def _check_quotes(table: pl.DataFrame, layout: Layout, bad_rows: BadRows) -> None:
    """Warns where polars read quotes that are escaped by a backslash, or no quotes at all.

    Of the first it drops the quotes; of the second, such as an inch sign at the start of a cell, the
    rows up to the next one become one cell.
    """
    texts = [pl.col(name) for name, dtype in table.schema.items() if dtype == pl.String]

    def rows_with(*parts: str) -> pl.Series:
        sign = [pl.all_horizontal(t.str.contains(p, literal=True) for p in parts) for t in texts]
        return table.filter(pl.any_horizontal(False, *sign))["row"]

    if len(rows_with("\\")) and (line := _line_with_escape(layout)):
        bad_rows.warn(
            f'{layout.path}: line {line} has a quote that is written \\" within a cell; it is lost.'
            f"{layout.option('quoting: backslash')}"
        )
    # Texts have commas and line breaks; with other separators both are a sign of swallowed rows.
    if layout.separator != "," and len(rows := rows_with("\n", layout.separator)):
        bad_rows.warn(
            f"{layout.path}: row {rows[0]} has a cell with a line break and the separator in it "
            f"({len(rows):,} such rows): a quote at the beginning of a cell, perhaps."
            f"{layout.option('quoting: none', _ORDINARY)}"
        )


def _line_with_escape(layout: Layout) -> int | None:
    """Returns the first line with a backslash before a quote that does not end a cell."""
    escape = re.compile(rf'\\"[^"\r\n{re.escape(layout.separator)}]')
    with layout.open() as text:
        lines = enumerate(guarded(text, layout.path), 1)
        return next((number for number, line in lines if escape.search(line)), None)


def split_cells(
    layout: Layout, columns: Mapping[str, str] | None, bad_rows: BadRows
) -> pl.DataFrame:
    """Reads cells that several characters separate, as in MovieLens-1M: `1::1193::5::978300760`."""
    parts: list[pl.Series] = []
    with layout.open() as text:
        stream = guarded(text, layout.path, layout.encoding)
        first = [] if layout.header else next(stream, "").rstrip("\r\n").split(layout.separator)
        names = list(layout.header or first)
        while batch := [line.rstrip("\r\n") for line in islice(stream, _BATCH)]:
            parts.append(pl.Series("line", batch, dtype=pl.String))
    if again := [name for n, name in enumerate(names) if name in names[:n]]:
        raise _twice(layout, names, again[0])
    line = pl.concat(parts or [pl.Series("line", [], dtype=pl.String)]).to_frame()
    table = (
        line.with_row_index("row", layout.first_row)
        .filter(pl.col("line") != "")
        .with_columns(pl.col("line").str.split(layout.separator))
        .with_columns(cells=pl.col("line").list.len().cast(pl.Int64))
    )
    if layout.header and len(table) and (table["cells"] != len(names)).all():
        raise _other_width(layout)
    table = _of_width(table, len(names), layout, bad_rows)
    for ours, theirs in (columns or {}).items():
        if theirs not in names:
            raise missing(layout, ours, theirs, names)
    wanted = columns or {free(name): name for name in names}
    cell = {theirs: pl.col("line").list.get(n) for n, theirs in enumerate(names)}
    return table.select(
        "row",
        *(
            pl.when(cell[theirs] != "").then(cell[theirs]).alias(ours)  # as an empty cell of CSV
            for ours, theirs in wanted.items()
        ),
    )


def collect(layout: Layout, form: str, scan: Callable[[], pl.LazyFrame]) -> pl.DataFrame:
    """Runs a scan in batches; on failure reads the file as text, to say where it is wrong."""
    try:
        return scan().collect(engine="streaming", optimizations=WHOLE)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0]
        if form == "parquet":
            raise ValueError(
                f"{layout.path}: not readable as parquet ({problem}). Write the file again."
            ) from error
        reason = _open_quote(layout) or f"not readable as {form} ({problem})."
        raise ValueError(f"{layout.path}: {reason}") from error


def _open_quote(layout: Layout) -> str:
    """Says where a quote is opened and not closed as it should be; "" where there is none."""
    end = 0  # of the row before
    try:
        with _csv_reader(layout, strict=True) as reader:
            for _ in reader:
                end = reader.line_num
    except csv.Error as error:
        return (
            f"line {end + 1} opens a quote that is not closed at the end of the cell ({error})."
            + layout.option("quoting: none", f"{_ORDINARY}, or `quoting: backslash`{_ESCAPED}")
        )
    return ""


def selected(scan: pl.LazyFrame, columns: Mapping[str, str] | None, layout: Layout) -> pl.LazyFrame:
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
            raise missing(layout, ours, theirs, names)
    row = pl.col("_row").alias("row")
    return scan.select(row, *(pl.col(theirs).alias(ours) for ours, theirs in columns.items()))


_SETTINGS = {"user_id": "user", "item_id": "item"}  # of our names that are not the setting's own


def missing(layout: Layout, ours: str, theirs: str, columns: Sequence[str]) -> ValueError:
    """Returns the error that a file lacks a column, with what it has and where to name it."""
    near = difflib.get_close_matches(theirs, columns, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    if len(columns) == 1:
        hint = " The file seems to have one column only: name its `separator`." + hint
    return ValueError(
        f"{layout.path}: column '{theirs}' is missing; found {list(columns)}.{hint} "
        f"Name the column that holds it in {layout.section}.{_SETTINGS.get(ours, ours)}."
        f"{'' if near else _no_header(layout, columns)}"
    )


def _no_header(layout: Layout, names: Sequence[str]) -> str:
    """Says that the first row may be data, and shows the option that names the columns."""
    if layout.header or not layout.options or len(names) == 1:
        return ""
    sure = any(_NUMBER.fullmatch(name.strip()) for name in names)
    return (
        f" {'The first row looks like data' if sure else 'If the first row is data'}: name the columns, "
        f"such as `columns: {_invented(len(names))}` in {layout.section}."
    )


def _invented(count: int) -> str:
    names = ["user", "item", "rating", "timestamp"][:count]
    names += [f"c{n}" for n in range(len(names) + 1, count + 1)]
    return f"[{', '.join(names[:8])}{', ...' if count > 8 else ''}]"


def _twice(layout: Layout, names: Sequence[str], name: str) -> ValueError:
    return ValueError(
        f"{layout.path}: the header has a column twice: {name!r}. Rename or remove one of them."
        f"{_no_header(layout, names)}"
    )


def _other_width(layout: Layout) -> ValueError:
    with layout.open() as text:
        first = next(guarded(text, layout.path, layout.encoding), "").rstrip("\r\n")
    assert layout.header is not None
    return ValueError(
        f"{layout.path}: `columns` has {len(layout.header)} names ({', '.join(layout.header)}), and the "
        f"first row has another number of cells: {first[:200]!r}, separated by {layout.separator!r}. "
        f"Correct `columns` or `separator` in {layout.section}."
    )


def free(name: str) -> str:
    """Returns a name that is not `row`, which is ours."""
    return "row_source" if name == "row" else name
