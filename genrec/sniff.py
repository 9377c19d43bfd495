"""What a file of somebody else's holds: its form, its columns, and which of them we need.

Looks at the first rows only. Every guess is a `note` that a person can check; nothing is read by it
later but through the settings that `genrec init` writes.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import polars as pl

from genrec.data.text import DamagedFile, open_bytes
from genrec.data.timestamps import date_formats
from genrec.extras import require
from genrec.resources import matching

Form = Literal["csv", "jsonl", "parquet", "xlsx"]
Cells = Sequence[str]
_UNITS = (1, 1e3, 1e6, 1e9)  # of epochs, to a second
_YEARS = (8e8, 2.2e9)  # 1995 to 2039, in seconds: where times without a name are
FIRST_EPOCH = 1e8  # smaller numbers do not tell their unit, as in `data.timestamps`
_HEAD = 2**20  # bytes that are looked at
_ROWS = 500
_WIDEST = 1000  # columns of a table
_SEPARATORS = ("::", "\t", "|", ";", ",")
# By letters and digits alone: "User-ID" and "user_id" are one name. Best names first.
_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("userid", "user", "uid", "customerid", "customer", "reviewerid", "reviewer", "visitorid"),
        *("visitor", "memberid", "member", "accountid", "clientid", "personid", "profileid"),
        *("authorid", "sessionid", "session", "u", "kundennummer", "kundennr"),
        *("kunde", "kundenid", "nutzer", "nutzerid", "client", "usuario", "utilisateur"),
    ),
    "item": (
        *(
            "itemid",
            "item",
            "iid",
            "parentasin",
            "asin",
            "movieid",
            "stockcode",
            "sku",
            "productid",
        ),
        *("product", "artistid", "isbn", "bookid", "businessid", "trackid", "songid", "newsid"),
        *("articleid", "gameid", "appid", "animeid", "recipeid", "videoid", "contentid"),
        *("items", "itemids", "i", "artikelnummer", "artikelnr", "artikel", "artikelid", "produkt"),
        *("produktnummer", "articleno", "producto", "articulo", "produit", "reference"),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "unixreviewtime", "datetime", "date", "eventtime", "at"),
        *("createdat", "when", "invoicedate", "orderdate", "purchasedate", "reviewtime"),
        *("t", "dateadded", "dateupdated", "datum", "bestelldatum", "kaufdatum", "zeit", "fecha"),
    ),
    "rating": ("rating", "ratings", "stars", "overall", "bookrating", "score"),
    "type": ("eventtype", "event", "behavior", "behaviour", "action", "type"),
    "title": (
        *("title", "name", "itemname", "productname", "producttitle", "movietitle", "booktitle"),
        *("itemtitle", "headline", "bezeichnung", "artikelbezeichnung", "titel", "titre", "titulo"),
        "description",
    ),
    "description": (
        *("description", "overview", "summary", "abstract", "plot", "text", "longdescription"),
        *("shortdescription",),
    ),
    "image": (
        *("image", "imageurl", "imurl", "img", "imgurl", "photo", "poster", "posterurl", "picture"),
        *("thumbnail", "imageurll", "imageurlm", "imageurls"),
    ),
}
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?$")
_NUMBER = re.compile(r"-?\d+(\.\d+)?$")


@dataclass(frozen=True)
class Table:
    """What a file looks like.

    Attributes:
        path: the file, or a folder or glob of parts.
        form: how it is written.
        columns: their names; made up where the file has no header.
        rows: the first ones, as text; "" where a cell is empty.
        separator, encoding: of text in columns.
        header: whether its first row names the columns.
        quoted: whether quotes enclose cells.
        escaped: whether a backslash stands before a quote within a cell.
        sheet: of an Excel file with several; "*" for all.
        notes: what was guessed.
    """

    path: Path
    form: Form
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    separator: str | None = None
    encoding: str = "utf-8"
    header: bool = True
    quoted: bool = True
    escaped: bool = False
    notes: tuple[str, ...] = ()
    sheet: str | None = None

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column that are not empty."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows if row[place]]


@dataclass
class Roles:
    """Which column is what: our names to the file's.

    Attributes:
        of: by `user`, `item`, `timestamp`, `rating`, `type`, `title`, `description`, `image`.
        doubts: what else it could have been, in words.
        named: whether the user and the item were found by the names of their columns.
    """

    of: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    named: bool = True


def look(path: str | Path) -> Table:
    """Returns what a file looks like.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is empty, or of no known form.
    """
    path = Path(path)
    part = _first_part(path)
    try:
        return _look(path, part)
    except (DamagedFile, EOFError, zlib.error, OSError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{part}: cannot be read, it may be damaged or cut short ({reason}); copy it again"
        ) from error


def _look(path: Path, part: Path) -> Table:
    with open_bytes(part) as stream:
        head = stream.read(_HEAD)
    if not head.strip():
        raise ValueError(f"{part}: the file is empty; expected a table with a row per line")
    if head.startswith(b"PAR1"):
        return _of_frame(path, "parquet", pl.read_parquet(part, n_rows=_ROWS))
    if head.startswith(b"PK\x03\x04"):
        return _of_sheets(path, part)
    encoding = _encoding(part, head)
    text = head.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors="ignore")
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if len(head) == _HEAD and len(lines) > 1:
        lines.pop()  # cut off
    lines = lines[:_ROWS]
    notes = () if encoding == "utf-8" else (f"not UTF-8, read as {encoding}",)
    if lines[0].lstrip().startswith("{"):
        return _of_json(path, lines)
    if re.match(r"\s*\[\s*(\{|$)", lines[0]):
        raise ValueError(
            f"{path}: one JSON array; expected an object per line. Write it so by "
            f"`jq -c '.[]' {path.name} > {path.stem}.jsonl`, or with pandas by "
            "to_json(..., orient='records', lines=True)"
        )
    return _of_text(path, lines, encoding, notes)


def _first_part(path: Path) -> Path:
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] not in "._")
        if not parts:
            raise FileNotFoundError(f"{path}: the folder has no files")
        return parts[0]
    if parts := matching(path):
        return parts[0]
    raise FileNotFoundError(f"{path}: no such file or folder, nor files that it matches")


def _encoding(part: Path, head: bytes) -> str:
    """The encoding that reads all of a file: its mark's, UTF-8, or a western one of one byte."""
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if head.startswith(mark):
            return name
    for name in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(name)()
        try:
            with open_bytes(part) as stream:
                while chunk := stream.read(2**22):
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return name
    return "latin-1"


