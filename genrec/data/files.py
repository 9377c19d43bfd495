"""A user's own catalogue and log: any column names, attributes kept, images by path or URL.

What decides whether an interaction counts is known at its time: weights add up as they come, never
looking ahead, so nothing of a held-out future reaches training.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
import polars.selectors as cs

from genrec.data import tables
from genrec.data.context import read_names, settle_context
from genrec.data.delimited import free
from genrec.data.images import place_images
from genrec.data.settings import FilesSettings, ItemFile, LogFile, Operator, TableFile, UserFile
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean
from genrec.data.text import as_text
from genrec.data.timestamps import parse, settle, times_of
from genrec.progress import Progress, silent

_LOG, _USERS = "prepare.source.interactions", "prepare.source.users"
_COMPARE: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    "=": pl.Expr.eq,
    "<": pl.Expr.lt,
    "<=": pl.Expr.le,
    ">": pl.Expr.gt,
    ">=": pl.Expr.ge,
}
_WHOLE_ID = r"^(\d+)\.0$"
# A column without a name: the index of pandas, or what a separator at the end of lines makes.
_NAMELESS = re.compile(r"\s*|Unnamed: \d+")
# An attribute of one of these names gets the suffix `_source`.
OWN_COLUMNS = ("item", "user", "row", "file", "image_url", *RAW_ITEMS)


def read(
    settings: FilesSettings, *, folder: Path, on_bad: OnBad = "error", progress: Progress = silent
) -> RawData:
    """Reads what `settings` name; see `read_files`. A `ReadSource`."""
    return read_files(**settings.options(), on_bad=on_bad, progress=progress)


def read_files(
    items: ItemFile | None,
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
        items: the catalogue. Without a path, or None, it is made of the items of the interactions.
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
        given; each user's `history` before all else.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file cannot be read or lacks a column; a bad row.
        ModuleNotFoundError: the package that reads Excel is not installed.
    """
    items = items or ItemFile()
    bad_rows = BadRows(on_bad)
    log = read_log(interactions, bad_rows, progress)
    items_from = items.path or interactions.path
    if items_from == interactions.path and items.attributes is None:  # who bought it is none
        items = items.model_copy(update={"attributes": items.numbers})
    if items.path is None:
        table = _items_of_log(items, interactions, log["item_id"], BadRows(on_bad))
    else:
        table = _items(items, bad_rows)
    if (table["title"] == table["item_id"]).all():
        bad_rows.warn(
            f"{items_from}: the titles of the items are their ids. Views of text, captions and mined "
            "interests are of no use then: use embed.behaviour or images, or name the column of titles "
            "by `title` in prepare.source.items."
        )
    table, log = clean(
        table,
        log,
        bad_rows,
        items_from=items_from,
        interactions_from=interactions.path,
        max_unknown=max_unknown,
        fixes=_fixes(interactions),
    )
    table = place_images(
        table,
        images,
        bad_rows=bad_rows,
        where=items_from,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        progress=progress,
    )
    attributes = [name for name in table.columns if name not in (*RAW_ITEMS, "row", "file")]
    return RawData(
        table.select(*RAW_ITEMS, *attributes),
        log.select(*RAW_INTERACTIONS, *interactions.context),
        dropped=bad_rows.dropped,
        times=times_of(interactions.timestamp, interactions.unit),
        findings=tuple(bad_rows.findings),
    )


def _fixes(log: LogFile) -> dict[str, str]:
    """Returns the options that leave out or merge bad rows, by reason; for messages."""
    columns = {"user_id": log.user, "item_id": log.item, "timestamp": log.timestamp}
    fixes = {
        f"interaction_without_{ours}": "leave such rows out by "
        f'`where: [[{theirs}, "!=", null]]` in {_LOG}'
        for ours, theirs in columns.items()
    }
    return fixes | {"repeated_item_id": "set `repeats: first` in prepare.source.items"}


