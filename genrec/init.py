"""`genrec init FILES`: what is in them, said and written down as a recipe to run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec import data, sizes, sniff
from genrec.data.settings import FilesSettings
from genrec.data.source import RawData
from genrec.data.tables import format_of
from genrec.progress import Progress, silent
from genrec.recipe_text import lines
from genrec.sniff import Roles, Table

_CHECKED = 2**31  # bytes; larger files are not read whole
_QUICK = "-quick"


def init(
    log: str | Path,
    items: str | Path | None = None,
    *,
    images: str | Path | None = None,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[str, Path, Path]:
    """Looks at files, and writes a recipe for them and a quick variant of it.

    Args:
        log: the interactions.
        items: the catalogue; None makes the items from the interactions.
        images: a folder of images.
        out: the recipe's file; None: named after the log, in this folder.
        columns: `user`, `item`, `timestamp`, `title` ... that are known; the rest is guessed.
        force: replace recipes that are there.
        progress: told how far reading the files is.

    Returns:
        What was understood, in lines; the recipe; its quick variant.

    Raises:
        FileNotFoundError: no such file or folder.
        FileExistsError: the recipe is there already.
        ValueError: a file cannot be read, or no column is the user's or the item's.
    """
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"--images {images}: no such folder")
    if Path(log).resolve() == Path.cwd():
        raise ValueError(
            f"{log} is this folder, into which the recipe and its store go; name a file, another folder "
            "of parts, or a glob in quotes"
        )
    given = dict(columns or {})
    table = sniff.look(log)
    roles = sniff.roles_of_log(table)
    if items is not None and not {"user", "item"} & given.keys():
        other = sniff.look(items)
        if other.columns == table.columns:
            raise ValueError(
                f"{log} and {items} have the same columns {list(table.columns)}: where they are parts "
                "of one log, give their folder, or a glob in quotes"
            )
        others = sniff.roles_of_log(other)
        if (others.named, len(others.of)) > (roles.named, len(roles.of)):  # in the other order
            log, items, table, roles = items, log, other, others
    recipe = Path(out) if out is not None else Path(f"{_stem(Path(log))}.yaml")
    quick = recipe.with_name(f"{recipe.stem}{_QUICK}{recipe.suffix}")
    if there := [file for file in (recipe, quick) if file.exists() and not force]:
        raise FileExistsError(
            f"{there[0]} is there already; choose another name by --out, or --force"
        )
    _take(roles, given, table, ("user", "item", "timestamp", "rating", "type"))
    for role in ("user", "item"):
        if role not in roles.of:
            raise ValueError(
                f"{log}: which column is the {role}? Its columns are {list(table.columns)}, the first "
                f"row is {list(table.rows[0])}. Name it by --{role} COLUMN"
            )
    said = [*_described(table, roles)]
    table, roles = sniff.named(table, roles)
    source: dict[str, Any] = {"kind": "files", "interactions": _log_section(table, roles, said)}
    if items is not None:
        catalogue = sniff.look(items)
        found = sniff.roles_of_items(catalogue, _ids_of(table, roles))
        _take(found, given, catalogue, ("title", "description", "image"))
        said += _described(catalogue, found)
        source["items"] = _items_section(*sniff.named(catalogue, found))
        text, pictured = "title" in found.of, "image" in found.of
    else:
        text = _one_table(table, roles, given, source, said)
        pictured = False
    if images is not None:
        source["images"] = str(images)
    elif pictured:
        said.append(
            "  images: the column is there; --images FOLDER, or `images: download` for URLs"
        )
    try:
        prepare, size = _counted(source, table.path, said, progress)
    except ValueError as error:
        told = "\n".join(said)
        raise ValueError(
            f"{told}\nRead so, there is a problem: {error}\nIf a guess above is wrong, name columns by "
            "--user, --item, --timestamp, --title; else change the files, or write the recipe by hand "
            "(recipes/README.md, Your own data)"
        ) from error
    pictured = images is not None
    for file, small in ((recipe, False), (quick, True)):
        sized = sizes.sections(**size, text=text, images=pictured, quick=small)
        whole = {"prepare": prepare} | sized
        _write(file, whole, [str(log), *([str(items)] if items else [])], small)
    if not text:
        said.append(
            "  no titles: no view of text, no captions or interests, no wishes in words; items are "
            "known by who chose them alone"
        )
    return "\n".join(said), recipe, quick


def _stem(path: Path) -> str:
    return path.name.split(".")[0].replace(" ", "-").lower() or "recipe"


def _take(roles: Roles, given: dict[str, str], table: Table, names: Sequence[str]) -> None:
    """Puts in what the owner said, a name or a place from 1 of a column."""
    for role in names:
        if (column := given.get(role)) is None:
            continue
        if column.isdecimal() and column not in table.columns and int(column) <= len(table.columns):
            column = table.columns[int(column) - 1]
        if column not in table.columns:
            raise ValueError(
                f"--{role} {column}: {table.path} has no such column; it has {list(table.columns)}"
            )
        roles.of = {r: c for r, c in roles.of.items() if c != column} | {role: column}


def _described(table: Table, roles: Roles) -> list[str]:
    how: list[str] = [table.form]
    if table.form == "csv":
        how += [f"separator {table.separator!r}", table.encoding]
        how += ["header" if table.header else "no header"]
    lines = [f"{table.path}: {', '.join(how)}, {len(table.columns)} columns"]
    for role, column in roles.of.items():
        cells = table.column(column)[:3]
        lines.append(f"  {role:<12}{column:<20} such as {', '.join(map(_short, cells))}")
    unused = [name for name in table.columns if name not in roles.of.values()]
    lines += [f"  {'others':<12}{', '.join(unused)}"] if unused else []
    lines += [f"  ? {doubt}" for doubt in (*table.notes, *roles.doubts)]
    return lines


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:29]}…")


# --- settings of the source ----------------------------------------------------------------------


def _file_section(table: Table) -> dict[str, Any]:
    section: dict[str, Any] = {"path": str(table.path)}
    if table.form != "csv":
        if not _told_by_name(table.path, table.form):
            section["format"] = table.form
        return section | ({"sheet": table.sheet} if table.sheet else {})
    tab = table.separator == "\t"
    if not _told_by_name(table.path, "tsv" if tab else "csv"):
        section["format"] = "tsv" if tab else "csv"
    if not tab and table.separator != ",":
        section["separator"] = table.separator
    if not table.quoted:
        section["quoting"] = "none"
    elif table.escaped:
        section["quoting"] = "backslash"
    if table.encoding != "utf-8":
        section["encoding"] = table.encoding
    if not table.header:
        section["columns"] = list(table.columns)
    return section


def _told_by_name(path: Path, form: str) -> bool:
    try:
        return format_of(path) == form
    except (ValueError, OSError):
        return False


def _log_section(table: Table, roles: Roles, said: list[str]) -> dict[str, Any]:
    section = _file_section(table)
    section |= {role: roles.of[role] for role in ("user", "item")}
    section |= _times(table, roles, said)
    ids = [table.column(roles.of[role]) for role in ("user", "item")]
    if any(map(sniff.is_whole_as_float, ids)):
        section["whole_ids"] = True
        said.append("  ids such as 17850.0 are read as 17850 (whole_ids)")
    cells = table.column(roles.of["item"])
    if (separator := sniff.lists(cells)) is not None:
        section["explode"] = separator
        said.append(f"  ? a cell holds several items, {separator!r} between them (explode)")
        if (clicked := sniff.ending(cells)) is not None:
            section["clicked"] = clicked
            said.append(f"  items that end in {clicked!r} were clicked, the others only shown")
        if "history" in roles.of:
            section["history"] = roles.of["history"]
    if where := _left_out(table, roles, said):
        section["where"] = where
    if "rating" in roles.of:
        ratings = list(map(float, table.column(roles.of["rating"])))
        low, high = min(ratings), max(ratings)
        rating = roles.of["rating"]
        said.append(
            f"  ratings {low:g} to {high:g}: all count; `rating: {rating}, min_rating: "
            f"{(low + high) / 2:g}` keeps those from there on"
        )
    if "type" in roles.of:
        kinds = sorted(set(table.column(roles.of["type"])))
        said.append(
            f"  kinds of events {kinds[:8]}: all count alike; `type: {roles.of['type']}` and `weights` "
            "say what each is worth"
        )
    return section


def _times(table: Table, roles: Roles, said: list[str]) -> dict[str, Any]:
    column = roles.of.get("timestamp")
    if column is None:
        said.append(
            "  no times: rows of a user stand in their order, or set prepare.split: {kind: random}"
        )
        return {"timestamp": None}
    section: dict[str, Any] = {"timestamp": column}
    cells = table.column(column)
    numbers = pl.Series(cells).cast(pl.Float64, strict=False)
    if numbers.null_count() == 0:
        if (numbers.median() or 0) < sniff.FIRST_EPOCH:  # type: ignore[operator]
            section["unit"] = "order"
            said.append("  times are numbers without a unit, larger the later (unit: order)")
        return section
    if sniff.is_iso(cells):
        return section
    formats = sniff.time_formats(cells)
    if not formats:
        raise ValueError(
            f"{table.path}: the times in '{column}' are of no form that is known, such as {cells[0]!r}; "
            "name another column by --timestamp, or write the recipe by hand with `time_format`"
        )
    section["time_format"] = formats[0] if len(formats) == 1 else formats  # see `_settled`
    return section


def _left_out(table: Table, roles: Roles, said: list[str]) -> list[list[Any]]:
    """Conditions for the rows that are choices: no returns, cancelled bills, or times before 1970."""
    where: list[list[Any]] = []
    for name in table.columns:
        cells = table.column(name)
        bare = name.lower().replace(" ", "").replace("_", "")
        if bare in ("quantity", "qty") and any(cell.startswith("-") for cell in cells):
            where.append([name, ">", 0])
        if bare.startswith("invoice") and any(c.startswith("C") and c[1:].isdigit() for c in cells):
            where.append([name, "not starts with", "C"])
    if (time := roles.of.get("timestamp")) is not None:
        numbers = pl.Series(table.column(time)).cast(pl.Float64, strict=False)
        if numbers.null_count() == 0 and (numbers < 0).any():
            where.append([time, ">", 0])
    for role in ("user", "item", "timestamp"):
        column = roles.of.get(role)
        if column is not None and len(table.column(column)) < len(table.rows):
            where.append([column, "!=", None])
    if where:
        said.append(f"  left out: rows but those where {where} (returns, cancelled, empty cells)")
    return where


def _items_section(table: Table, roles: Roles) -> dict[str, Any]:
    section = _file_section(table)
    if "item" not in roles.of:
        raise ValueError(
            f"{table.path}: no column holds the item ids of the interactions; its columns are "
            f"{list(table.columns)}"
        )
    section["item"] = roles.of["item"]
    title = roles.of.get("title")
    section["title"] = None if title is None else title
    if "description" in roles.of:
        section["description"] = [roles.of["description"]]
    if "image" in roles.of:
        section["image"] = roles.of["image"]
    ids = table.column(roles.of["item"])
    if sniff.is_whole_as_float(ids):
        section["whole_ids"] = True
    if len(set(ids)) < len(ids):
        section["repeats"] = "first"
    return section


def _one_table(
    table: Table, roles: Roles, given: dict[str, str], source: dict[str, Any], said: list[str]
) -> bool:
    """Items from the interactions; says whether the table has their titles too."""
    found = sniff.roles_of_items(table, [])
    _take(found, given, table, ("title",))
    title = found.of.get("title")
    named = "title" in given
    if title is None or not (named or (table.header and title not in roles.of.values())):
        said.append("  no file of items: they are made from the interactions")
        return False
    said.append(f"  no file of items: they are made from the interactions, titles from '{title}'")
    source["items"] = {"title": title}
    return True


def _ids_of(table: Table, roles: Roles) -> list[str]:
    cells = table.column(roles.of["item"])
    if sniff.lists(cells) is None:
        return cells
    ids = {part for cell in cells for part in re.split(r"[\s,|\[\]\"]+", cell) if part}
    return [name.removesuffix("-1").removesuffix("-0") for name in ids]


# --- the recipe ------------------------------------------------------------------------------------


def _settled(source: dict[str, Any], said: list[str], progress: Progress) -> RawData:
    """Reads the files by the first form of dates that reads all of them, of those that may."""
    log = source["interactions"]
    forms = log.get("time_format")
    several = forms if isinstance(forms, list) else [forms]
    read: dict[str, RawData] = {}
    for form in several:
        if form is not None:
            log["time_format"] = form
        settings = FilesSettings.from_options(**{k: v for k, v in source.items() if k != "kind"})
        with tempfile.TemporaryDirectory() as folder:
            try:
                read[form] = data.read_source(settings, folder=folder, progress=progress)
            except ValueError:
                if form == several[-1] and not read:
                    log |= {} if forms is None else {"time_format": forms}
                    raise
    best = next(iter(read))
    if best is not None:
        log["time_format"] = best
        said.append(f"  times are read by {best}")
    if len(read) > 1:
        said.append(f"  ? these dates could also be {list(read)[1:]}; check time_format")
    return read[best]


def _without_quotes(source: dict[str, Any], said: list[str], progress: Progress) -> RawData:
    """Reads the files again with quotes as ordinary characters, in one file of text or in both.

    Raises:
        ValueError: as before, if that does not help.
    """
    texts = [
        source[name]
        for name in ("interactions", "items")
        if "path" in source.get(name, {}) and "quoting" not in source[name]
    ]
    whole = {id(section): dict(section) for section in texts}
    for chosen in (*([section] for section in texts), texts):
        for section in chosen:
            section["quoting"] = "none"
        try:
            raw = _settled(source, said, progress)
        except ValueError:
            for section in chosen:
                section.clear()
                section.update(whole[id(section)])
            continue
        names = " and ".join(str(section["path"]) for section in chosen)
        said.append(f"  ? quotes in {names} are ordinary characters (quoting: none)")
        return raw
    return _settled(source, said, progress)


def _counted(
    source: dict[str, Any], path: Path, said: list[str], progress: Progress
) -> tuple[dict[str, Any], dict[str, int]]:
    """Reads the files as the recipe will; returns the section `prepare`, and what sizes depend on."""
    prepare: dict[str, Any] = {"source": source}
    if path.is_file() and path.stat().st_size > _CHECKED:
        said.append(f"  {path} is large and was not read whole: sizes are for a large catalogue")
        if isinstance(forms := source["interactions"].get("time_format"), list):
            source["interactions"]["time_format"] = forms[0]
            said.append(f"  ? dates are read by {forms[0]}; they could also be {forms[1:]}")
        return prepare, {"items": 100_000, "interactions": 10_000_000}
    try:
        raw = _settled(source, said, progress)
    except ValueError:
        raw = _without_quotes(source, said, progress)
    log = raw.interactions.select(user="user_id", item="item_id").unique(maintain_order=True)
    core, users, items, interactions = sizes.core(log)
    said.append(
        f"read: {log['user'].n_unique():,} users, {log['item'].n_unique():,} items, {len(log):,} "
        f"interactions; where each user and item has at least {core or 1}, {users:,} users, {items:,} "
        f"items and {interactions:,} interactions are left"
    )
    return prepare | {"core": core}, {"items": items, "interactions": interactions}


def _write(file: Path, recipe: dict[str, Any], files: Sequence[str], quick: bool) -> None:
    first = f"# From {' and '.join(files)}, by `genrec init`."
    second = (
        "# The quick variant: a small model and few epochs, to see it work."
        if quick
        else "# Sizes suit the data; `genrec docs` explains every setting."
    )
    file.write_text("\n".join([first, second, *lines(recipe)]) + "\n", encoding="utf-8")
