"""`recipes/own-data.yaml` on a small made-up shop: tables, log and pictures through to SIDs."""

import gzip
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrec import Pipeline

RECIPE = Path(__file__).parents[1] / "recipes" / "own-data.yaml"
KINDS, COLOURS = ("mug", "lamp", "scarf", "plate", "chair"), ("red", "teal", "navy", "olive")
MAKERS = ("Acme", "Birch", "Crane", "Dune")
PRODUCTS = [(k, c, m) for k in KINDS for c in COLOURS for m in MAKERS]


def make_shop(folder: Path, *, users: int = 120) -> None:
    """Writes 80 products, a log of events over two files, and pictures of all products but one."""
    (folder / "pictures").mkdir(parents=True)
    rows = ["sku,name,short,long,photo,price,stock,maker"]
    skus = []
    for number, (kind, colour, maker) in enumerate(PRODUCTS):
        sku = f"{number:04d}"
        skus.append(sku)
        photo = f"{kind}-{colour}-{maker}.png" if number else ""
        if photo:
            Image.new("RGB", (24, 24), colour).save(folder / "pictures" / photo)
        price = f"{5 + number}.90" if number != 3 else ""
        rows.append(
            f'{sku},"{colour} {kind}",A {kind},"{colour}, sturdy",{photo},{price},{number},{maker}'
        )
    (folder / "products.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rng = random.Random(7)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    events: list[list[str]] = [[], []]
    for user in range(users):
        taste = rng.sample(skus, 7)
        for step, sku in enumerate(taste):
            at = start + timedelta(days=user, hours=step, milliseconds=user)
            event = rng.choice(["purchase", "cart", "cart", "view"])
            line = {"customer": user, "sku": sku, "at": at.isoformat(), "event": event}
            events[user % 2].append(json.dumps(line))
    for part, lines in enumerate(events):
        (folder / f"clicks-{part}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder)
    return folder


def test_fifteen_lines_lead_to_sids(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SHOP", str(shop))
    lines = [line for line in RECIPE.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) <= 15
    pipeline = Pipeline.load(RECIPE, f"runtime.store={shop / 'store'}")
    pipeline.run(to="quantize")

    items = pipeline["prepare"].load()
    assert len(items) == 80
    assert items.row(1, named=True) | {"image": None} == {
        **{"item": 1, "item_id": "0001", "title": "red mug", "description": "A mug red, sturdy"},
        **{"image": None, "price": 6.9, "stock": 1.0, "maker": "Birch"},
    }
    assert items["price"][3] is None
    assert items["image"][0] is None
    assert items["image"][1] == str(shop / "pictures" / "mug-red-Birch.png")

    stats = pipeline["prepare"].load("stats.json")
    assert stats["items_with_image"] == 79
    views = _lines(shop).count('"event": "view"')
    assert stats["dropped"]["below_threshold"] == views  # nobody looks three times at one thing
    log = pipeline["prepare"].load("interactions.parquet")
    assert log["timestamp"].min() == 1704067200 * 10**9
    sids = pipeline["quantize"].load()
    assert sids.shape == (80, 3)
    assert len(np.unique(sids, axis=0)) == 80


def _lines(shop: Path) -> str:
    paths = sorted(shop.glob("clicks-*.jsonl.gz"))
    return "\n".join(gzip.decompress(path.read_bytes()).decode() for path in paths)
