"""Traits of a catalogue: found in words, held against items."""

import numpy as np
import polars as pl
import pytest

from genrec.serve.chat.facets import Facets, Range, Trait
from genrec.serve.chat.lexicon import load_lexicon, tokens
from genrec.serve.columns import Columns


def find(facets: Facets, text: str, *, any_word: bool = False) -> tuple[int, Trait | None]:
    return facets.find(tokens(text), 0, any_word=any_word)


@pytest.mark.parametrize(
    ("text", "length", "column", "value"),
    [
        ("mugs", 1, "category", "mug"),
        ("Maison Lorne things", 2, "brand", "maison lorne"),
        ("maren co", 2, "brand", "maren & co"),
        ("wool", 1, "material", "wool"),
        ("anoraks", 1, "category", "jacket"),  # another word for it
        ("striped", 1, None, "stripe"),
        ("plaid", 1, None, "plaid"),
        ("blue", 1, None, "blue"),
    ],
)
def test_what_words_name(
    facets: Facets, text: str, length: int, column: str | None, value: str
) -> None:
    taken, trait = find(facets, text)
    assert trait is not None
    assert (taken, trait.column, trait.value) == (length, column, value)


def test_what_is_no_trait(facets: Facets) -> None:
    for text in ("the", "rainy", "elegant", "12", ",", "rain"):
        assert find(facets, text) == (0, None), text
    taken, trait = find(facets, "rain", any_word=True)  # descriptions hold it
    assert taken == 1
    assert trait == Trait("rain", None, "rain")
    unknown = find(facets, "<img>javascript", any_word=True)[1]
    assert unknown is not None
    assert unknown.name == ""  # nobody's word is repeated


def test_having(facets: Facets, catalogue: pl.DataFrame) -> None:
    blue = find(facets, "blue")[1]
    assert blue is not None
    assert np.flatnonzero(facets.having(blue)).tolist() == [1, 2, 6, 9]
    mug = Trait("mug", "category", "mug")
    assert np.flatnonzero(facets.having(mug)).tolist() == [0, 1, 2, 3, 4]
    assert facets.telling(mug).tolist() == facets.having(mug).tolist()


def test_telling_is_wider_than_having(catalogue: pl.DataFrame) -> None:
    spoken = pl.when(pl.col("item") == 3).then(pl.lit("Also in navy.")).otherwise("description")
    told = catalogue.with_columns(description=spoken)
    facets = Facets(Columns(told), load_lexicon())
    navy = facets.find(tokens("navy"), 0)[1]
    assert navy is not None
    assert np.flatnonzero(facets.having(navy)).tolist() == [1, 6, 9]
    assert np.flatnonzero(facets.telling(navy)).tolist() == [1, 3, 6, 9]


def test_numbers(facets: Facets) -> None:
    assert facets.measured("price") == "price"
    assert facets.measured("year") is None
    assert facets.within(Range("price", 20, 40)).nonzero()[0].tolist() == [1, 2, 3]
    assert facets.within(Range("price", 20, 40, strict=True)).nonzero()[0].tolist() == [2]


def test_a_catalogue_without_words_or_numbers() -> None:
    items = pl.DataFrame(
        {
            "item": [0, 1],
            "item_id": ["a", "b"],
            "title": ["", "Red"],
            "description": ["", ""],
            "image": [None, None],
            "price": ["$1,200.50", None],
            "genres": [["Drama", "War"], None],
        },
        schema_overrides={"image": pl.String},
    )
    facets = Facets(Columns(items), load_lexicon())
    assert facets.kind == "genres"
    assert facets.within(Range("price", high=1200.5)).tolist() == [True, False]
    war = facets.find(tokens("war"), 0)[1]
    assert war == Trait("War", "genres", "war")
    assert facets.having(war).tolist() == [True, False]
