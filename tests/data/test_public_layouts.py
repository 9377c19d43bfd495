"""Own data at the first try: small files in the layouts of public data sets, rows invented.

Each is read by a section of a recipe, and every history is what pandas computes.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest
import yaml

from genrec import registry
from genrec.data import RandomOut, RawData, prepare, read_source
from genrec.init import init
from genrec.recipe import load

USERS, STEPS = 6, 5
Rows = list[tuple[int, int, int]]  # user, item, seconds since 2018
START = datetime(2018, 1, 1)


def rows() -> Rows:
    """Six users with five interactions each, in no order, with gaps between the numbers of items."""
    rng = np.random.default_rng(3)
    drawn = [
        (10 * (user + 1), int(rng.integers(1, 9)) * 3, int(rng.integers(10**7)) * 60)
        for user in range(USERS)
        for _ in range(STEPS)
    ]
    return [drawn[k] for k in rng.permutation(len(drawn))]


ROWS = rows()
ITEMS = sorted({item for _, item, _ in ROWS})
EPOCH = 1_514_764_800  # of 2018


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def us_date(seconds: int) -> str:
    time = at(seconds)
    return f"{time.month}/{time.day}/{time.year} {time.hour}:{time.minute:02}"


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def json_lines(path: Path, objects: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(each) + "\n" for each in objects)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def excel(path: Path, sheets: dict[str, list[list[Any]]]) -> None:
    """Writes a workbook as Excel does, as far as values and dates go."""
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    numbers = range(1, len(sheets) + 1)

    def cell(value: Any) -> str:
        if value is None:
            return "<c/>"
        if isinstance(value, datetime):
            days = (value - datetime(1899, 12, 30)).total_seconds() / 86_400
            return f'<c s="1"><v>{days!r}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value!r}</v></c>"
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'

    def links(targets: list[tuple[str, str, str]]) -> str:
        inner = "".join(
            f'<Relationship Id="{name}" Type="{office}/{kind}" Target="{target}"/>'
            for name, kind, target in targets
        )
        return f'<Relationships xmlns="{package}/relationships">{inner}</Relationships>'

    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="s{n}"/>'
        for n, name in zip(numbers, sheets, strict=True)
    )
    sheet_links = [(f"s{n}", "worksheet", f"worksheets/s{n}.xml") for n in numbers]
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/></Types>',
        "_rels/.rels": links([("r", "officeDocument", "xl/workbook.xml")]),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets>'
        "</workbook>",
        "xl/_rels/workbook.xml.rels": links([*sheet_links, ("st", "styles", "styles.xml")]),
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/>'
        '<xf numFmtId="22" applyNumberFormat="1"/></cellXfs></styleSheet>',
    }
    for n, table in zip(numbers, sheets.values(), strict=True):
        body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in table)
        parts[f"xl/worksheets/s{n}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>'
        )
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)


Histories = dict[str, list[str]]


def histories(table: pd.DataFrame, user: str, item: str, time: str | None) -> Histories:
    """Each user's items in order of time, ties in the order of rows."""
    ordered = table if time is None else table.sort_values(time, kind="stable")
    groups = ordered.astype({user: str, item: str}).groupby(user, sort=False)[item]
    return {str(name): list(items) for name, items in groups}


@dataclass(frozen=True)
class Layout:
    """A public data set's files, the recipe that reads them, and the same in pandas."""

    write: Callable[[Path], None]
    recipe: str
    expected: Callable[[Path], Histories]
    dropped: dict[str, int]
    titles: dict[str, str]


def movielens_100k(folder: Path) -> None:
    lines = [f"{u}\t{i}\t{1 + i % 5}\t{EPOCH + t}\n" for u, i, t in ROWS]
    put(folder / "ml-100k/u.data", "".join(lines))
    lines = [f"{i}|Caf\xe9 {i} (1995)|01-Jan-1995||http://x/{i}|0|1\n" for i in ITEMS]
    put(folder / "ml-100k/u.item", "".join(lines), "latin-1")