def _of_frame(path: Path, form: Form, frame: pl.DataFrame) -> Table:
    rows = tuple(tuple(_text(cell) for cell in row) for row in frame.iter_rows())
    return Table(path, form, tuple(frame.columns), rows)


def _of_sheets(path: Path, part: Path) -> Table:
    require("excel", str(path))
    import fastexcel

    try:
        sheets = pl.read_excel(part, sheet_id=0, infer_schema_length=0, raise_if_empty=False)
    except fastexcel.FastExcelError as error:
        raise OSError(str(error)) from error
    sheets = {name: frame for name, frame in sheets.items() if len(frame)}
    if not sheets:
        raise ValueError(f"{path}: no sheet has rows; expected a table with its columns on top")
    name, first = next(iter(sheets.items()))
    table = _of_frame(path, "xlsx", first.head(_ROWS))
    if len(sheets) == 1:
        return table
    if all(frame.columns == first.columns for frame in sheets.values()):
        return replace(table, sheet="*", notes=(f"its sheets are read as one: {list(sheets)}",))
    others = list(sheets)[1:]
    return replace(table, sheet=name, notes=(f"sheet '{name}' is read; the others are {others}",))


def _of_json(path: Path, lines: Sequence[str]) -> Table:
    import ast

    read = ast.literal_eval if lines[0].lstrip().startswith("{'") else json.loads
    try:
        objects: list[dict[str, Any]] = [read(line) for line in lines]
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"{path}: begins with {{ but is not an object per line ({error}); write JSON lines, "
            "such as by `jq -c '.[]'`"
        ) from error
    columns = tuple(dict.fromkeys(name for each in objects for name in each))
    rows = tuple(tuple(_text(each.get(name)) for name in columns) for each in objects)
    return Table(path, "jsonl", columns, rows)


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    return json.dumps(cell, default=str) if isinstance(cell, list | dict) else str(cell)


