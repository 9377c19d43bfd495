"""RecBole's atomic files: `.inter`, `.item`, and pre-split `.train/.valid/.test.inter`.

recbole.io/docs/user_guide/data/atomic_files.html: tab-separated, the header names each column
`field:type` with types token, token_seq, float. The pre-split files are for
`benchmark_filename: [train, valid, test]` of sequential models, whose histories are in
`item_id_list:token_seq` (data_settings.html; `alias_of_item_id: [item_id_list]`). Here the three parts
and the SIDs are read back; foreign files, a log without a split, are `prepare.source.kind=recbole`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from genrec.data.formats.bundle import Bundle, Ints
from genrec.data.recbole import header
from genrec.data.source import BadRows, Times
from genrec.data.timestamps import Unit, parse, settle
from genrec.schema import INTERACTIONS, ITEMS, SPLIT, SPLITS, USERS, check
from genrec.sid.codes import parse_token

_SID = "sid:token_seq"
_FURTHER = re.compile(r"sid-[1-9][0-9]*:token_seq")  # of further sets of SIDs, in their order


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the files, with the owner's ids: RecBole numbers them itself.

    `<name>.inter` holds every interaction with its time and part (`split:token`, which RecBole leaves
    alone). Times are `timestamp:float`, in seconds with as many decimals as they have. Numbers without
    a unit are `order:float`; without times, `position:float` tells the order of the log (RecBole's
    TIME_FIELD names it). The pre-split files hold one row per question, of training one per step; a
    training sequence of one item is in `.inter` alone, for RecBole's models need a history. SIDs
    are in `<name>.item` as `sid:token_seq`, where there are any; those of further sets as
    `sid-1:token_seq`.

    Raises:
        ValueError: an id has white space in it, or there are no interactions.
    """
    log = bundle.interactions
    if log is None:
        raise ValueError(f"{bundle.name}: RecBole's .inter needs interactions with times")
    for what, table in (("item", bundle.items), ("user", bundle.users)):
        ids = table[f"{what}_id"]
        if len(broken := ids.filter(ids.str.contains(r"\s"))):
            raise ValueError(
                f"{what}_id {broken[0]!r} has white space in it, which separates ids in RecBole's files "
                f"({len(broken)} in all); rename such ids in the source"
            )
    folder.mkdir(parents=True, exist_ok=True)
    named = log.join(bundle.users, on="user", maintain_order="left").join(
        bundle.items.select("item", "item_id"), on="item", maintain_order="left"
    )
    inter = named.select(
        pl.col("user_id").alias("user_id:token"),
        pl.col("item_id").alias("item_id:token"),
        _written(bundle.times),
        pl.col("split").alias("split:token"),
    )
    _write(inter, folder / f"{bundle.name}.inter")
    for part in SPLITS:
        _write(_questions(bundle, part), folder / f"{bundle.name}.{part}.inter")
    _write(_items(bundle), folder / f"{bundle.name}.item")


def _questions(bundle: Bundle, part: str) -> pl.DataFrame:
    users, items = bundle.users["user_id"].to_list(), bundle.items["item_id"].to_list()
    rows = [
        (users[user], " ".join(items[i] for i in history), items[target])
        for user, history, target in bundle.rows(part)
        if history
    ]
    columns = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _items(bundle: Bundle) -> pl.DataFrame:
    """Title, description and attributes; words on one line, numbers as floats."""
    columns = []
    for name, dtype in bundle.items.schema.items():
        if name in ("item", "item_id", "image"):
            continue
        if dtype.is_numeric():
            columns.append(pl.col(name).alias(f"{name}:float"))
        else:
            words = pl.col(name).cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
            columns.append(words.alias(f"{name}:token_seq"))
    for number in range(len(bundle.sets)):
        field = _SID if number == 0 else f"sid-{number}:token_seq"
        sids = pl.Series(field, [" ".join(tokens) for tokens in bundle.tokens(number)])
        columns.append(pl.lit(sids))
    return bundle.items.select(pl.col("item_id").alias("item_id:token"), *columns)


def _write(table: pl.DataFrame, path: Path) -> None:
    table.write_csv(path, separator="\t", quote_style="necessary")