def movielens_100k_pandas(folder: Path) -> Histories:
    names = ["user", "item", "rating", "time"]
    table = pd.read_csv(folder / "ml-100k/u.data", sep="\t", names=names)
    return histories(table, "user", "item", "time")


def movielens_1m(folder: Path) -> None:
    lines = [f"{u}::{i}::{1 + i % 5}::{EPOCH + t}\n" for u, i, t in ROWS]
    put(folder / "ratings.dat", "".join(lines))
    put(
        folder / "movies.dat",
        "".join(f'{i}::M\xe4r {i}: a"b::Drama|War\n' for i in ITEMS),
        "latin-1",
    )


def movielens_1m_pandas(folder: Path) -> Histories:
    names = ["u", "i", "r", "t"]
    table = pd.read_csv(folder / "ratings.dat", sep="::", names=names, engine="python")
    return histories(table[table["r"] >= 3], "u", "i", "t")


def lastfm(folder: Path) -> None:
    lines = [f"{u}\t{i}\t{n}\t{(EPOCH + t) * 1000}\n" for n, (u, i, t) in enumerate(ROWS)]
    lines.append("10\t3\t1\t-428720400000\n")  # as published: some times are before 1970
    put(
        folder / "user_taggedartists-timestamps.dat",
        "userID\tartistID\ttagID\ttimestamp\n" + "".join(lines),
    )
    lines = [f'{i}\t"Weird {i}\thttp://last.fm/{i}\thttp://x/{i}.jpg\n' for i in ITEMS]
    put(folder / "artists.dat", "id\tname\turl\tpictureURL\n" + "".join(lines))


def lastfm_pandas(folder: Path) -> Histories:
    table = pd.read_csv(folder / "user_taggedartists-timestamps.dat", sep="\t")
    return histories(table[table["timestamp"] > 0], "userID", "artistID", "timestamp")


def lastfm_counts(folder: Path) -> None:
    lines = [f"{u}\t{i}\t{100 + t % 900}\n" for u, i, t in ROWS]
    put(folder / "user_artists.dat", "userID\tartistID\tweight\n" + "".join(lines))


def lastfm_counts_pandas(folder: Path) -> Histories:
    table = pd.read_csv(folder / "user_artists.dat", sep="\t")
    return histories(table[table["weight"] >= 200], "userID", "artistID", None)


def book_crossing(folder: Path) -> None:
    lines = [f'"{u}";"0{i:09}";"{i % 11}"\r\n' for u, i, _ in ROWS]
    put(
        folder / "BX-Book-Ratings.csv",
        '"User-ID";"ISBN";"Book-Rating"\r\n' + "".join(lines),
        "latin-1",
    )
    header = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Image-URL-L"\r\n'
    lines = [
        f'"0{i:09}";"Das \\"gro\xdfe\\"; Buch {i}";"A; B";"1999";"http://x/{i}.jpg"\r\n'
        for i in ITEMS
    ]
    put(folder / "BX-Books.csv", header + "".join(lines), "latin-1")


def book_crossing_pandas(folder: Path) -> Histories:
    table = pd.read_csv(folder / "BX-Book-Ratings.csv", sep=";", encoding="latin-1", dtype=str)
    return histories(table, "User-ID", "ISBN", None)


RETAIL = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice"]
RETAIL += ["CustomerID", "Country"]


def retail_rows() -> list[list[Any]]:
    """One cancellation, one return and one sale to nobody among the rows."""
    table: list[list[Any]] = []
    for n, (user, item, seconds) in enumerate(ROWS):
        code = f"{85000 + item}A" if item % 2 else 85000 + item
        table.append(
            [
                536365 + n,
                code,
                f"MUG, No. {item}",
                6,
                at(seconds),
                2.55,
                17000 + user,
                "United Kingdom",
            ]
        )
    table[3][0] = f"C{table[3][0]}"
    table[7][3] = -6
    table[9][6] = None
    table[11][2] = None  # a row without a description; another row of this item has one
    return table


def online_retail(folder: Path) -> None:
    cells = [row[:] for row in retail_rows()]
    half = len(cells) // 2
    sheets = {"Year 2009-2010": [RETAIL, *cells[:half]], "Year 2010-2011": [RETAIL, *cells[half:]]}
    excel(folder / "Online Retail II.xlsx", sheets)