def _items_of_log(spec: ItemFile, log: LogFile, ids: pl.Series, bad_rows: BadRows) -> pl.DataFrame:
    """Returns a catalogue made of the log: its items, with those of its columns that `spec` names."""
    given = spec.model_fields_set
    reading = {name: getattr(log, name) for name in TableFile.model_fields}
    if unused := sorted(given & (reading.keys() - {"path"})):
        raise ValueError(
            f"prepare.source.items: {unused} are of no use without `path`; the items are those of the "
            "interactions' file, which is read as `interactions` says."
        )
    if "item" in given and spec.item != log.item:
        raise ValueError(
            f"prepare.source.items.item is {spec.item!r}, and without `path` the items are those of "
            f"interactions.item, {log.item!r}. Leave it out, or name a file by `path`."
        )
    title = spec.title if "title" in given else None
    known = ids.drop_nulls().unique(maintain_order=True)
    if not any((title, spec.description, spec.image, spec.attributes)):
        return pl.DataFrame({"item_id": known}).with_columns(
            title="item_id", description=pl.lit(""), image=pl.lit(None, pl.String)
        )
    if log.explode:
        raise ValueError(
            "prepare.source.items: a cell of the interactions has several items (`explode`), so no "
            "other column belongs to one item. Name a file of items by `path`, or leave out the columns."
        )
    own = {"item": log.item, "title": title, "repeats": "first", "numbers": spec.numbers}
    own |= {"attributes": spec.attributes, "description": spec.description or ()}
    table = _items(ItemFile(**reading | own, image=spec.image), bad_rows)
    table = table.filter(pl.col("item_id").is_in(known.implode()))
    return table.with_columns(pl.col("title").fill_null(pl.col("item_id")))


def _reading(spec: TableFile) -> dict[str, Any]:
    """Returns the options by which `tables.read` reads a file."""
    return {
        "form": spec.format,
        "separator": spec.separator,
        "quoting": spec.quoting,
        "header": spec.columns,
        "encoding": spec.encoding,
        "sheet": spec.sheet,
        "options": True,
    }


def _items(spec: ItemFile, bad_rows: BadRows) -> pl.DataFrame:
    part = "prepare.source.items"
    paths = tables.files(spec.path or "", what="a catalogue with an id per item")
    parts = [_item_part(path, spec, bad_rows) for path in paths]
    table = pl.concat(with_file(parts, paths), how="diagonal_relaxed")
    table = _with_whole_ids(table, {"item_id": spec.item}, spec, part, bad_rows)
    if spec.title is None:
        table = table.with_columns(title="item_id")
    if spec.repeats == "first":
        table = table.with_columns(pl.when(pl.col("description") != "").then("description"))
        filled = pl.all().exclude("item_id").drop_nulls().first()
        table = table.group_by("item_id", maintain_order=True).agg(filled)
    return table


def _with_whole_ids(
    table: pl.DataFrame, ids: Mapping[str, str], spec: TableFile, part: str, bad_rows: BadRows
) -> pl.DataFrame:
    """Returns ids such as 17850.0 as 17850, if `spec` says so; else warns of them."""
    for column, theirs in ids.items():
        ids_with_point = table[column].filter(table[column].str.ends_with(".0"))
        odd = ids_with_point.filter(ids_with_point.str.contains(_WHOLE_ID))
        if odd.is_empty():
            continue
        if spec.whole_ids:
            table = table.with_columns(pl.col(column).str.replace(_WHOLE_ID, "$1"))
            continue
        bad_rows.warn(  # without an id: findings are kept, and users may be hashed
            f"{spec.path}: {len(odd):,} of {len(table):,} ids in '{theirs}' end in .0, as 17850.0 does: "
            "what pandas makes of whole numbers where a cell is empty. Set `whole_ids: true` in "
            f"{part} to read such as 17850."
        )
    return table


