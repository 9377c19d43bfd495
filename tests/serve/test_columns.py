"""The types of columns, and filters against a row-by-row reading of what they say."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, strategies as st

from genrec.serve.columns import Columns, Kind
from genrec.serve.schemas import Filter

ITEMS = pl.DataFrame(
    {
        "item": [0, 1, 2, 3],
        "title": ["Red Mug", "Blue Jacket", "red jacket", "Tent"],
        "price": ["12.50", "80", None, "free"],
        "stock": [0, 5, None, 2],
        "tags": [["Camping", "cup"], ["rain"], None, []],
        "sale": [True, False, None, True],
        "weight": [0.5, 2.0, None, 1e3],
        "sizes": [[38, 40], [42], None, []],
    },
    schema_overrides={"tags": pl.List(pl.String), "sizes": pl.List(pl.Int64)},
)


def rows(**filters: Filter) -> list[int]:
    return np.flatnonzero(Columns(ITEMS).mask(filters)).tolist()


def test_kinds() -> None:
    columns = Columns(ITEMS.with_columns(price=pl.Series(["12.50", "€80", None, "1,299.00"])))
    kinds = {name: columns[name].kind for name in columns}
    assert kinds == {
        "item": Kind.TEXT,
        "title": Kind.TEXT,
        "price": Kind.NUMBER,
        "stock": Kind.NUMBER,
        "tags": Kind.LIST,
        "sale": Kind.CATEGORY,
        "weight": Kind.NUMBER,
        "sizes": Kind.LIST,
    }
    assert columns.attributes == ["price", "stock", "tags", "sale", "weight", "sizes"]
    assert columns.numeric == ["price", "stock", "weight"]
    assert columns["price"].numbers.to_list() == [12.5, 80.0, None, 1299.0]
    assert Columns(ITEMS)["price"].kind is Kind.CATEGORY  # two of three are numbers: too few


def test_each_condition() -> None:
    assert rows(title=Filter(contains="RED")) == [0, 2]
    assert rows(title=Filter(any=["red jacket", "TENT"])) == [2, 3]
    assert rows(title=Filter(none=["tent"])) == [0, 1, 2]
    assert rows(price=Filter(max=80)) == [0, 1]  # words that are no number meet no bound
    assert rows(price=Filter(min=12.5, max=12.5)) == [0]
    assert rows(stock=Filter(any=[5, 2.0])) == [1, 3]
    assert rows(tags=Filter(contains="camp")) == [0]
    assert rows(sale=Filter(any=[True])) == [0, 3]
    assert rows(weight=Filter(any=[2, 0.5])) == [0, 1]
    assert rows(weight=Filter(any=["2.0", "1000"])) == [1, 3]


def test_one_value_of_a_list_is_enough() -> None:
    assert rows(tags=Filter(any=["camping", "x"])) == [0]
    assert rows(tags=Filter(none=["CUP"])) == [1, 3]
    assert rows(sizes=Filter(any=[40])) == [0]
    assert rows(sizes=Filter(none=[42])) == [0, 3]
    assert rows(sizes=Filter(min=39)) == [0, 1]
    assert rows(sizes=Filter(min=41, max=41)) == []
    assert rows(sizes=Filter(min=39, max=41)) == [0]


def test_a_missing_value_meets_nothing_and_no_filter_is_no_condition() -> None:
    assert rows(stock=Filter(none=[99])) == [0, 1, 3]
    assert rows(tags=Filter(none=["x"])) == [0, 1, 3]
    assert rows() == [0, 1, 2, 3]


def test_all_must_hold() -> None:
    assert rows(title=Filter(contains="jacket"), stock=Filter(min=1)) == [1]
    assert rows(title=Filter(contains="e", none=["tent"], any=["tent", "Red Mug"])) == [0]


@pytest.mark.parametrize("name", ["nope", "image", "item"])
def test_an_unknown_attribute_is_named_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"no attribute '{name}'.*'price'"):
        Columns(ITEMS).mask({name: Filter(any=["x"])})


@given(st.text(max_size=8), st.lists(st.text(max_size=4), max_size=3))
def test_words_are_letters_and_no_patterns(letters: str, words: list[str]) -> None:
    titles = ["a.b", "A*B", "(", "", "ſ", "[a", "\\d"]
    items = pl.DataFrame({"item": range(len(titles)), "title": titles})
    found = Columns(items).mask({"title": Filter(contains=letters, none=words)})
    lower = items["title"].str.to_lowercase().to_list()
    banned = {word.lower() for word in words}
    assert found.tolist() == [letters.lower() in t and t not in banned for t in lower]
