"""The code tree of a large catalogue: 2,000 first codes over 50,000 items, page by page."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.serve.web.look import CODES, Branching, Level, level
from genrec.sid import SIDSets

FIRST, ITEMS = 2_000, 50_000


@pytest.fixture(scope="module")
def large(bundle: Bundle) -> Bundle:
    """Every third number is a first code; each has 25 items."""
    numbers = np.arange(ITEMS)
    sids = np.stack([3 * (numbers % FIRST), numbers // FIRST, 0 * numbers], axis=1)
    row = bundle.items.head(1).select("title", "description", "image")
    ids = pl.DataFrame({"item": numbers.astype(np.int32), "item_id": [f"x{n}" for n in numbers]})
    items = ids.join(row.with_columns(description=pl.lit("")), how="cross")
    rows = {f"x{n}": int(n) for n in numbers}
    return bundle.replace(items=items, rows=rows, sets=SIDSets([sids]))


@pytest.fixture(scope="module")
def asked(large: Bundle, opened: Callable[..., TestClient]) -> Iterator[TestClient]:
    with opened(large) as found:
        yield found


def codes(text: str) -> list[int]:
    """The first codes that a page leads on to."""
    return [int(code) for code in re.findall(r'href="/sids\?prefix=(\d+)&amp;h=x1"', text)]


def test_walking_on_shows_every_code_once(asked: TestClient) -> None:
    """By the links alone, as a visitor without JavaScript would."""
    url, shown, items = "/sids?h=x1", list[int](), 0
    while url:
        text = asked.get(url).text
        shown += codes(text)
        items += sum(map(int, re.findall(r'data-count="(\d+)"', text)))
        following = re.search(r'href="([^"]*)"[^>]*>Next</a>', text)
        url = following[1].replace("&amp;", "&") if following else ""
    assert shown == [3 * n for n in range(FIRST)]
    assert items == ITEMS


def test_a_page_is_small_and_quick(asked: TestClient) -> None:
    asked.get("/sids")  # the tree is built once
    begun = time.monotonic()
    answer = asked.get("/sids?page=20")
    assert time.monotonic() - begun < 2
    assert len(answer.content) < 150_000
    assert "2,000 codes to begin with" in answer.text
    assert "50,000 of 50,000 items" in answer.text


def test_a_code_can_be_gone_to(asked: TestClient) -> None:
    sent = asked.get("/sids?code=2997&prefix=&h=x1&h=x2")
    assert sent.status_code == 303
    target = urlsplit(sent.headers["location"])
    assert parse_qsl(target.query) == [("prefix", "2997"), ("h", "x1"), ("h", "x2")]
    assert "25 of 50,000 items" in asked.get(sent.headers["location"]).text
    deeper = asked.get("/sids?code=7&prefix=2997").headers["location"]
    assert "1 of 50,000 items" in asked.get(deeper).text
    assert asked.get(asked.get("/sids?code=2998").headers["location"]).status_code == 404


def test_odd_pages(asked: TestClient) -> None:
    last = asked.get("/sids?page=999999999&h=x1")
    assert codes(last.text)[-1] == 3 * (FIRST - 1)
    assert ">Next</a>" not in last.text
    assert asked.get("/sids?prefix=2997&page=5").status_code == 200
    for query in ("page=0", "page=-1", "page=x", "page=", "code=-1", "code=x", "code=1,2"):
        assert asked.get(f"/sids?{query}").status_code == 422, query


@pytest.mark.parametrize(
    ("page", "pages", "turns"),
    [
        (1, 1, [1]),
        (1, 3, [1, 2, 3]),
        (1, 9, [1, 2, None, 9]),
        (5, 9, [1, None, 4, 5, 6, None, 9]),
        (9, 9, [1, None, 8, 9]),
    ],
)
def test_the_pages_that_are_offered(page: int, pages: int, turns: list[Any]) -> None:
    found = Level((), 3, 0, page, pages, (), 0, ())
    assert found.turns == turns


def test_a_small_tree_has_no_pages(bundle: Bundle) -> None:
    found = level(bundle, Branching())
    assert found is not None
    assert found.pages == 1
    assert found.codes == len(found.branches) <= CODES


@pytest.fixture(scope="module")
def of_two(
    bundle: Bundle, opened: Callable[..., TestClient]
) -> Iterator[tuple[Bundle, TestClient]]:
    """The shop with a second set of SIDs, of two levels."""
    assert bundle.sets is not None
    numbers = np.arange(len(bundle))
    second = np.stack([numbers % 3, numbers // 3], axis=1)
    several = bundle.replace(sets=SIDSets([bundle.sets.own(0), second]))
    with opened(several) as found:
        yield several, found


def test_each_set_has_its_tree(of_two: tuple[Bundle, TestClient]) -> None:
    """The second is chosen at its root; below it the codes say whose they are."""
    bundle, asked = of_two
    begins = int(bundle.sids_by_set[0][:, 0].max()) + 1
    first = asked.get("/sids?h=x1").text
    assert "one in each set" in first
    assert 'href="/sids?set=2">Set 2</a>' in first
    second = asked.get("/sids?set=2").text
    shown = re.findall(r'href="/sids\?prefix=(\d+)"', second)
    assert [int(code) for code in shown] == [begins, begins + 1, begins + 2]
    assert "names an item by 2 codes" in second
    below = asked.get(f"/sids?prefix={begins + 1}").text
    assert "names an item by 2 codes" in below
    assert f"{len(range(1, len(bundle), 3))} of {len(bundle)} items" in below
    assert '<a href="/sids?set=2">All codes</a>' in below
    assert asked.get("/sids?set=3").status_code == 404
    assert asked.get(f"/sids?prefix={begins + 3}").status_code == 404


def test_an_item_is_shown_with_all_its_sids(of_two: tuple[Bundle, TestClient]) -> None:
    bundle, asked = of_two
    sids = [own[5].tolist() for own in bundle.sids_by_set]
    ids = bundle.items["item_id"]
    page = asked.get(f"/items/{ids[5]}").text
    for sid in sids:
        assert f'href="/sids?prefix={"%2C".join(map(str, sid))}"' in page
    assert "Semantic ID, set 2" in page
    found = asked.get(f"/v1/items/{ids[5]}").json()
    assert [found["sid"], *found["further_sids"]] == sids