# --- text in columns ---------------------------------------------------------------------------


def _of_text(path: Path, lines: Sequence[str], encoding: str, notes: Sequence[str]) -> Table:
    notes = list(notes)
    escaped = any('\\"' in line for line in lines)
    best: tuple[float, int, str, bool, list[Cells]] | None = None
    for separator in _SEPARATORS:
        for quoted in (True, False):
            rows = _split(lines, separator, quoted=quoted, escaped=escaped)
            if not rows:
                continue
            width, often = Counter(map(len, rows)).most_common(1)[0]
            # Of separators that fit alike the first: a comma stands within cells more often.
            if 1 < width <= _WIDEST and (best is None or often / len(rows) > best[0]):
                best = (often / len(rows), width, separator, quoted, rows)
    if best is None:
        raise ValueError(
            f"{path}: no separator splits its lines into the same number of cells; the first is "
            f"{lines[0][:120]!r}. Expected a comma, tab, ';', '|' or '::' between cells. Where a line "
            "is a user and their items, put a tab after the user: the items may stay in one cell"
        )
    share, width, separator, quoted, rows = best
    if share < 1:
        odd = sum(len(row) != width for row in rows)
        notes.append(f"{odd} of the first {len(rows)} rows do not have {width} cells")
    whole = [tuple(cell.strip() for cell in row) for row in rows if len(row) == width]
    header = _has_header(whole)
    if header and len(whole) == 1:
        raise ValueError(f"{path}: a header and no rows; expected a row per interaction or item")
    if header:
        names, whole = whole[0], whole[1:]
        names = tuple(name or f"column_{place}" for place, name in enumerate(names, 1))
    else:
        names = tuple(f"column_{place}" for place in range(1, width + 1))
        notes.append("no header: the first row is data")
    used_quotes = quoted and any('"' in line for line in lines)
    return Table(
        *(path, "csv", names, tuple(whole), separator, encoding, header),
        *(quoted, escaped and used_quotes, tuple(notes)),
    )


def _split(lines: Sequence[str], separator: str, *, quoted: bool, escaped: bool) -> list[Cells]:
    """The cells of each row; none where quotes are not closed at the end of their cells."""
    if len(separator) > 1 or not quoted:
        return [line.split(separator) for line in lines]
    escape = "\\" if escaped else None
    rows: list[Cells] = []
    try:
        rows.extend(
            csv.reader(
                lines,
                delimiter=separator,
                escapechar=escape,
                doublequote=not escaped,
                strict=True,
            )
        )
    except csv.Error as error:
        if "end of data" not in str(error) or len(rows) < len(lines) / 2:
            return []  # else a cell of several lines, cut at the last of the rows that we look at
    return rows


def _has_header(rows: Sequence[Cells]) -> bool:
    first, others = rows[0], rows[1:]
    if any(_NUMBER.match(cell) or _ISO.match(cell) for cell in first if cell):
        return False
    if len(set(first)) < len(first):
        return False
    known = {name for names in _NAMES.values() for name in names}
    if any(_bare(cell) in known for cell in first):
        return True
    # Words above numbers, or words that come nowhere below.
    columns = list(zip(*others, strict=True)) if others else []
    return any(
        all(_NUMBER.match(cell) for cell in column if cell) and any(column) for column in columns
    ) and all(re.match(r"^[^\W\d][\w .\-/]*$", cell) for cell in first if cell)