def retail_pandas(_: Path) -> Histories:
    table = pd.DataFrame(retail_rows(), columns=RETAIL)
    sold = (table["Quantity"] > 0) & ~table["InvoiceNo"].astype(str).str.startswith("C")
    table = table[sold & table["CustomerID"].notna()]
    table = table.assign(CustomerID=table["CustomerID"].astype(int))
    return histories(table, "CustomerID", "StockCode", "InvoiceDate")


def online_retail_csv(folder: Path) -> None:
    table = pd.DataFrame(retail_rows(), columns=RETAIL)  # CustomerID is float, for one is empty
    table["InvoiceDate"] = [us_date(seconds) for _, _, seconds in ROWS]
    table.to_csv(folder / "data.csv", index=False, encoding="cp1252")


def mind(folder: Path) -> None:
    lines = []
    for n, (user, item, seconds) in enumerate(ROWS):
        time = at(seconds)
        clock = f"{time.month}/{time.day}/{time.year} {time.hour % 12 or 12}:{time:%M:%S %p}"
        shown = f"N{item + 1}-0 N{item}-1 N{item + 2}-0"
        before = "" if user == 10 else f"N{ITEMS[0]} N{ITEMS[1]}"
        lines.append(f"{n + 1}\tU{user}\t{clock}\t{before}\t{shown}\n")
    put(folder / "behaviors.tsv", "".join(lines))
    lines = [f'N{i}\tnews\tus\t"Great {i}\tAbout {i}\thttps://x/{i}\t[]\t[]\n' for i in ITEMS]
    put(folder / "news.tsv", "".join(lines))


def mind_pandas(folder: Path) -> Histories:
    names = ["impression", "user", "time", "history", "shown"]
    table = pd.read_csv(folder / "behaviors.tsv", sep="\t", names=names)
    table["time"] = pd.to_datetime(table["time"], format="%m/%d/%Y %I:%M:%S %p")
    table["clicked"] = [
        next(n.removesuffix("-1") for n in shown.split() if n.endswith("-1"))
        for shown in table["shown"]
    ]
    clicks = histories(table, "user", "clicked", "time")
    before = table.dropna(subset=["history"]).set_index("user")["history"].to_dict()
    return {user: [*before.get(user, "").split(), *items] for user, items in clicks.items()}


def yelp(folder: Path) -> None:
    reviews = [
        {
            "review_id": f"r{n}",
            "user_id": f"u_{u}",
            "business_id": f"b-{i}",
            "stars": float(1 + i % 5),
            "text": 'Caf\xe9, "nice"\nback',
            "date": str(at(t)),
        }
        for n, (u, i, t) in enumerate(ROWS)
    ]
    json_lines(folder / "yelp_academic_dataset_review.json", reviews)
    businesses = [
        {
            "business_id": f"b-{i}",
            "name": f"Bar {i}",
            "city": "Oslo",
            "attributes": None,
            "stars": 4.5,
        }
        for i in ITEMS
    ]
    json_lines(folder / "yelp_academic_dataset_business.json", businesses)


def yelp_pandas(folder: Path) -> Histories:
    table = pd.read_json(folder / "yelp_academic_dataset_review.json", lines=True)
    return histories(table, "user_id", "business_id", "date")


def amazon(folder: Path) -> None:
    reviews = [
        {
            "reviewerID": f"A{u}",
            "asin": f"00{i}",
            "overall": 5.0,
            "reviewText": "good",
            "unixReviewTime": EPOCH + t,
        }
        for u, i, t in ROWS
    ]
    json_lines(folder / "reviews_Books_5.json.gz", reviews)
    json_lines(
        folder / "meta_Books.json.gz",
        [{"asin": f"00{i}", "title": f"Book {i}", "price": 3.5} for i in ITEMS],
    )


def amazon_pandas(folder: Path) -> Histories:
    table = pd.read_json(folder / "reviews_Books_5.json.gz", lines=True, dtype={"asin": str})
    return histories(table, "reviewerID", "asin", "unixReviewTime")


