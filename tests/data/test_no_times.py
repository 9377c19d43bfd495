"""A log without times: no dates are made up, what needs them is refused, and a random hold-out helps."""

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec import Pipeline
from genrec.data import (
    ColdItems,
    ColdUsers,
    ItemFile,
    LogFile,
    RandomOut,
    RawData,
    Temporal,
    prepare,
    read_files,
    read_recbole,
)
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS

USERS, ITEMS = 30, 40


def shop(folder: Path, rows: list[tuple[int, int]]) -> RawData:
    items = "".join(f"i{n:02},title {n}\n" for n in range(ITEMS))
    (folder / "items.csv").write_text("item_id,title\n" + items)
    log = "".join(f"u{user},i{item:02}\n" for user, item in rows)
    (folder / "log.csv").write_text("user_id,item_id\n" + log)
    return read_files(
        ItemFile(path=f"{folder}/items.csv"), LogFile(path=f"{folder}/log.csv", timestamp=None)
    )


# User by user, in an order that is none of the catalogue.
MIXED = [(user, (user * 7 + step * 11) % ITEMS) for user in range(USERS) for step in range(5)]


def test_the_card_says_no_times(tmp_path: Path) -> None:
    raw = shop(tmp_path, MIXED)
    assert raw.times == "none"
    stats = prepare(raw, core=0).stats
    assert stats["time"] == "no times"
    assert "1970" not in json.dumps(stats)
    assert "findings" not in stats


def test_of_recbole_too(tmp_path: Path) -> None:
    inter = "".join(f"u\ti{n}\n" for n in range(4))
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\n" + inter)
    item = "".join(f"i{n}\tt\n" for n in range(4))
    (tmp_path / "a.item").write_text("item_id:token\ttitle:token_seq\n" + item)
    raw = read_recbole(tmp_path / "a.inter", tmp_path / "a.item", timestamp=None)
    assert prepare(raw, core=0).stats["time"] == "no times"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": Temporal()}, r"prepare\.split\.kind=temporal compares the times"),
        ({"split": ColdItems()}, r"prepare\.split\.kind=cold_items compares the times"),
        ({"repeats": "exact"}, r"prepare\.repeats=exact drops what a user did at the same time"),
    ],
)
def test_what_needs_times_is_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said + r".* has no times: `timestamp: null`, a format"):
        prepare(shop(tmp_path, MIXED), core=0, **options)


@pytest.mark.parametrize("first", [0, 1])
def test_places_in_a_list_are_no_times_in_any_order_of_rows(first: int) -> None:
    rows = [(f"u{u}", f"i{n}", first + n) for n in (3, 0, 2, 1) for u in range(4)]
    items = [(f"i{n}", "t", "", None) for n in range(4)]
    raw = RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row"),
        times="order",
    )
    assert prepare(raw, core=0).stats["time"] == "no times"
    with pytest.raises(ValueError, match="has no times"):
        prepare(raw, core=0, split=Temporal())


def test_numbers_without_a_unit_are_shown_as_they_are(tmp_path: Path) -> None:
    shop(tmp_path, MIXED)
    rows = "".join(f"u{u},i{n:02},{10 * n + u}\n" for u in range(5) for n in range(5))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    raw = read_files(
        ItemFile(path=f"{tmp_path}/items.csv"), LogFile(path=f"{tmp_path}/log.csv", unit="order")
    )
    stats = prepare(raw, core=0, split=Temporal(valid=0.2, test=0.2)).stats
    assert stats["time"] == {"first": 0, "last": 44, "unit": "order", "equal_neighbours": 0}
    assert stats["split"] == {"kind": "temporal", "valid_from": 30, "test_from": 40}