# --- which column is what ------------------------------------------------------------------------


def roles_of_log(table: Table) -> Roles:
    """Returns which columns of a log are what; what is not found is absent."""
    roles = _by_name(table, ("user", "item", "timestamp", "rating", "type"))
    if not {"user", "item"} <= roles.of.keys():
        roles.named = False
        _by_content(table, roles)
    return roles


def roles_of_items(table: Table, item_ids: Sequence[str]) -> Roles:
    """Returns which columns of a catalogue are what.

    Args:
        table: the catalogue.
        item_ids: some of those that the log names.
    """
    roles = _by_name(table, ("item", "title", "description", "image"))
    wanted = set(item_ids)
    overlap = {
        name: len(wanted & set(table.column(name))) for name in table.columns if table.column(name)
    }
    best = max(overlap, key=lambda name: overlap[name], default=None)
    if best is not None and overlap[best] > overlap.get(roles.of.get("item", ""), 0):
        roles.of["item"] = best
    if best is not None and overlap[best]:  # which of several ids it is, is settled
        roles.doubts = [doubt for doubt in roles.doubts if not doubt.startswith("item:")]
    if "title" not in roles.of and (texts := _texts(table, set(roles.of.values()))):
        roles.of["title"] = texts[0]
        roles.doubts.append(f"title: '{texts[0]}', the first column of words")
    if roles.of.get("description") == roles.of.get("title"):
        roles.of.pop("description", None)
    return roles


def named(table: Table, roles: Roles) -> tuple[Table, Roles]:
    """Returns both with the columns of a file without a header called by what they are."""
    if table.header:
        return table, roles
    names = {column: role for role, column in roles.of.items()}
    columns = tuple(names.get(name, name) for name in table.columns)
    return replace(table, columns=columns), replace(roles, of={role: role for role in roles.of})


def _by_name(table: Table, wanted: Sequence[str]) -> Roles:
    roles, bare = Roles(), {name: _bare(name) for name in table.columns}
    for role in wanted:
        fitting = sorted(
            (name for name in table.columns if bare[name] in _NAMES[role]),
            key=lambda name: _NAMES[role].index(bare[name]),
        )
        fitting = [name for name in fitting if name not in roles.of.values() and table.column(name)]
        if role == "rating":
            fitting = [n for n in fitting if all(map(_NUMBER.match, table.column(n)))]
        if role == "type":
            fitting = [n for n in fitting if len(set(table.column(n))) <= 20]
        if fitting:
            roles.of[role] = fitting[0]
        if len(fitting) > 1:
            roles.doubts.append(f"{role}: '{fitting[0]}'; it could also be {fitting[1:]}")
    return roles


def _by_content(table: Table, roles: Roles) -> None:
    """Without names: the time, lists of items, a rating by its few values, then user and item."""
    left = [name for name in table.columns if name not in roles.of.values() and table.column(name)]
    for name in reversed(left):
        if "timestamp" not in roles.of and _is_time(table.column(name)):
            roles.of["timestamp"] = name
            left.remove(name)
    several = [name for name in left if lists(table.column(name))]
    several.sort(key=lambda name: ending(table.column(name)) is None)
    for role, name in zip(("item", "history"), several, strict=False):
        roles.of.setdefault(role, name)
    ids = [name for name in left if name not in several]
    for name in ids:
        if "type" not in roles.of and len(ids) > 2 and _is_type(table.column(name)):
            roles.of["type"] = name
    ids = [name for name in ids if name != roles.of.get("type")]
    missing = {"user", "item"} - roles.of.keys()
    for name in reversed(ids[len(missing) :]):  # ids stand before what is said of them
        if "rating" not in roles.of and _is_rating(table, name):
            roles.of["rating"] = name
            ids.remove(name)
    needed = [role for role in ("user", "item") if role not in roles.of]
    # A column in which nothing comes again numbers the rows.
    ids = [n for n in ids if len(set(table.column(n))) < len(table.column(n))] or ids
    roles.of |= dict(zip(needed, ids, strict=False))
    places = {role: table.columns.index(name) + 1 for role, name in roles.of.items()}
    named = ", ".join(f"{role} = column {place}" for role, place in sorted(places.items()))
    roles.doubts.append(f"columns by their content: {named}")


