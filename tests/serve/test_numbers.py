"""Numbers as shops write them: one reading for the chat and the REST filters."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, strategies as st

from genrec.serve.chat.facets import Facets, Range
from genrec.serve.chat.lexicon import load_lexicon
from genrec.serve.columns import Columns
from genrec.serve.numbers import numbers_of
from genrec.serve.schemas import Filter


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("39.99", 39.99),
        ("€39.99", 39.99),
        ("$ 39.99", 39.99),
        ("£1,299.00", 1299.0),
        ("US$1,299", 1299.0),
        ("R$ 12,90", 12.9),
        ("39,99 €", 39.99),
        ("39,99\u00a0€", 39.99),
        ("1.299,00 EUR", 1299.0),
        ("1\u202f299,00 €", 1299.0),
        ("CHF 1'299.50", 1299.5),
        ("CHF 39.-", 39.0),
        ("39,- €", 39.0),
        ("₹1,29,900", 129900.0),
        ("499 kr", 499.0),
        ("0,299", 0.299),
        ("0.299", 0.299),
        ("1.299.000", 1299000.0),
        ("1,299", 1299.0),
        ("1.299", 1.299),
        ("-5", -5.0),
        ("-€5.50", -5.5),
        ("\u22125", -5.0),
        ("1e3", 1000.0),
        (" 7 ", 7.0),
        ("$12.99 - $15.00", None),
        ("12,34.5", None),
        ("1,2,3", None),
        ("12 34", None),
        ("from 12", None),
        ("40 cm", None),
        ("free", None),
        ("nan", None),
        ("inf", None),
        ("€", None),
        ("", None),
        (None, None),
    ],
)
def test_a_cell(cell: str | None, number: float | None) -> None:
    assert numbers_of(pl.Series([cell], dtype=pl.String)).to_list() == [number]


def test_the_column_tells_the_decimal_sign() -> None:
    assert numbers_of(pl.Series(["39,99 €", "1.299 €", "5"])).to_list() == [39.99, 1299.0, 5.0]
    assert numbers_of(pl.Series(["39.99 €", "1.299 €", "1,299"])).to_list() == [
        39.99,
        1.299,
        1299.0,
    ]
    assert numbers_of(pl.Series(["39,99", "39.99", "1.299", "7"])).to_list() == [
        39.99,
        39.99,
        None,
        7.0,
    ]


def test_columns_of_other_types() -> None:
    assert numbers_of(pl.Series([1, None, 3])).to_list() == [1.0, None, 3.0]
    assert numbers_of(pl.Series([True, None])).to_list() == [None, None]
    lists = pl.Series([["39,99", "1.299"], [], None, ["x", None]])
    assert numbers_of(lists).to_list() == [[39.99, 1299.0], [], None, [None, None]]


@given(st.floats(-1e15, 1e15))
def test_a_plain_number_is_itself(number: float) -> None:
    assert numbers_of(pl.Series([str(number)])).to_list() == [number]


CELLS = [
    "€39.99",
    "$1,299.00",
    "39,99 €",
    "40",
    "free",
    None,
    "1.299,00 EUR",
    "12 EUR",
    "USD 41",
    "£7",
]


def test_chat_and_filters_agree() -> None:
    count = len(CELLS)
    items = pl.DataFrame(
        {
            "item": range(count),
            "item_id": [str(n) for n in range(count)],
            "title": [f"thing {n}" for n in range(count)],
            "description": [""] * count,
            "image": [None] * count,
            "price": CELLS,
        }
    )
    facets = Facets(Columns(items), load_lexicon())
    for low, high in ((-np.inf, 40), (40, np.inf), (39.99, 39.99), (1000, 1300)):
        bounds = {"min": low} if np.isfinite(low) else {}
        bounds |= {"max": high} if np.isfinite(high) else {}
        found = Columns(items).mask({"price": Filter(**bounds)})
        assert found.tolist() == facets.within(Range("price", low, high)).tolist()
    assert np.flatnonzero(Columns(items).mask({"price": Filter(max=40)})).tolist() == [
        0,
        2,
        3,
        7,
        9,
    ]