def test_a_random_hold_out(tmp_path: Path) -> None:
    raw = shop(tmp_path, MIXED)
    done = prepare(raw, core=0, split=RandomOut())
    own: dict[int, list[int]] = {}
    for user, item in prepare(raw, core=0).interactions.select("user", "item").iter_rows():
        own.setdefault(user, []).append(item)
    tables = [
        dict(zip(t["user"], t.rows(), strict=True)) for t in (done.train, done.valid, done.test)
    ]
    for user, items in own.items():
        (_, known, last), (_, longer, valid), (_, longest, test) = (t[user] for t in tables)
        assert [*known, last] == longer == [i for i in items if i not in (valid, test)]
        assert longest == [*longer, valid]
        assert sorted(items) == sorted([*longest, test])
    places = [items.index(tables[2][user][2]) for user, items in own.items()]
    assert all(2 <= places.count(place) <= 11 for place in range(5))  # 6 each, were it even
    again = prepare(raw, core=0, split=RandomOut())
    assert again.test.equals(done.test)
    assert not prepare(raw, core=0, split=RandomOut(seed=1)).test.equals(done.test)


def test_a_random_hold_out_does_not_mind_the_order_of_times() -> None:
    rows = [(f"u{u}", f"i{n}", 10**18 + n) for u in range(9) for n in range(6)]
    items = [(f"i{n}", "t", "", None) for n in range(6)]
    raw = RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(rows, schema=RAW_INTERACTIONS, orient="row"),
    )
    done = prepare(raw, core=0, split=RandomOut())
    assert done.stats["time"]["equal_neighbours"] == 0  # type: ignore[index]
    assert done.test["target"].n_unique() > 1  # not the newest of each


# Sorted by item: what comes last in the catalogue is asked for and never learned from.
SORTED = sorted((user, user % 4 + step * 9) for user in range(USERS) for step in range(4))


@pytest.mark.parametrize(
    ("rows", "signs"),
    [
        (SORTED, ["100% of the users have their items in the order of the catalogue"]),
        (
            [
                (u, (ITEMS - u if s == 4 else (u * 7 + s * 11) % 10))
                for u in range(30)
                for s in range(5)
            ],
            ["% of the test targets are items that nobody has in training ("],
        ),
    ],
)
def test_an_order_that_is_plainly_none_of_time(
    rows: list[tuple[int, int]],
    signs: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        stats = prepare(shop(tmp_path, rows), core=0, repeats="keep").stats
    assert [record.getMessage() for record in caplog.records] == stats["findings"]
    (finding,) = stats["findings"]  # type: ignore[misc]
    assert finding.startswith("the order of rows is plainly no order of time: ")
    assert all(sign in finding for sign in signs)
    assert finding.endswith("prepare.split.kind=random, which holds out at random")
    # Nothing to say where the order was given up, or where times made it.
    raw = shop(tmp_path, rows)
    assert "findings" not in prepare(raw, core=0, repeats="keep", split=RandomOut()).stats
    timed = RawData(raw.items, raw.interactions, times="order")
    assert "findings" not in prepare(timed, core=0, repeats="keep").stats


def test_by_recipe(tmp_path: Path) -> None:
    shop(tmp_path, SORTED)
    source = {
        "kind": "files",
        "items": {"path": f"{tmp_path}/items.csv"},
        "interactions": {"path": f"{tmp_path}/log.csv", "timestamp": None},
    }
    recipe = {"prepare": {"source": source, "core": 0}, "runtime": {"store": f"{tmp_path}/store"}}
    (tmp_path / "shop.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="has no times"):
        Pipeline.load(tmp_path / "shop.yaml", "prepare.split.kind=temporal").run(only="prepare")
    pipeline = Pipeline.load(tmp_path / "shop.yaml", "prepare.split={kind: random, seed: 3}")
    pipeline.run(only="prepare")
    stats = pipeline["prepare"].load("stats.json")
    assert stats["time"] == "no times"
    assert stats["split"] == {"kind": "random"}
    expected = prepare(shop(tmp_path, SORTED), core=0, split=RandomOut(seed=3)).test
    assert pipeline["prepare"].load("test.parquet").equals(expected)


def test_strangers_need_no_times(tmp_path: Path) -> None:
    assert prepare(shop(tmp_path, MIXED), core=0, split=ColdUsers()).stats["time"] == "no times"
    pairs = [row for n, row in enumerate(MIXED) if n % 5 > 2]
    stats = prepare(shop(tmp_path, pairs), core=0, split=ColdUsers(valid=0.4, test=0.4)).stats
    assert "findings" not in stats