def sessions(folder: Path) -> None:
    listed: dict[int, list[int]] = {}
    for user, item, _ in ROWS:
        listed.setdefault(user, []).append(item)
    json_lines(
        folder / "sessions.jsonl", [{"session": u, "items": items} for u, items in listed.items()]
    )


def sessions_pandas(folder: Path) -> Histories:
    table = pd.read_json(folder / "sessions.jsonl", lines=True).explode("items")
    return histories(table, "session", "items", None)


def session_text(folder: Path) -> None:
    sessions(folder)
    table = pd.read_json(folder / "sessions.jsonl", lines=True)
    table["items"] = [", ".join(map(str, items)) for items in table["items"]]
    put(folder / "sessions.txt", "".join(f"{s}|{i}\n" for s, i in table.to_numpy()))


def parquet_parts(folder: Path) -> None:
    table = pd.DataFrame(ROWS, columns=["u", "i", "t"])
    table["t"] = [at(seconds) for seconds in table["t"]]
    (folder / "log.parquet").mkdir()
    for n, part in enumerate(np.array_split(np.arange(len(table)), 11)):
        table.iloc[part].to_parquet(folder / f"log.parquet/part-{n}.snappy.parquet", index=False)
    (folder / "log.parquet/_SUCCESS").touch()


def parquet_pandas(folder: Path) -> Histories:
    return histories(pd.read_parquet(folder / "log.parquet"), "u", "i", "t")


def excel_text(folder: Path) -> None:
    lines = [f"{u}\t{i}\t{at(t):%d.%m.%Y %H:%M}\r" for u, i, t in ROWS]
    text = "Kunde\tArtikel\tDatum\r" + "".join(lines)
    with zipfile.ZipFile(folder / "Export.zip", "w") as archive:
        archive.writestr("Mappe1.txt", text.encode("utf-16"))
        archive.writestr("__MACOSX/._Mappe1.txt", b"\0")


def excel_text_pandas(_: Path) -> Histories:
    return histories(pd.DataFrame(ROWS, columns=["u", "i", "t"]), "u", "i", "t")


