"""One contract for every source: one shop in its files gives the same data, and the same split."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec import registry
from genrec.data import LastOut, RawData, formats, prepare, read_source
from genrec.data.settings import SourceSettings
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS
from genrec.schema import ITEMS, USERS

WORDS = ("kettle", "tent", "lamp", "chair", "mug", "rope")
TITLES = {f"{n + 10}": f"{WORDS[n % 6]} no. {n}" for n in range(12)}
LOG = [
    (
        f"{user + 50}",
        f"{(user * 5 + step * (1 + user % 2)) % 12 + 10}",
        1_588_687_728 + 60 * step + user,
    )
    for user in range(10)
    for step in range(5)
]
Writer = Callable[[Path, dict[str, str]], dict[str, Any]]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_files(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    pl.DataFrame({"sku": list(titles), "name": list(titles.values())}).write_csv(folder / "p.csv")
    log = pl.DataFrame(LOG, schema=["who", "sku", "at"], orient="row")
    log.head(30).write_parquet(folder / "clicks-1.parquet")
    log.tail(20).write_parquet(folder / "clicks-2.parquet")
    return {
        "items": {"path": f"{folder}/p.csv", "item": "sku", "title": "name"},
        "interactions": {"path": f"{folder}/clicks-*.parquet", "user": "who", "item": "sku"}
        | {"timestamp": "at"},
    }


def write_amazon(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    reviews = [
        {"user_id": u, "parent_asin": i, "asin": "x", "timestamp": 1000 * t, "rating": 5.0}
        | {"title": "", "text": "", "images": [], "verified_purchase": True, "helpful_vote": 0}
        for u, i, t in LOG
    ]
    products = [
        {"parent_asin": i, "title": title, "features": [], "description": [], "images": []}
        | {"price": "None", "store": None, "categories": [], "main_category": None}
        for i, title in titles.items()
    ]
    (folder / "Shop.jsonl.gz").write_bytes(gzip.compress(lines(reviews)))
    (folder / "meta_Shop.jsonl").write_bytes(lines(products))
    return {"reviews": f"{folder}/Shop.jsonl.gz", "meta": f"{folder}/meta_Shop.jsonl"}


def write_recbole(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    rows = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in LOG)
    (folder / "s.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    rows = "".join(f"{i}\t{title}\n" for i, title in titles.items())
    (folder / "s.item").write_text(f"item_id:token\ttitle:token_seq\n{rows}")
    return {"interactions": f"{folder}/s.inter", "items": f"{folder}/s.item"}


def write_movielens(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    rows = "".join(f"{u},{i},4.0,{t}\n" for u, i, t in LOG)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    rows = "".join(f"{i},{title},Drama\n" for i, title in titles.items())
    (folder / "movies.csv").write_text(f"movieId,title,genres\n{rows}")
    return {"ratings": f"{folder}/ratings.csv", "movies": f"{folder}/movies.csv"}


def write_interchange(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    sequences: dict[str, list[str]] = {}
    for user, item, _ in LOG:
        sequences.setdefault(user, []).append(item)
    items = {i: {"title": title, "description": ""} for i, title in titles.items()}
    (folder / "s.inter.json").write_text(json.dumps(sequences))
    (folder / "s.item.json").write_text(json.dumps(items))
    return {"interactions": f"{folder}/s.inter.json", "items": f"{folder}/s.item.json"}


def write_exchange(folder: Path, titles: dict[str, str]) -> dict[str, Any]:
    users = list(dict.fromkeys(user for user, _, _ in LOG))
    rows = [(users.index(u), list(TITLES).index(i), t * 10**9) for u, i, t in LOG]
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64}
    parts = LastOut().split(pl.DataFrame(rows, schema=schema, orient="row"))
    items = [(n, i, title, "", None) for n, (i, title) in enumerate(titles.items())]
    bundle = formats.Bundle(
        "shop",
        pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
        pl.DataFrame(list(enumerate(users)), schema=dict(USERS), orient="row"),
        parts.train,
        parts.valid,
        parts.test,
        interactions=parts.interactions,
    )
    formats.write(bundle, "rectools", folder / "files")
    return {"format": "rectools", "folder": f"{folder}/files", "name": "shop"}


WRITERS: dict[str, Writer] = {
    "files": write_files,
    "amazon": write_amazon,
    "recbole": write_recbole,
    "movielens": write_movielens,
    "interchange": write_interchange,
    "exchange": write_exchange,
}
WITHOUT_TIMES = ("interchange",)
PARTS = registry.parts("sources")


def settings_of(kind: str, folder: Path, titles: dict[str, str] = TITLES) -> SourceSettings:
    if kind == "demo":
        settings: SourceSettings = PARTS[kind](items=20, users=10, image_size=32)
    else:
        settings = PARTS[kind](**WRITERS[kind](folder, titles))
    return settings


def test_every_built_in_source_is_here() -> None:
    assert {*WRITERS, "demo"} == set(registry.BUILT_IN["sources"])


@pytest.fixture(params=[*WRITERS, "demo"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def raw(kind: str, tmp_path_factory: pytest.TempPathFactory) -> RawData:
    folder = tmp_path_factory.mktemp(kind)
    return read_source(settings_of(kind, folder), folder=folder)


def test_the_tables_have_one_schema(kind: str, raw: RawData) -> None:
    assert PARTS[kind].__doc__, "`genrec list` shows its first line"
    assert dict(list(raw.items.schema.items())[: len(RAW_ITEMS)]) == RAW_ITEMS
    assert dict(raw.interactions.schema) == RAW_INTERACTIONS
    assert raw.items.select("item_id", "title", "description").null_count().sum_horizontal()[0] == 0
    assert raw.items["item_id"].is_unique().all()
    assert raw.interactions["item_id"].is_in(raw.items["item_id"].implode()).all()
    assert not raw.dropped


def test_every_source_gives_the_same_shop(kind: str, raw: RawData) -> None:
    if kind == "demo":
        pytest.skip("it makes its own")
    assert dict(raw.items.select("item_id", "title").iter_rows()) == TITLES
    done = prepare(raw, core=0)
    assert raw.times == ("none" if kind in WITHOUT_TIMES else "ns")
    by_user: dict[str, list[tuple[str, int]]] = {}
    for user, item, time in LOG:
        by_user.setdefault(user, []).append((item, time * 10**9))
    for row in done.users.iter_rows(named=True):
        mine = done.interactions.filter(pl.col("user") == row["user"])
        mine = mine.join(done.items, on="item", maintain_order="left")
        expected = by_user[row["user_id"]]
        assert mine["item_id"].to_list() == [item for item, _ in expected]
        if kind not in WITHOUT_TIMES:
            assert mine["timestamp"].to_list() == [time for _, time in expected]
    assert len(done.users) == len(by_user)


def test_the_same_again(kind: str, raw: RawData, tmp_path: Path) -> None:
    again = read_source(settings_of(kind, tmp_path), folder=tmp_path)
    assert again.items.equals(raw.items)
    assert again.interactions.equals(raw.interactions)


@pytest.mark.parametrize("kind", ["files", "recbole", "movielens", "interchange"])
def test_a_bad_row_is_an_error_that_names_the_file_or_is_counted(kind: str, tmp_path: Path) -> None:
    settings = settings_of(kind, tmp_path, TITLES | {"22": " "})
    with pytest.raises(ValueError, match=rf"{tmp_path}/\S+: empty title.*on_bad=drop"):
        read_source(settings, folder=tmp_path)
    raw = read_source(settings, folder=tmp_path, on_bad="drop")
    assert raw.items["item_id"].to_list() == list(TITLES)
    assert raw.dropped == {"empty_title": 1}


def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "demo":
        pytest.skip("it reads no file")
    settings = settings_of(kind, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        read_source(settings, folder=tmp_path)