def _is_time(cells: Cells) -> bool:
    if all(_NUMBER.match(cell) for cell in cells):
        middle = median(map(float, cells))
        return len(set(cells)) > 1 and any(
            _YEARS[0] <= middle / unit < _YEARS[1] for unit in _UNITS
        )
    return is_iso(cells) or bool(time_formats(cells))


def _is_rating(table: Table, name: str) -> bool:
    cells = table.column(name)
    if not all(_NUMBER.match(cell) for cell in cells):
        return False
    values = set(map(float, cells))
    return 3 <= len(values) <= 21 and 0 <= min(values) <= 1 and max(values) <= 100


def _is_type(cells: Cells) -> bool:
    """Whether they say what kind of interaction it was: few words that come again and again."""
    kinds = set(cells)
    return 1 < len(kinds) <= 10 < len(cells) and all(re.match(r"[^\W\d]\w*$", k) for k in kinds)


def _texts(table: Table, taken: set[str]) -> list[str]:
    """Columns of words: letters, and hardly a cell like another."""
    return [
        name
        for name in table.columns
        if name not in taken
        and (cells := table.column(name))
        and len(set(cells)) > len(cells) / 2
        and sum(bool(re.search(r"[^\W\d]{3}", cell)) for cell in cells) > len(cells) / 2
        and not any("://" in cell for cell in cells[:20])
        and not re.search(r"date|time|datum|url", _bare(name))
    ]


def time_formats(cells: Cells) -> list[str]:
    """Returns the `strptime` formats, of the usual ones, that read all of some times."""
    return date_formats(pl.Series(cells, dtype=pl.String))


def is_iso(cells: Cells) -> bool:
    """Whether all are dates or times of ISO 8601."""
    return all(_ISO.match(cell) for cell in cells)


def is_whole_as_float(cells: Cells) -> bool:
    """Whether all are whole numbers that some program wrote as floats: `17850.0`."""
    return bool(cells) and all(re.match(r"-?\d+\.0$", cell) for cell in cells)


def lists(cells: Cells) -> str | None:
    """Returns what stands between the ids of a cell, where most cells hold several of them.

    " ", "," or "|"; `list` for a list of JSON or parquet.
    """
    if cells and all(cell.startswith("[") and cell.endswith("]") for cell in cells):
        return "list"
    if all(re.match(r"-?[\d.]*\d,\d{1,3}$", cell) for cell in cells):
        return None  # decimals with a comma
    for separator in (" ", ",", "|"):
        parts = [[part.strip() for part in cell.split(separator)] for cell in cells]
        if sum(len(part) > 1 for part in parts) > len(parts) / 2 and all(
            re.match(r"^[\w:.\-]*\d[\w:.\-]*$", p) for part in parts for p in part if p
        ):
            return separator
    return None


def ending(cells: Cells) -> str | None:
    """Returns the ending of the items that count, where all say whether they were clicked: `-1`."""
    parts = [part for cell in cells for part in cell.split()]
    return "-1" if parts and all(part.endswith(("-0", "-1")) for part in parts) else None


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def sample(table: Table, count: int = 2) -> list[Mapping[str, str]]:
    """Returns the first rows by column, cells cut to what a line can show."""
    short = (tuple(c if len(c) <= 40 else f"{c[:39]}…" for c in row) for row in table.rows[:count])
    return [dict(zip(table.columns, row, strict=True)) for row in short]