LAYOUTS = {
    "MovieLens-100k": Layout(
        movielens_100k,
        """
        interactions: {path: ml-100k/u.data, format: tsv, columns: [user, item, rating, timestamp],
                       user: user, item: item}
        items: {path: ml-100k/u.item, format: csv, separator: "|", quoting: none, encoding: latin-1,
                columns: [id, name, released, video, url, g0, g1], item: id, title: name,
                attributes: [released]}
        """,
        movielens_100k_pandas,
        {},
        {str(i): f"Caf\xe9 {i} (1995)" for i in ITEMS},
    ),
    "MovieLens-1M": Layout(
        movielens_1m,
        """
        interactions: {path: ratings.dat, format: csv, separator: "::", columns: [u, i, stars, t],
                       user: u, item: i, timestamp: t, where: [[stars, ">=", 3]]}
        items: {path: movies.dat, format: csv, separator: "::", columns: [i, name, genres], item: i,
                title: name, encoding: latin-1}
        """,
        movielens_1m_pandas,
        {"left_out_by_where": sum(1 + i % 5 < 3 for _, i, _ in ROWS)},
        {str(i): f'M\xe4r {i}: a"b' for i in ITEMS},
    ),
    "HetRec LastFM, tags": Layout(
        lastfm,
        """
        interactions: {path: user_taggedartists-timestamps.dat, format: tsv, user: userID,
                       item: artistID, where: [[timestamp, ">", 0]]}
        items: {path: artists.dat, format: tsv, quoting: none, item: id, title: name}
        """,
        lastfm_pandas,
        {"left_out_by_where": 1},
        {str(i): f'"Weird {i}' for i in ITEMS},
    ),
    "HetRec LastFM, counts": Layout(
        lastfm_counts,
        """
        interactions: {path: user_artists.dat, format: tsv, user: userID, item: artistID,
                       timestamp: null, rating: weight, min_rating: 200}
        """,
        lastfm_counts_pandas,
        {"below_min_rating": sum(100 + t % 900 < 200 for _, _, t in ROWS)},
        {str(i): str(i) for u, i, t in ROWS if 100 + t % 900 >= 200},
    ),
    "Book-Crossing": Layout(
        book_crossing,
        """
        interactions: {path: BX-Book-Ratings.csv, separator: ";", encoding: latin-1, user: User-ID,
                       item: ISBN, timestamp: null}
        items: {path: BX-Books.csv, separator: ";", quoting: backslash, encoding: latin-1, item: ISBN,
                title: Book-Title, description: [Book-Author]}
        """,
        book_crossing_pandas,
        {},
        {f"0{i:09}": f'Das "gro\xdfe"; Buch {i}' for i in ITEMS},
    ),
    "Online Retail, Excel": Layout(
        online_retail,
        """
        interactions: {path: Online Retail II.xlsx, sheet: "Year *", user: CustomerID, item: StockCode,
                       timestamp: InvoiceDate, where: [[Quantity, ">", 0],
                       [InvoiceNo, not starts with, C], [CustomerID, "!=", null]]}
        items: {title: Description}
        """,
        retail_pandas,
        {"left_out_by_where": 3},
        {f"{85000 + i}{'A' * (i % 2)}": f"MUG, No. {i}" for i in ITEMS},
    ),
    "Online Retail, CSV": Layout(
        online_retail_csv,
        """
        interactions: {path: data.csv, encoding: cp1252, user: CustomerID, item: StockCode,
                       timestamp: InvoiceDate, time_format: "%m/%d/%Y %H:%M", whole_ids: true,
                       where: [[Quantity, ">", 0], [InvoiceNo, not starts with, C],
                       [CustomerID, "!=", null]]}
        items: {path: data.csv, item: StockCode, title: Description, attributes: [UnitPrice],
                numbers: [UnitPrice], repeats: first}
        """,
        retail_pandas,
        {"left_out_by_where": 3},
        {f"{85000 + i}{'A' * (i % 2)}": f"MUG, No. {i}" for i in ITEMS},
    ),
    "MIND": Layout(
        mind,
        """
        interactions: {path: behaviors.tsv, columns: [impression, user, time, history, shown],
                       quoting: none, user: user, item: shown, timestamp: time,
                       time_format: "%m/%d/%Y %I:%M:%S %p", explode: " ", clicked: "-1",
                       history: history}
        items: {path: news.tsv, columns: [id, category, sub, title, abstract, url, e1, e2],
                quoting: none, item: id, description: [abstract], attributes: [category]}
        """,
        mind_pandas,
        {"not_clicked": 2 * len(ROWS)},
        {f"N{i}": f'"Great {i}' for i in ITEMS},
    ),
    "Yelp": Layout(
        yelp,
        """
        interactions: {path: yelp_academic_dataset_review.json, item: business_id, timestamp: date}
        items: {path: yelp_academic_dataset_business.json, item: business_id, title: name}
        """,
        yelp_pandas,
        {},
        {f"b-{i}": f"Bar {i}" for i in ITEMS},
    ),
    "Amazon": Layout(
        amazon,
        """
        interactions: {path: reviews_Books_5.json.gz, user: reviewerID, item: asin,
                       timestamp: unixReviewTime}
        items: {path: meta_Books.json.gz, item: asin}
        """,
        amazon_pandas,
        {},
        {f"00{i}": f"Book {i}" for i in ITEMS},
    ),
    "sessions, JSON": Layout(
        sessions,
        """
        interactions: {path: sessions.jsonl, user: session, item: items, timestamp: null,
                       explode: list}
        """,
        sessions_pandas,
        {},
        {str(i): str(i) for i in ITEMS},
    ),
    "sessions, text": Layout(
        session_text,
        """
        interactions: {path: sessions.txt, format: csv, separator: "|", columns: [s, items], user: s,
                       item: items, timestamp: null, explode: ","}
        """,
        sessions_pandas,
        {},
        {str(i): str(i) for i in ITEMS},
    ),
    "Spark": Layout(
        parquet_parts,
        "interactions: {path: log.parquet, user: u, item: i, timestamp: t}",
        parquet_pandas,
        {},
        {str(i): str(i) for i in ITEMS},
    ),
    "text of Excel, zipped": Layout(
        excel_text,
        """
        interactions: {path: Export.zip, format: tsv, encoding: utf-16, user: Kunde, item: Artikel,
                       timestamp: Datum, time_format: "%d.%m.%Y %H:%M"}
        """,
        excel_text_pandas,
        {},
        {str(i): str(i) for i in ITEMS},
    ),
}