def _item_part(path: Path, spec: ItemFile, bad_rows: BadRows) -> pl.DataFrame:
    part = "prepare.source.items"
    named: dict[str, Sequence[str]] = {
        "item": [spec.item],
        "title": [spec.title] if spec.title else [],
        "image": [spec.image] if spec.image else [],
        "description": spec.description or (),
        "attributes": spec.attributes or (),
        "numbers": spec.numbers,
    }
    named["where"] = [column for column, _, _ in spec.where]
    table = tables.read(
        path,
        bad_rows=bad_rows,
        ids=(spec.item,),
        field=part,
        expect=[(ours, theirs) for ours, names in named.items() for theirs in names],
        **_reading(spec),
    )
    conditions = [(free(condition[0]), *condition) for condition in spec.where]
    table = _kept(table, conditions, path, bad_rows)
    columns = [name for name in table.columns if name != "row"]
    texts = [n for n in ("description",) if n in columns]
    texts = texts if spec.description is None else list(spec.description)
    image = spec.image or ("image" if "image" in columns else None)
    taken = {spec.item, spec.title, image, *texts}
    others = [n for n in columns if n not in taken and not _NAMELESS.fullmatch(n)]
    chosen = others if spec.attributes is None else spec.attributes
    extra = [(n, tables.as_attribute(n, table.schema[n])) for n in chosen]
    return _numbers(
        table.select(
            "row",
            pl.col(spec.item).alias("item_id"),
            (_text(table, spec.title) if spec.title else pl.lit(None, pl.String)).alias("title"),
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
        user_id, item_id (String), timestamp (Int64, see `timestamps.times_of`), row, file where there
        are several, and the context; file by file, rows in their order, or by time where weights are
        given. Each user's `history` comes before all else.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read or lacks a column; a bad row.
    """
    paths = tables.files(spec.path, what="a log with a user, an item and a time per row")
    parts: list[pl.DataFrame] = []
    for done, path in enumerate(paths, 1):
        parts.append(_log_part(path, spec, bad_rows))
        progress("read files", done, len(paths))
    log = pl.concat(with_file(parts, paths), how="diagonal")
    log = settle(log, where=spec.path, times=times_of(spec.timestamp, spec.unit))
    if spec.clicked and log.filter(~pl.col("is_history") if spec.history else True).is_empty():
        raise ValueError(
            f"{spec.path}: no item in '{spec.item}' ends in {spec.clicked!r}. Correct `clicked` or "
            f"`explode` in {_LOG}."
        )
    if spec.history:
        log = _with_history(log)
    if spec.timestamp is None:
        log = log.with_columns(timestamp=pl.int_range(pl.len()))
    log = _with_whole_ids(log, {"user_id": spec.user, "item_id": spec.item}, spec, _LOG, bad_rows)
    log = _reaching(log, spec, bad_rows) if spec.type else log
    return settle_context(log, spec.context, where=spec.path)


def read_users(
    spec: UserFile, bad_rows: BadRows, *, names: Mapping[str, str] = MappingProxyType({})
) -> pl.DataFrame:
    """Reads the attributes of users.

    Args:
        spec: the files, and which columns to keep.
        bad_rows: what to do with a row without an id, one of a user who had one, or a ragged one.
        names: of columns in the file, where `spec` calls them otherwise.

    Returns:
        user_id (String), then the attributes (String or Float64, or null), in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, is empty or lacks a column; a bad row; no row is left.
    """
    paths = tables.files(spec.path, what="a table with a row per user")
    parts = [_user_part(path, spec, bad_rows, names) for path in paths]
    table = pl.concat(with_file(parts, paths), how="diagonal_relaxed")
    table = _with_whole_ids(table, {"user_id": spec.user}, spec, _USERS, bad_rows)
    id_text = pl.col("user_id").str.strip_chars()
    for bad, reason, problem in (
        (id_text.fill_null("") == "", "user_without_id", f"user without an id in '{spec.user}'"),
        (~pl.col("user_id").is_first_distinct(), "repeated_user_id", "user in two rows"),
    ):
        table = bad_rows.reject(
            table,
            bad,
            reason=reason,
            where=spec.path,
            problem=f"{problem}; expected one row with an id for each",
            fix="Correct the table",
            show=("user_id",),
        )
    if table.is_empty():
        raise ValueError(f"{spec.path}: no usable rows; expected a row per user.")
    table = settle_context(table, spec.attributes, where=spec.path, setting="attributes")
    return table.select("user_id", *spec.attributes)


def _user_part(
    path: Path, spec: UserFile, bad_rows: BadRows, names: Mapping[str, str]
) -> pl.DataFrame:
    named = {"user_id": spec.user} | read_names(spec.attributes, "attributes")
    conditions = _conditions(spec)
    named |= {ours: theirs for ours, theirs, *_ in conditions}
    named = {ours: names.get(theirs, theirs) for ours, theirs in named.items()}
    table = tables.read(
        path, named, bad_rows=bad_rows, ids=("user_id",), field=_USERS, **_reading(spec)
    )
    return _kept(table, conditions, path, bad_rows).drop(name for name, *_ in conditions)


def _conditions(spec: TableFile) -> list[tuple[str, str, Operator, Any]]:
    """Returns those of `where`: our name of the column, the owner's, operator and value."""
    return [(f"where.{n}", *condition) for n, condition in enumerate(spec.where)]


def _log_part(path: Path, spec: LogFile, bad_rows: BadRows) -> pl.DataFrame:
    columns = {"user": spec.user, "item": spec.item, "timestamp": spec.timestamp}
    columns |= {"type": spec.type, "rating": spec.rating, "history": spec.history}
    named = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    conditions = _conditions(spec)
    named |= {ours: theirs for ours, theirs, *_ in conditions}
    named |= read_names(spec.context)
    log = _read_columns(path, spec, named, bad_rows)
    log = log.rename({"user": "user_id", "item": "item_id"})
    log = _kept(log, conditions, path, bad_rows).drop(name for name, *_ in conditions)
    if spec.rating is not None:
        log = at_least(log, spec.min_rating, bad_rows=bad_rows, where=path, field=spec.rating)
    if spec.type is not None:
        log = _weighed(log, spec, bad_rows, path)
    if spec.timestamp is None:
        log = log.with_columns(timestamp=pl.lit(None, pl.Int64))
    else:
        log = parse(
            log,
            unit=spec.unit,
            bad_rows=bad_rows,
            where=path,
            field=spec.timestamp,
            setting=f"{_LOG}.unit",
            time_format=spec.time_format,
            section=_LOG,
        )
    return _exploded(log, spec, path, bad_rows) if spec.explode else log


def _read_columns(
    path: Path, spec: LogFile, named: Mapping[str, str], bad_rows: BadRows
) -> pl.DataFrame:
    """Reads columns by our names; the ids as text, but for lists of items, which stay lists."""
    options = _reading(spec)
    ids = {"user": spec.user} | ({} if spec.explode else {"item": spec.item})
    form = spec.format or tables.format_of(path, _LOG)
    if spec.explode == "list" and form == "jsonl":  # only read whole, they stay lists
        expect = list(named.items())
        table = tables.read(path, bad_rows=bad_rows, field=_LOG, expect=expect, **options)
        table = table.select("row", *(pl.col(free(n)).alias(ours) for ours, n in named.items()))
        return tables.as_ids(path, table, ids)
    return tables.read(
        path, named, bad_rows=bad_rows, ids=tuple(ids), field=_LOG, exact=("timestamp",), **options
    )


def _exploded(log: pl.DataFrame, spec: LogFile, path: Path, bad_rows: BadRows) -> pl.DataFrame:
    """Returns a row for each item of a cell, in order; those of `history` marked as `is_history`."""
    assert spec.explode is not None
    rows = _explode(log.drop("history", strict=False), "item_id", spec.explode, path, spec.item)
    if spec.clicked:
        clicked = rows.filter(pl.col("item_id").str.ends_with(spec.clicked))
        if other := len(rows) - len(clicked):
            bad_rows.count("not_clicked", other)
        rows = clicked.with_columns(pl.col("item_id").str.strip_suffix(spec.clicked))
    if not spec.history:
        return rows
    first = log.sort("timestamp", maintain_order=True).unique(
        "user_id", keep="first", maintain_order=True
    )
    first = first.drop("item_id").rename({"history": "item_id"})
    before = _explode(first, "item_id", spec.explode, path, spec.history)
    return pl.concat(
        [before.with_columns(is_history=True), rows.with_columns(is_history=False)], how="diagonal"
    )


def _explode(
    table: pl.DataFrame, column: str, separator: str, path: Path, name: str
) -> pl.DataFrame:
    """Returns a row for each entry of the lists in a column; a list without any gives none."""
    if not isinstance(table.schema[column], pl.List):
        table = table.with_columns(pl.col(column).cast(pl.String))
        listed = table.filter(pl.col(column).str.contains(r"^\s*\[.*\]\s*$"))
        if separator == "list":
            lists = pl.Series(column, _parsed_lists(table[column], table["row"], path, name))
            table = table.with_columns(lists)
        elif len(listed):
            raise ValueError(
                f"{path}: row {listed['row'][0]}: '{name}' is the list {listed[column][0]:.80}. Set "
                f"`explode: list` in {_LOG}."
            )
        else:
            table = table.with_columns(pl.col(column).str.split(separator))
    rows = table.explode(column)
    rows = rows.with_columns(tables.id_text(column, rows.schema[column]))
    return rows.filter(pl.col(column).str.len_chars() > 0)


def _parsed_lists(cells: pl.Series, rows: pl.Series, path: Path, name: str) -> list[list[str]]:
    """Returns cells such as `[1, 2]` or `['a', 'b']` as lists; nothing is run."""
    lists = []
    for row, cell in zip(rows, cells, strict=True):
        try:
            entries = ast.literal_eval(cell) if cell is not None else []
        except (ValueError, SyntaxError, TypeError):
            entries = None
        if not isinstance(entries, list):
            raise ValueError(
                f"{path}: row {row}: '{name}' is {cell!r:.80}; expected a list such as [1, 2]. Correct "
                f"it, or set {_LOG}.explode to the text between the items."
            )
        lists.append([text for entry in entries if (text := as_text(entry))])
    return lists


def _with_history(log: pl.DataFrame) -> pl.DataFrame:
    """Returns each user's items of `history`, of the first row alone, and all other rows after them."""
    row = pl.struct(cs.by_name("file", "row", require_all=False))
    before = log.filter("is_history").sort("timestamp", maintain_order=True)
    before = before.filter(row == row.first().over("user_id"))
    return pl.concat([before, log.filter(~pl.col("is_history"))]).drop("is_history")


def _kept(
    table: pl.DataFrame,
    conditions: Sequence[tuple[str, str, Operator, Any]],
    path: Path,
    bad_rows: BadRows,
) -> pl.DataFrame:
    """Returns the rows for which all conditions hold; the others are counted, and no bad rows.

    Args:
        table: any table.
        conditions: column of the table, the owner's name of it, operator and value.
        path: the file, for messages.
        bad_rows: what to do with a cell that is not a number and is compared with one.
    """
    for column, theirs, operator, value in conditions:
        if operator in ("<", "<=", ">", ">="):
            table = bad_rows.reject(
                table,
                (_trimmed(column) != "") & _number(table, column).is_null(),
                reason="bad_number",
                where=path,
                problem=f"cell in '{theirs}' that is not a number; `where` asks for {operator} {value}",
                fix="Correct the cell",
                show=(column,),
            )
        kept = table.filter(_holds(table, column, operator, value))
        if left := len(table) - len(kept):
            bad_rows.count("left_out_by_where", left)
        table = kept
    return table


def _holds(table: pl.DataFrame, column: str, operator: str, value: Any) -> pl.Expr:
    if operator == "!=":
        return ~_holds(table, column, "=", value)
    if operator.startswith("not "):
        return ~_holds(table, column, operator.removeprefix("not "), value)
    if operator == "in":
        return pl.any_horizontal(False, *(_holds(table, column, "=", each) for each in value))
    text = _trimmed(column)
    if value is None:
        return text.is_null() | (text == "")
    if operator == "starts with":
        holds = text.str.starts_with(value)
    elif isinstance(value, bool):
        holds = text.str.to_lowercase() == str(value).lower()
    elif isinstance(value, str):
        holds = text == value
    else:
        holds = _COMPARE[operator](_number(table, column), value)
    return holds.fill_null(False)


def _trimmed(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.strip_chars()


def _number(table: pl.DataFrame, column: str) -> pl.Expr:
    """Returns a column as numbers, null where a cell is none."""
    value = pl.col(column)
    if table.schema[column] == pl.String:
        value = value.str.strip_chars()
    return value.cast(pl.Float64, strict=False)


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
