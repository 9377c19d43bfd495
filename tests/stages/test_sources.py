"""One shop in the files of every source, through to SIDs: the same split, the same SIDs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline

WORDS = ("kettle", "tent", "lamp", "chair", "mug", "rope")
TITLES = {f"B{n:02d}": f"{WORDS[n % 6]} no. {n}" for n in range(12)}
LOG = [
    (
        f"u{user}",
        f"B{(user * 5 + step * (1 + user % 2)) % 12:02d}",
        1_588_687_728 + 60 * step + user,
    )
    for user in range(10)
    for step in range(5)
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_files(folder: Path) -> dict[str, Any]:
    pl.DataFrame({"sku": list(TITLES), "name": list(TITLES.values())}).write_csv(folder / "p.csv")
    log = pl.DataFrame(LOG, schema=["who", "sku", "at"], orient="row")
    log.head(30).write_parquet(folder / "clicks-1.parquet")
    log.tail(20).write_parquet(folder / "clicks-2.parquet")
    return {
        "items": {"path": f"{folder}/p.csv", "item": "sku", "title": "name"},
        "interactions": {"path": f"{folder}/clicks-*.parquet", "user": "who", "item": "sku"}
        | {"timestamp": "at"},
    }


def write_amazon(folder: Path) -> dict[str, Any]:
    reviews = [
        {"user_id": u, "parent_asin": i, "asin": "x", "timestamp": 1000 * t, "rating": 5.0}
        | {"title": "", "text": "", "images": [], "verified_purchase": True, "helpful_vote": 0}
        for u, i, t in LOG
    ]
    products = [
        {"parent_asin": i, "title": title, "features": [], "description": [], "images": []}
        | {"price": "None", "store": None, "categories": [], "main_category": None}
        for i, title in TITLES.items()
    ]
    (folder / "Shop.jsonl.gz").write_bytes(gzip.compress(lines(reviews)))
    (folder / "meta_Shop.jsonl").write_bytes(lines(products))
    return {"reviews": f"{folder}/Shop.jsonl.gz", "meta": f"{folder}/meta_Shop.jsonl"}


def write_recbole(folder: Path) -> dict[str, Any]:
    rows = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in LOG)
    (folder / "s.inter").write_text(f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    rows = "".join(f"{i}\t{title}\n" for i, title in TITLES.items())
    (folder / "s.item").write_text(f"item_id:token\ttitle:token_seq\n{rows}")
    return {"interactions": f"{folder}/s.inter", "items": f"{folder}/s.item"}


def write_interchange(folder: Path) -> dict[str, Any]:
    sequences: dict[str, list[str]] = {}
    for user, item, _ in LOG:
        sequences.setdefault(user, []).append(item)
    items = {i: {"title": title, "description": ""} for i, title in TITLES.items()}
    (folder / "s.inter.json").write_text(json.dumps(sequences))
    (folder / "s.item.json").write_text(json.dumps(items))
    return {"interactions": f"{folder}/s.inter.json", "items": f"{folder}/s.item.json"}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "files": write_files,
    "amazon": write_amazon,
    "recbole": write_recbole,
    "interchange": write_interchange,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pipeline]:
    found = {}
    for kind, write in WRITERS.items():
        folder = tmp_path_factory.mktemp(kind)
        recipe = {
            "prepare": {"source": {"kind": kind} | write(folder), "core": 0},
            "embed": {"text": {"fields": ["title"]}},
            "quantize": {"kind": "rkmeans", "levels": 2, "codes": 4, "code_dim": None},
            "runtime": {"store": str(folder / "store"), "threads": 1},
        }
        (folder / "shop.yaml").write_text(json.dumps(recipe))
        found[kind] = Pipeline.load(folder / "shop.yaml")
        found[kind].run(to="quantize")
    return found


@pytest.mark.parametrize("kind", list(WRITERS))
def test_every_source_leads_to_the_same_sids(kind: str, made: dict[str, Pipeline]) -> None:
    one, other = made["files"], made[kind]
    for table in ("items", "users", "train", "valid", "test"):
        columns = ["item", "item_id", "title"] if table == "items" else pl.all()
        tables = [p["prepare"].load(f"{table}.parquet").select(columns) for p in (one, other)]
        assert tables[0].equals(tables[1]), table
    sids = other["quantize"].load()
    assert sids.shape[0] == len(TITLES)
    assert len(np.unique(sids, axis=0)) > 4
    np.testing.assert_array_equal(sids, one["quantize"].load())
