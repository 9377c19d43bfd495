"""No words come through that name an item which is not in the list."""

from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import given, strategies as st

from genrec.bundle import Bundle
from genrec.serve.chat.lexicon import load_lexicon
from genrec.serve.chat.names import Names

TITLES = [
    "Calder Anda Steel Mug",
    "Calder Anda Wool Blanket",
    "Pikko Bero Lamp",
    "Aurvik Halcyne Steel Lamp, 300 ml",
    "Toy Story (1995)",
    "The Matrix",
    "In the Mood for Love",
    "Heat",
    "Up",
    "Ångström Éclat Vase",
    "東京タワー ランプ",
]
TEXTS = [""] * 9 + ["Perfect, and perfect for vases.", "a warm lamp for rainy days"]
FACTS = ["Calder Anda Steel Mug", "A red mug of steel", "winter camping", "Pikko Bero Lamp"]


@pytest.fixture(scope="module")
def names() -> Names:
    return Names(pl.DataFrame({"title": TITLES, "description": TEXTS}), load_lexicon())


@pytest.mark.parametrize(
    "text",
    [
        "Aurvik makes fine things.",  # the first word of a sentence
        "They suit you. Aurvik does too.",
        "Take the aurvik halcyne steel lamp.",  # small letters
        "Take the AURVIK-HALCYNE!",
        "Take the Aur\u200bvik Halcyne.",  # a letter of no width
        "Take the 𝐀𝐮𝐫𝐯𝐢𝐤 𝐇𝐚𝐥𝐜𝐲𝐧𝐞.",
        "Zyxxon is better.",  # nobody's, at the beginning
        "You may prefer the Zyxxon.",
        "Warm: Zyxxon.",
        "Take the calder anda wool blanket.",  # begins like one of the list
        "Both are like toy story.",
        "As in the matrix.",
        "They are for those in the mood for love.",
        "Like Heat.",
        "Heat is better.",
        "They look Up.",
        "The ångström éclat is fine.",
        "Also Ångström.",
        "Also 東京タワー ランプ.",
        "Also ΑURVIK.",  # its first letter is Greek
    ],
)
def test_other_names_are_foreign(names: Names, text: str) -> None:
    assert names.foreign(text, FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "These suit winter camping.",
        "· is a red mug, and · gives light. I like both.",
        "The Calder Anda mug is of steel. Steel lasts. Winter camping is fun.",
        "Perfect for rainy days.",  # the catalogue writes it small
        "Both keep the heat, so look up!",
        '"Both," she said. "These are warm."',
        "",
    ],
)
def test_plain_words_are_not(names: Names, text: str) -> None:
    assert not names.foreign(text, FACTS)


FRAMES = st.sampled_from(
    ["{}", "These suit you, as does the {}.", "{} is better.", "Take the {}!", "(or {}?) Perhaps"]
)
LETTERS = st.sampled_from([str, str.lower, str.upper, str.title, lambda t: t.replace(" ", "-")])


@pytest.fixture(scope="module")
def of_shop(bundle: Bundle) -> Names:
    return Names(bundle.items, load_lexicon())


@given(data=st.data(), frame=FRAMES, letters=LETTERS)
def test_no_title_of_the_shop_comes_through(
    bundle: Bundle, of_shop: Names, data: st.DataObject, frame: str, letters: Callable[[str], str]
) -> None:
    rows = st.integers(0, len(bundle) - 1)
    listed, other = data.draw(st.lists(rows, min_size=1, max_size=5)), data.draw(rows)
    facts = [bundle.items["title"][row] for row in listed]
    title = bundle.items["title"][other]
    if title not in facts:
        assert of_shop.foreign(frame.format(letters(title)), facts)
    assert not of_shop.foreign(f"These suit you, as does the {facts[0]}.", facts)
