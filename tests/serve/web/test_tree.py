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
    return bundle.replace(items=items, rows=rows, sids=sids.astype(np.int32))


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