def read(folder: Path, name: str) -> Bundle:
    """Reads what `write` wrote: ids, order, the three parts, times and SIDs.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has not the columns it should have, or names an unknown item or user.
    """
    items = _read(folder / f"{name}.item", ("item_id:token",))
    path = folder / f"{name}.inter"
    times = _times(path)
    log = _parsed(_read(path, (*_INTER, f"{_FIELDS[times]}:float")), times, path)
    users = log["user_id:token"].unique(maintain_order=True)
    numbers = {
        "item": (items["item_id:token"], pl.int_range(len(items), dtype=pl.Int32, eager=True)),
        "user": (users, pl.int_range(len(users), dtype=pl.Int32, eager=True)),
    }

    def number(column: str, what: str) -> pl.Expr:
        known, numbered = numbers[what]
        return pl.col(column).replace_strict(known, numbered, return_dtype=pl.Int32)

    interactions = log.select(
        number("user_id:token", "user").alias("user"),
        number("item_id:token", "item").alias("item"),
        "timestamp",
        pl.col("split:token").alias("split"),
    )
    parts = {"train": _learned(interactions)}
    for part in ("valid", "test"):
        parts[part] = _read(folder / f"{name}.{part}.inter", _QUESTIONS).select(
            number("user_id:token", "user").alias("user"),
            pl.col("item_id_list:token_seq")
            .str.split(" ")
            .list.eval(pl.element().replace_strict(*numbers["item"], return_dtype=pl.Int32))
            .alias("history"),
            number("item_id:token", "item").alias("target"),
        )
    return Bundle(
        name,
        _catalogue(items, folder),
        pl.DataFrame({"user": numbers["user"][1], "user_id": users}, schema=dict(USERS)),
        **{part: check(table, SPLIT, folder) for part, table in parts.items()},
        interactions=check(interactions, INTERACTIONS, folder),
        sids=_sids(items, _SID),
        further_sids=tuple(_further(items)),
        times=times,
    )


def _written(times: Times) -> pl.Expr:
    """Returns the column of times as text: whole numbers, or decimal seconds, digit by digit."""
    time = pl.col("timestamp")
    if times != "ns":
        return time.alias(f"{_FIELDS[times]}:float")
    sign = pl.when(time < 0).then(pl.lit("-")).otherwise(pl.lit(""))
    below = (time.abs() % 10**9).cast(pl.String).str.zfill(9).str.strip_chars_end("0")
    point = pl.when(below == "").then(pl.lit("")).otherwise(pl.lit("."))
    text = pl.concat_str(sign, (time.abs() // 10**9).cast(pl.String), point, below)
    return text.alias("timestamp:float")


def _parsed(log: pl.DataFrame, times: Times, path: Path) -> pl.DataFrame:
    """Returns a log with the times that `_written` wrote, those before 1970 among them."""
    field = _FIELDS[times]
    text = pl.col(f"{field}:float")
    log = log.with_columns(timestamp=text.str.strip_prefix("-"), early=text.str.starts_with("-"))
    unit: Unit = "s" if times == "ns" else "order"
    log = parse(log, unit=unit, bad_rows=BadRows(), where=path, field=field)
    time = pl.col("timestamp")
    return settle(log, where=path, times=times).with_columns(
        timestamp=pl.when("early").then(-time).otherwise(time)
    )


def _times(path: Path) -> Times:
    """Returns what the times of an `.inter` file are, by the name of their field."""
    fields = header(path)
    return next((times for times, field in _FIELDS.items() if field in fields), "ns")


_INTER = ("user_id:token", "item_id:token", "split:token")
_FIELDS: dict[Times, str] = {"ns": "timestamp", "order": "order", "none": "position"}
_QUESTIONS = ("user_id:token", "item_id_list:token_seq", "item_id:token")


def _read(path: Path, wanted: tuple[str, ...]) -> pl.DataFrame:
    types = [f"{name}:{kind}" for name, kind in header(path).items()]
    if missing := [column for column in wanted if column not in types]:
        raise ValueError(
            f"{path}: no field {missing}; found {types}. Files that `genrec export` did not write are "
            "read as a source, prepare.source.kind=recbole"
        )
    return pl.read_csv(path, separator="\t", infer_schema=False)


def _learned(interactions: pl.DataFrame) -> pl.DataFrame:
    """Training's part: all but the last of what a user did there, and the last."""
    rows = interactions.filter(pl.col("split") == "train")
    whole = rows.group_by("user", maintain_order=True).agg("item")
    item = pl.col("item")
    return whole.select(
        "user", history=item.list.slice(0, item.list.len() - 1), target=item.list.last()
    )


def _catalogue(items: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """The items as written, fields of type float as numbers."""
    columns = []
    for column in items.columns:
        field, _, kind = column.rpartition(":")
        if not _FURTHER.fullmatch(column) and column != _SID:
            value = pl.col(column)
            columns.append(
                value.cast(pl.Float64, strict=False).alias(field)
                if kind == "float"
                else value.alias(field)
            )
    numbered = items.select(
        *columns, item=pl.int_range(pl.len(), dtype=pl.Int32), image=pl.lit(None, dtype=pl.String)
    ).with_columns(pl.col("description").fill_null(""))
    rest = [c for c in numbered.columns if c not in ITEMS]
    return check(numbered.select(*ITEMS, *rest), ITEMS, folder)


def _sids(items: pl.DataFrame, field: str) -> Ints | None:
    if field not in items.columns:
        return None
    return np.array([[parse_token(t)[1] for t in s.split()] for s in items[field]], dtype=np.int32)


def _further(items: pl.DataFrame) -> Iterator[Ints]:
    """Yields the SIDs of the sets after the first."""
    for column in items.columns:
        if _FURTHER.fullmatch(column) and (sids := _sids(items, column)) is not None:
            yield sids