def read(folder: Path, recipe: str, on_bad: Any = "error") -> RawData:
    """Reads what a section of a recipe says; its paths start at the folder."""
    section = yaml.safe_load(recipe)
    for part in section.values():
        if "path" in part:
            part["path"] = f"{folder}/{part['path']}"
    settings = registry.parts("sources")["files"](**section)
    return read_source(settings, folder=folder, on_bad=on_bad)


@pytest.mark.parametrize("name", LAYOUTS)
def test_read_at_the_first_try(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    if "Excel" in name and "zip" not in name:
        pytest.importorskip("fastexcel")
    layout.write(tmp_path)
    raw = read(tmp_path, layout.recipe)
    expected = layout.expected(tmp_path)
    ordered = raw.interactions.sort("timestamp", maintain_order=True)
    own = ordered.group_by("user_id", maintain_order=True).agg("item_id")
    assert dict(own.iter_rows()) == expected
    assert raw.dropped == layout.dropped
    assert dict(raw.items.select("item_id", "title").iter_rows()) == layout.titles
    done = prepare(raw, core=0, repeats="keep", split=RandomOut() if raw.times == "none" else None)
    assert done.stats["users"] == sum(len(items) >= 3 for items in expected.values())
    items, users = done.items["item_id"].to_list(), done.users["user_id"].to_list()
    for user, history, target in done.test.iter_rows() if raw.times == "ns" else ():
        assert [items[i] for i in [*history, target]] == expected[users[user]]


def cut(name: str, count: int) -> Callable[[Path], None]:
    """Takes so many bytes off the end of a file."""
    return lambda folder: (
        (folder / name).write_bytes((folder / name).read_bytes()[:-count]) and None
    )


def whole(_: Path) -> None:
    """Leaves the files as they are."""


BROKEN: list[tuple[str, Callable[[Path], None], tuple[str, str], list[str]]] = [
    # layout, what happens to its files, what is written otherwise in the recipe, what is said
    (
        "MovieLens-100k",
        whole,
        ("columns: [user, item, rating, timestamp],", ""),
        [
            "u.data: column 'user' is missing",
            "The first row looks like data: name the columns, such as",
            "`columns: [user, item, rating, timestamp]` in prepare.source.interactions",
        ],
    ),
    (
        "MovieLens-100k",
        whole,
        ("columns: [user, item, rating, timestamp]", "columns: [user, item, timestamp]"),
        [
            "`columns` has 3 names (user, item, timestamp)",
            "first row has another number of cells: '10",
        ],
    ),
    (
        "MovieLens-100k",
        whole,
        ("format: tsv, ", ""),
        ["u.data: unknown kind of file", "set `format` in prepare.source.interactions: csv with a"],
    ),
    (
        "MovieLens-100k",
        whole,
        ("encoding: latin-1,", ""),
        ["u.item: not UTF-8 at line 1, byte 6 (0xe9)", "Set `encoding: cp1252`"],
    ),
    ("MovieLens-100k", whole, ("latin-1", "utf-16"), ["u.item: not utf-16", "another `encoding`"]),
    (
        "MovieLens-100k",
        cut("ml-100k/u.data", 14),
        ("", ""),
        [
            "u.data: row with more or fewer cells than the 4 of `columns`",
            "row 30, cells 2",
            "It is the last row: copy the file again",
        ],
    ),
    ("MovieLens-1M", cut("ratings.dat", 14), ("", ""), ["row 30, cells 3", "It is the last row"]),
    (
        "MovieLens-1M",
        whole,
        ("columns: [u, i, stars, t],", ""),
        ["column 'u' is missing", "The first row looks like data"],
    ),
    (
        "HetRec LastFM, tags",
        whole,
        (', where: [[timestamp, ">", 0]]', ""),
        [
            "row 32, user_id '10'",
            'leave such rows out by `where: [[timestamp, ">", 0]]` in prepare.',
        ],
    ),
    (
        "HetRec LastFM, tags",
        whole,
        ("quoting: none, ", ""),
        ["artists.dat: line 2 opens a quote", "Set `quoting: none` in prepare.source.items"],
    ),
    (
        "Book-Crossing",
        whole,
        ("quoting: backslash", "quoting: none"),
        ["row 2, cells 7", "Set `quoting: double` in prepare.source.items if cells are in quotes"],
    ),
    ("Book-Crossing", cut("BX-Books.csv", 20), ("", ""), ["row 9, cells 4", "It is the last row"]),
    (
        "Online Retail, CSV",
        whole,
        ('time_format: "%m/%d/%Y %H:%M",', ""),
        [
            "time in 'InvoiceDate' that cannot be read",
            "row 2, user_id",
            "timestamp '8/18/2019 18:51'",
            "set prepare.source.interactions.time_format to '%m/%d/%Y %H:%M' (which reads them)",
        ],
    ),
    (
        "Online Retail, CSV",
        whole,
        ('[CustomerID, "!=", null]', '[CustomerID, "!=", x]'),
        ["interaction without user_id", "row 11", 'by `where: [[CustomerID, "!=", null]]`'],
    ),
    (
        "Online Retail, CSV",
        whole,
        (", repeats: first", ""),
        ["repeated item_id", "row 3", "set `repeats: first` in prepare.source.items"],
    ),
    (
        "Online Retail, CSV",
        whole,
        ("[Quantity,", "[Quantty,"),
        ["Did you mean 'Quantity'? Name the column", "prepare.source.interactions.where"],
    ),
    (
        "Online Retail, CSV",
        whole,
        ("[Quantity,", "[Description,"),
        ["cell in 'Description' that is not a number; `where` asks for > 0", "row 2, where.0 'MUG"],
    ),
    (
        "Online Retail, Excel",
        whole,
        ('sheet: "Year *", ', ""),
        ["found the sheets ['Year 2009-2010', 'Year 2010-2011'], expected one", "Set `sheet`"],
    ),
    ("Online Retail, Excel", whole, ('"Year *"', "Jahr"), ["expected 'Jahr'. Set `sheet`"]),
    (
        "Online Retail, Excel",
        cut("Online Retail II.xlsx", 300),
        ("", ""),
        ["not readable as Excel"],
    ),
    (
        "MIND",
        whole,
        ('clicked: "-1"', 'clicked: "=1"'),
        ["no item in 'shown' ends in '=1'. Correct `clicked` or `explode`"],
    ),
    (
        "Yelp",
        cut("yelp_academic_dataset_review.json", 30),
        ("", ""),
        ["line 30 is not a JSON object"],
    ),
    ("Amazon", cut("reviews_Books_5.json.gz", 30), ("", ""), ["cut off or damaged"]),
    (
        "Spark",
        cut("log.parquet/part-10.snappy.parquet", 30),
        ("", ""),
        ["part-10.snappy.parquet: not readable as parquet"],
    ),
    ("text of Excel, zipped", cut("Export.zip", 30), ("", ""), ["Export.zip: the compressed file"]),
    ("text of Excel, zipped", whole, ("encoding: utf-16, ", ""), ["Set `encoding: utf-16`"]),
    (
        "sessions, JSON",
        whole,
        ("explode: list", 'explode: ","'),
        ["row 1: 'items' is the list [21", "Set `explode: list` in prepare.source.interactions"],
    ),
    (
        "sessions, text",
        whole,
        ('explode: ","', "explode: list"),
        ["row 1: 'items' is '21, 6", "set prepare.source.interactions.explode to the text between"],
    ),
]


@pytest.mark.parametrize(("name", "change", "edit", "said"), BROKEN)
def test_what_is_wrong_is_named_with_the_option(
    name: str,
    change: Callable[[Path], None],
    edit: tuple[str, str],
    said: list[str],
    tmp_path: Path,
) -> None:
    if "Excel" in name and "zip" not in name:
        pytest.importorskip("fastexcel")
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    change(tmp_path)
    assert edit[0] in layout.recipe
    with pytest.raises(ValueError, match=r"\w") as error:
        read(tmp_path, layout.recipe.replace(*edit))
    for part in said:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        (
            "Online Retail, CSV",
            ("whole_ids: true,", ""),
            "data.csv: 27 of 27 ids in 'CustomerID' end in .0, as 17850.0 does: what pandas makes "
            "of whole numbers where a cell is empty. Set `whole_ids: true` in prepare.source",
        ),
        (
            "Book-Crossing",
            ("quoting: backslash, ", ""),
            'line 2 has a quote that is written \\" within a cell; it is lost. Set `quoting: backslash`',
        ),
        (
            "sessions, JSON",
            ("", ""),
            "sessions.jsonl: the titles of the items are their ids. Views of text",
        ),
    ],
)
def test_what_is_odd_is_warned_of(
    name: str, edit: tuple[str, str], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = LAYOUTS[name]
    layout.write(tmp_path)
    read(tmp_path, layout.recipe.replace(*edit))
    assert said in caplog.text
    assert caplog.text.count("WARNING") == 1


@pytest.mark.parametrize("name", LAYOUTS)
def test_init_writes_a_recipe_that_reads_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names alone are given; nothing is left to correct."""
    layout = LAYOUTS[name]
    if "Excel" in name and "zip" not in name:
        pytest.importorskip("fastexcel")
    layout.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    section = yaml.safe_load(layout.recipe)
    log, items = section["interactions"]["path"], section.get("items", {}).get("path")
    said, recipe, quick = init(log, items if items != log else None)
    for file in (recipe, quick):
        prepared = load(str(file)).prepare
        raw = read_source(prepared.source, folder=tmp_path)
        ordered = raw.interactions.sort("timestamp", maintain_order=True)
        own = dict(ordered.group_by("user_id", maintain_order=True).agg("item_id").iter_rows())
        if (
            not {"left_out_by_where", "below_min_rating"} & layout.dropped.keys()
            or "Retail" in name
        ):
            assert own == layout.expected(tmp_path), said
            assert dict(raw.items.select("item_id", "title").iter_rows()) == layout.titles, said
        else:  # the recipe above leaves low ratings out, which is the owner's to decide
            assert sum(map(len, own.values())) == len(ROWS), said
    assert len(recipe.read_text().splitlines()) <= 25


def test_sheets_of_excel(tmp_path: Path) -> None:
    pytest.importorskip("fastexcel")
    rows = [[7.0, 1, at(0)], [], ["8", 2.5, at(60)]]
    excel(
        tmp_path / "a.xlsx", {"one": [["u", "i", "t"], *rows], "two": rows, "other": [["u"], [1]]}
    )
    named = "user: u, item: i, timestamp: t"
    log = read(tmp_path, f"interactions: {{path: a.xlsx, sheet: one, {named}}}").interactions
    assert log.rows() == [("7", "1", EPOCH * 10**9), ("8", "2.5", (EPOCH + 60) * 10**9)]
    again = read(
        tmp_path, f"interactions: {{path: a.xlsx, sheet: two, columns: [u, i, t], {named}}}"
    )
    assert again.interactions.equals(log)
    for options, said in (
        ("sheet: o*, ", "sheet 'other' has other columns than 'one'"),
        ("sheet: two, columns: [u, i], ", "`columns` has 2 names, and the sheet 3 columns"),
        ("sheet: other, ", "column 'i' is missing; found ['u']"),
    ):
        with pytest.raises(ValueError, match=r"a\.xlsx: ") as error:
            read(tmp_path, f"interactions: {{path: a.xlsx, {options}{named}}}")
        assert said in str(error.value)
    empty = "interactions: {path: a.xlsx, sheet: one, user: u, item: i, timestamp: null}"
    excel(tmp_path / "a.xlsx", {"one": [["u", "i"], [None, 1]]})
    with pytest.raises(ValueError, match=r"interaction without user_id .*row 2"):
        read(tmp_path, empty)
