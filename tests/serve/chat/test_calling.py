"""Items that are called by their names: which words do, and what a message makes of them."""

import re

import polars as pl
import pytest

from genrec.serve.chat.conversation import State, converse
from genrec.serve.chat.facets import Facets, Range
from genrec.serve.chat.lexicon import load_lexicon, tokens
from genrec.serve.chat.messages import Message
from genrec.serve.chat.reading import Shown
from genrec.serve.chat.sayings import load_sayings
from genrec.serve.chat.titles import Titles
from genrec.serve.chat.turns import Kind, read_turn
from genrec.serve.columns import Columns

FILMS = [
    ("Toy Story (1995)", "comedy"),
    ("Toy Story 2 (1999)", "comedy"),
    ("Star Wars: Episode IV - A New Hope (1977)", "sci-fi"),
    ("Star Wars: Episode V - The Empire Strikes Back (1980)", "space"),
    ("Iron Giant, The (1999)", "space"),
    ("Fargo (1996)", "crime"),
    ("Twelve Monkeys (a.k.a. 12 Monkeys) (1995)", "space"),
    ("Amélie (Le fabuleux destin d'Amélie Poulain) (2001)", "comedy"),
    ("Alien (1979)", "space"),
    ("Alien: Resurrection (1997)", "space"),
    ("Crime (1983)", "crime"),
    ("It (1990)", "horror"),
    ("Stanley - Wood Plane", "horror"),
    *((f"Thirteen Ghosts: Part {n}", "horror") for n in range(13)),
]


@pytest.fixture(scope="module")
def films() -> pl.DataFrame:
    rows = [
        {
            "item": n,
            "item_id": f"f{n}",
            "title": title,
            "description": None,
            "genre": genre,
            "year": int((re.search(r"\d{4}", title) or ["1950"])[0]),
        }
        for n, (title, genre) in enumerate(FILMS)
    ]
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def cinema(films: pl.DataFrame) -> Facets:
    return Facets(Columns(films), load_lexicon())


@pytest.mark.parametrize(
    ("text", "one_word", "taken", "rows"),
    [
        ("toy story", False, 2, [0]),
        ("Toy Story 2, please", False, 3, [1]),
        ("star wars", False, 2, [2, 3]),
        ("the iron giant", False, 3, [4]),
        ("Iron Giant", False, 2, [4]),
        ("12 monkeys", False, 2, [6]),
        ("twelve monkeys", False, 2, [6]),
        ("amelie", True, 1, [7]),
        ("AMÉLIE", True, 1, [7]),
        ("fargo", True, 1, [5]),
        ("fargo", False, 0, []),
        ("alien", True, 1, [8]),  # the whole title before the beginning of another
        ("it", True, 0, []),
        ("thirteen ghosts", False, 0, []),  # so many are no name
        ("alien resurrection", False, 2, [9]),
        ("stanley", True, 0, []),  # a brand: of a title's beginning one word is not enough
        ("story of toys", False, 0, []),
        (", toy story", False, 0, []),
    ],
)
def test_names(cinema: Facets, text: str, one_word: bool, taken: int, rows: list[int]) -> None:
    assert cinema.callings.find(tokens(text), 0, one_word=one_word) == (taken, rows)


@pytest.mark.parametrize(
    ("text", "kind", "items"),
    [
        ("something like Toy Story", Kind.ALIKE, (0,)),
        ("films like fargo or star wars", Kind.ALIKE, (5, 2, 3)),
        ("I loved Fargo, Toy Story 2 and The Iron Giant", Kind.LIKE, (5, 1, 4)),
        ("do you have star wars?", Kind.WISH, ()),
        ("tell me about star wars", Kind.QUESTION, (2, 3)),
        ("what is fargo about?", Kind.QUESTION, (5,)),
        ("what is crime?", Kind.WISH, ()),  # a genre, though a film is called so
        ("star wars", Kind.WISH, ()),
        ("Fargo?", Kind.WISH, ()),
    ],
)
@pytest.mark.parametrize("shown", [(), (11, 12)])
def test_turns(
    cinema: Facets, text: str, kind: Kind, items: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    turn = read_turn(text, cinema, Shown(shown), wished=False)
    assert (turn.kind, turn.items) == (kind, items)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("comedies of the 90s", 1990, 1999),
        ("something from the 1970s", 1970, 1979),
        ("the 2010's", 2010, 2019),
        ("00s", 2000, 2009),
        ("comedies from 1995", 1995, 1995),
        ("since 1995", 1995, float("inf")),
        ("from 1990 to 1995", 1990, 1995),
    ],
)
def test_years(cinema: Facets, text: str, low: float, high: float) -> None:
    parsed = read_turn(text, cinema, Shown(), wished=False).parsed
    assert parsed.ranges == [Range("year", low, high)]
    if low == high:
        assert load_sayings().bounds(parsed.ranges[0]) == "year 1995"
    assert "90s" not in [piece.word for piece in parsed.pieces]


def test_a_hyphen_may_be_left_out(cinema: Facets) -> None:
    for text in ("sci-fi", "sci fi", "Sci Fi films"):
        parsed = read_turn(text, cinema, Shown(), wished=False).parsed
        assert [trait.value for trait in parsed.wanted] == ["sci-fi"]


def test_the_list_before_the_shop(cinema: Facets) -> None:
    turn = read_turn("is the second about crime or fargo?", cinema, Shown((11, 12)), wished=True)
    assert (turn.kind, turn.items) == (Kind.QUESTION, (12,))


def state_after(cinema: Facets, films: pl.DataFrame, *said: str) -> State:
    messages = [Message(role="user", content=text) for text in said]
    return converse(messages, cinema, Titles(films))[0]


def test_states(cinema: Facets, films: pl.DataFrame) -> None:
    called = state_after(cinema, films, "star wars")
    assert (called.called, called.text, called.wanted) == ((2, 3), "star wars", ())
    assert state_after(cinema, films, "star wars", "not toy story").dropped == (0,)
    assert state_after(cinema, films, "star wars", "I hated Fargo").dropped == (5,)
    liked = state_after(cinema, films, "I saw fargo", "a comedy", "I've seen toy story")
    assert liked.liked == (5, 0)
    alike = state_after(cinema, films, "star wars", "comedies like toy story")
    assert (alike.called, alike.alike) == ((), (0,))
    assert state_after(cinema, films, "show me 12 monkeys").called == (6,)
    assert state_after(cinema, films, "show me 12 monkeys").count is None
