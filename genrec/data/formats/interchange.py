"""Reads the generative-retrieval field's JSON files: `*.inter.json`, `*.item.json`, `*.index.json`.

The format has order but no time, so the position in a user's list stands for the timestamp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from genrec.data.images import attach_images, verify_images
from genrec.data.settings import InterchangeSettings
from genrec.data.source import RAW_INTERACTIONS, BadRows, OnBad, RawData, clean, existing
from genrec.data.text import as_text, broken_id, has_half, warn_of_halves, whole
from genrec.progress import Progress, silent

_TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")  # nine digits fit int32
_OWN_COLUMNS = ("item", "item_id", "image")  # an attribute of this name gets the suffix `_source`


def read(
    settings: InterchangeSettings,
    *,
    folder: Path,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads what `settings` name; see `read_interchange`. A `ReadSource`."""
    return read_interchange(**settings.options(), on_bad=on_bad, progress=progress)


def read_interchange(
    interactions: str | Path,
    items: str | Path,
    *,
    index: str | Path | Sequence[str | Path] | None = None,
    images: str | Path | None = None,
    check_images: bool = True,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads one dataset in the interchange format.

    Args:
        interactions: `*.inter.json`: {user: [item, ...]}, oldest first; items as int or string.
        items: `*.item.json`: {item: {"title", "description", ...}}. Lists are joined, null and
            missing values stay null, and every further key becomes a String column.
        index: `*.index.json`: {item: ["<a_1>", "<b_2>", ...]}, published SIDs; several files
            are several sets of them.
        images: a folder with `<item>.jpg|jpeg|png|webp`.
        check_images: decode every image once (see `verify_images`).
        on_bad: raise on bad rows, or drop and count them. A misshapen file or index always raises.
        progress: called with "check images".

    Returns:
        The data in file order; timestamp is the position in the user's list, from 0.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file is empty, not JSON or not of this shape; a bad row; a bad SID.
    """
    bad_rows = BadRows(on_bad)
    item_table = attach_images(_item_table(Path(items), bad_rows), images)
    log = _interaction_table(Path(interactions), bad_rows)
    item_table, log = clean(
        item_table, log, bad_rows, items_from=items, interactions_from=interactions
    )
    if images is not None and check_images:
        item_table, lost = verify_images(item_table, on_bad=on_bad, progress=progress)
        if lost:
            bad_rows.count("unreadable_image", lost)
    files = [index] if isinstance(index, str | Path) else index or ()
    sets = [_read_sids(Path(file), item_table, bad_rows) for file in files]
    return RawData(
        item_table,
        log,
        sids=sets[0] if sets else None,
        further_sids=tuple(sets[1:]),
        dropped=bad_rows.dropped,
        times="none",
    )


def read_catalogue(
    items: str | Path, index: str | Path | None = None
) -> tuple[pl.DataFrame, dict[str, tuple[int, ...]] | None]:
    """Reads `*.item.json` and perhaps `*.index.json`, without interactions.

    Returns:
        item_id, title, description and attributes in file order, no text null; SIDs by item_id.

    Raises:
        FileNotFoundError, ValueError: as `read_interchange`.
    """
    bad_rows = BadRows("error")
    table = _item_table(Path(items), bad_rows)
    table = table.with_columns(pl.col("title", "description").fill_null(""))
    return table, None if index is None else _read_sids(Path(index), table, bad_rows)


def read_index(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Reads `*.index.json` alone: the SID of every item that it names, in file order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, not JSON or not of this shape; a bad SID.
    """
    index = _read_index(Path(path))
    return _sids_of(index, index, Path(path))


class _Object(dict[str, Any]):
    """A JSON object that keeps the first of repeated keys and remembers that they were repeated."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__()
        self.repeated: list[str] = []
        for key, value in pairs:
            if key in self:
                self.repeated.append(key)
            else:
                self[key] = value


def _read_object(path: Path, *, what: str) -> _Object:
    """Reads a JSON object in file order."""
    text = existing(path, what=what).read_bytes()
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_Object)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 (byte {error.start}); expected {what}. Save the file as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}; "
            f"expected {what}. Fix or download the file again."
        ) from error
    if not isinstance(value, _Object):
        raise ValueError(f"{path}: found a JSON {type(value).__name__}, expected {what}.")
    if not value:
        raise ValueError(f"{path}: the object is empty; expected {what}.")
    return value


def _once(value: _Object, path: Path, kind: str, bad_rows: BadRows) -> None:
    """Judges repeated keys: JSON readers would keep the last of them and say nothing."""
    if value.repeated and bad_rows.on_bad == "error":
        bad_rows.fail(
            path,
            f"repeated {kind} {', '.join(map(repr, value.repeated[:3]))} "
            f"({len(value.repeated)} in all); expected every {kind} once",
            f"Keep one entry per {kind}",
        )
    if value.repeated:
        bad_rows.count(f"repeated_{kind}", len(value.repeated))


def _item_table(path: Path, bad_rows: BadRows) -> pl.DataFrame:
    items = _read_object(path, what='{item: {"title": ..., "description": ...}}')
    _once(items, path, "item_id", bad_rows)
    attributes: dict[str, None] = {}  # a set in order of appearance
    places: list[str] = []
    for item_id in [name for name in items if has_half(name)]:
        broken_id(str(path), "item", item_id, bad_rows)
        del items[item_id]
    for item_id, fields in items.items():
        if not isinstance(fields, _Object):
            raise ValueError(
                f"{path}: item {item_id!r} is a {type(fields).__name__}, expected an object with "
                '"title" and "description".'
            )
        if "title" not in fields:
            raise ValueError(
                f"{path}: item {item_id!r} has no field 'title'; found {list(fields)}. "
                "Add it, or rename the field that holds the title."
            )
        for name in [name for name, value in fields.items() if has_half(value) or has_half(name)]:
            places.append(f"item {item_id!r}, {name!a}: {fields[name]!a:.80}")
            fields[whole(name)] = whole(fields.pop(name))
        attributes.update(dict.fromkeys(fields))
    warn_of_halves(path, places, bad_rows)
    names = [name for name in attributes if name not in ("title", "description")]
    columns: dict[str, list[str | None]] = {
        "item_id": list(items),
        "title": [as_text(fields.get("title")) for fields in items.values()],
        "description": [as_text(fields.get("description"), " ") for fields in items.values()],
    }
    for name in names:
        column = f"{name}_source" if name in _OWN_COLUMNS else name
        columns[column] = [as_text(fields.get(name)) for fields in items.values()]
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _interaction_table(path: Path, bad_rows: BadRows) -> pl.DataFrame:
    users = _read_object(path, what="{user: [item, ...]}")
    _once(users, path, "user_id", bad_rows)
    rows: list[tuple[str, str, int]] = []
    for user_id, history in users.items():
        if not isinstance(history, list):
            raise ValueError(
                f"{path}: user {user_id!r} has a {type(history).__name__}, expected a list of "
                "items."
            )
        for position, item in enumerate(history):
            if isinstance(item, bool) or not isinstance(item, int | str):
                raise ValueError(
                    f"{path}: user {user_id!r}, position {position}: found {item!r}, "
                    "expected an item id as a string or a whole number."
                )
            if has_half(user_id) or has_half(item):
                broken = user_id if has_half(user_id) else item
                broken_id(f"{path}: user {user_id!a}", "user or item", broken, bad_rows)
                continue
            rows.append((user_id, str(item), position))
    return pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row")


def _read_sids(path: Path, items: pl.DataFrame, bad_rows: BadRows) -> dict[str, tuple[int, ...]]:
    index = _read_index(path)
    for item_id in items["item_id"]:
        if item_id not in index:
            raise ValueError(
                f"{path}: item {item_id!r} has no SID; expected one for each of the {len(items)} "
                "items. Use the index that belongs to this catalogue, or leave it out to quantize."
            )
    sids = _sids_of(index, items["item_id"], path)
    if unused := len(index) - len(sids):
        bad_rows.count("sid_of_unknown_item", unused)
    return sids


def _read_index(path: Path) -> _Object:
    index = _read_object(path, what='{item: ["<a_1>", "<b_2>", ...]}')
    if index.repeated:
        raise ValueError(f"{path}: item {index.repeated[0]!r} has two SIDs; expected one each.")
    return index


def _sids_of(index: _Object, items: Iterable[str], path: Path) -> dict[str, tuple[int, ...]]:
    first, levels = "", 0
    sids: dict[str, tuple[int, ...]] = {}
    for item_id in items:
        sids[item_id] = _codes(index[item_id], f"{path}: item {item_id!r}")
        if not levels:
            first, levels = item_id, len(sids[item_id])
        if len(sids[item_id]) != levels:
            raise ValueError(
                f"{path}: item {item_id!r} has {len(sids[item_id])} levels, expected {levels} "
                f"like item {first!r}. Every SID of an index has one length."
            )
    return sids


def _codes(tokens: object, where: str) -> tuple[int, ...]:
    """Parses ["<a_1>", "<b_2>"] to (1, 2)."""
    if not isinstance(tokens, list) or not tokens or len(tokens) > 26:
        raise ValueError(f'{where}: found {tokens!r}, expected a list such as ["<a_1>", "<b_2>"].')
    codes = []
    for level, token in enumerate(cast("list[object]", tokens)):
        letter = chr(ord("a") + level)
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None or match[1] != letter:
            raise ValueError(
                f"{where}: level {level} is {token!r}, expected '<{letter}_CODE>' with CODE a "
                "whole number from 0 (levels are lettered a, b, c, ... in order)."
            )
        codes.append(int(match[2]))
    return tuple(codes)
