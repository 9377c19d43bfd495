"""What a message means: kinds of turns, and what each asks for."""

import pytest
from hypothesis import given, settings, strategies as st

from genrec.serve.chat.facets import Facets, Order, Range
from genrec.serve.chat.reading import Shown
from genrec.serve.chat.turns import Kind, Turn, read_turn

WORDS = (
    *(
        "not",
        "no",
        "only",
        "cheaper",
        "under",
        "40",
        "-",
        ",",
        "and",
        "or",
        "like",
        "the",
        "second",
    ),
    *(
        "#",
        "2",
        "more",
        "why",
        "between",
        "20",
        "mug",
        "red",
        "striped",
        "for",
        "from",
        "than",
        "i",
    ),
    *(
        "what",
        "is",
        "one",
        "€",
        "it",
        "last",
        "<a_1><b_2>",
        "\x00",
        "'",
        "instead",
        "stars",
        "don't",
        "show",
        "three",
        "cheapest",
    ),
)
MUGS = Shown((0, 1, 2, 3, 4))  # prices 10 to 50


def after_mugs(facets: Facets, text: str, focus: int | None = None) -> Turn:
    return read_turn(text, facets, MUGS._replace(focus=focus), wished=True)


def wanted(turn: Turn) -> list[str]:
    return [trait.value for trait in turn.parsed.wanted]


def unwanted(turn: Turn) -> list[str]:
    return [trait.value for trait in turn.parsed.unwanted]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a light jacket for rainy rides", Kind.WISH),
        ("I am looking for lamps", Kind.WISH),
        ("something elegant for a studio flat", Kind.REFINE),
        ("cheaper", Kind.REFINE),
        ("not red", Kind.REFINE),
        ("striped please", Kind.REFINE),
        ("only lamps", Kind.REFINE),
        ("lamps instead", Kind.REFINE),
        ("the cheapest lamp", Kind.WISH),
        ("show me 3 lamps", Kind.WISH),
        ("show me 3 striped ones", Kind.REFINE),
        ("only 3 lamps", Kind.REFINE),
        ("start over", Kind.TALK),
        ("start over, something striped", Kind.WISH),
        ("recommend something", Kind.WISH),
        ("surprise me", Kind.WISH),
        ("in wool", Kind.REFINE),
        ("from Calder", Kind.REFINE),
        ("under 40", Kind.REFINE),
        ("something warmer", Kind.REFINE),
        ("not the second", Kind.REFINE),
        ("cheaper than the second", Kind.REFINE),
        ("more", Kind.MORE),
        ("show me others please", Kind.MORE),
        ("something else", Kind.MORE),
        ("more like the second", Kind.ALIKE),
        ("similar to number 2", Kind.ALIKE),
        ("something like the dotted one", Kind.ALIKE),
        ("I like the third", Kind.LIKE),
        ("I'll take 2", Kind.LIKE),
        ("what is the second one made of?", Kind.QUESTION),
        ("how much is the last?", Kind.QUESTION),
        ("tell me about #3", Kind.QUESTION),
        ("the second", Kind.QUESTION),
        ("which is the cheapest?", Kind.QUESTION),
        ("is the third one waterproof?", Kind.QUESTION),
        ("is the second one red?", Kind.QUESTION),
        ("why the second?", Kind.WHY),
        ("why?", Kind.WHY),
        ("hello", Kind.TALK),
        ("thank you very much", Kind.TALK),
        ("what can you do?", Kind.TALK),
        ("", Kind.TALK),
        ("?!", Kind.TALK),
        ("please", Kind.TALK),
    ],
)
def test_kinds(facets: Facets, text: str, kind: Kind) -> None:
    assert after_mugs(facets, text).kind is kind


@pytest.mark.parametrize(
    "text", ["cheaper", "not red", "more like the second", "the second", "striped", "lamps"]
)
def test_without_a_list_there_is_nothing_to_refine(facets: Facets, text: str) -> None:
    assert read_turn(text, facets, Shown(), wished=False).kind in (Kind.WISH, Kind.TALK)


@pytest.mark.parametrize(
    ("text", "says", "denies"),
    [
        ("a blue striped mug for a camper", ["blue", "stripe", "mug"], []),
        ("not red", [], ["red"]),
        ("no red or green ones", [], ["red", "green"]),
        ("not red, blue or green", [], ["red", "blue", "green"]),
        ("without stripes and dots", [], ["stripe", "dot"]),
        ("not red, striped please", ["stripe"], ["red"]),
        ("not red and striped", ["stripe"], ["red"]),
        ("not red but green", ["green"], ["red"]),
        ("anything but wool", [], ["wool"]),
        ("I don't want a lamp", [], ["lamp"]),
        ("no, a striped one", ["stripe"], []),
        ("a mug for my red lamp", ["mug"], []),  # what it is for is not what it is
        ("a mug for my lamp, red please", ["mug", "red"], []),
        ("a jacket for days without sun", ["jacket"], []),
        ("nothing unheardof", [], []),
    ],
)
def test_traits(facets: Facets, text: str, says: list[str], denies: list[str]) -> None:
    turn = after_mugs(facets, text)
    assert wanted(turn) == says
    assert unwanted(turn) == denies


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("under 40", Range("price", high=40)),
        ("below $ 39.95", Range("price", high=39.95)),
        ("max 40 euros", Range("price", high=40)),
        ("under 1,299", Range("price", high=1299)),
        ("under 1,299.50 euros", Range("price", high=1299.5)),
        ("under 39,99 €", Range("price", high=39.99)),
        ("40 or less", Range("price", high=40)),
        ("at least 15", Range("price", low=15)),
        ("between 20 and 40", Range("price", 20, 40)),
        ("from 40 to 20 euros", Range("price", 20, 40)),
        ("20-40 euro", Range("price", 20, 40)),
        ("around 50", Range("price", 40, 60)),
        ("cheaper", Range("price", high=30, strict=True)),
        ("that is too expensive", Range("price", high=30, strict=True)),
        ("more expensive", Range("price", low=30, strict=True)),
        ("cheaper than the second", Range("price", high=20, strict=True)),
        ("cheaper than 35", Range("price", high=35)),
    ],
)
def test_bounds(facets: Facets, text: str, bounds: Range) -> None:
    assert after_mugs(facets, text).parsed.ranges == [bounds]


@pytest.mark.parametrize(
    "text", ["under 500 ml", "for 2 people", "a mug with 3 handles", "i need 2"]
)
def test_numbers_that_are_no_price(facets: Facets, text: str) -> None:
    assert after_mugs(facets, text).parsed.ranges == []


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("what about the first", (0,)),
        ("what is number 2 made of", (1,)),
        ("tell me about the last one", (4,)),
        ("describe the dotted one", (3,)),
        ("describe the red one", ()),  # two are red
        ("how much is the ninth", ()),
        ("why 2", (1,)),
        ("more like 2 and 3", (1, 2)),
        ("i like the green one", (3,)),
    ],
)
def test_items_of_the_list(facets: Facets, text: str, items: tuple[int, ...]) -> None:
    turn = after_mugs(facets, text)
    assert turn.items == items


@pytest.mark.parametrize(
    ("text", "listed", "count"),
    [
        ("show me 3 mugs", True, 3),
        ("show me three striped mugs under 30", True, 3),
        ("5 ideas", True, 5),
        ("two more", True, 2),
        ("one more", True, 1),
        ("a dozen suggestions please", True, 12),
        ("show me 3 like the second", True, 3),
        ("your top 3 please", True, 3),
        ("the best 4 under 30", True, 4),
        ("the 2 cheapest mugs", True, 2),
        ("give me 7", False, 7),
        ("give me 7", True, None),  # the seventh of the list, if it were as long
        ("show me 3", True, None),
        ("show me 50 euros mugs", True, None),
        ("find me 2 person tents", True, None),
        ("the best 1999 mugs", True, None),
        ("a mug with 2 handles", True, None),
        ("the one with stripes", False, None),
        ("the 2 mugs", False, None),
        ("I need 6 mugs", True, None),  # to buy, not to look at
        ("not 3 mugs", True, None),
        ("show me 0 mugs", True, None),
    ],
)
def test_how_many_are_asked_for(facets: Facets, text: str, listed: bool, count: int | None) -> None:
    shown = MUGS if listed else Shown()
    assert read_turn(text, facets, shown, wished=listed).parsed.count == count


@pytest.mark.parametrize(
    ("text", "kind", "least"),
    [
        ("the cheapest mug", Kind.WISH, True),
        ("what are the most expensive lamps you have", Kind.WISH, False),
        ("which is the cheapest?", Kind.QUESTION, True),  # of the list
        ("the cheapest ones", Kind.REFINE, True),
        ("cheapest first", Kind.REFINE, True),
        ("cheaper", Kind.REFINE, None),
        ("newest", Kind.REFINE, None),  # the shop knows no year
    ],
)
def test_extremes_put_in_order(facets: Facets, text: str, kind: Kind, least: bool | None) -> None:
    turn = after_mugs(facets, text)
    assert turn.kind is kind
    assert turn.parsed.order == (None if least is None else Order("price", least))


@pytest.mark.parametrize(
    ("text", "items", "dropped"),
    [
        ("more like the cheapest", (0,), []),
        ("I'll take the most expensive one", (4,), []),
        ("not the cheapest one", (), [0]),
    ],
)
def test_the_extreme_of_the_list(
    facets: Facets, text: str, items: tuple[int, ...], dropped: list[int]
) -> None:
    turn = after_mugs(facets, text)
    assert (turn.items, turn.parsed.dropped, turn.parsed.order) == (items, dropped, None)


def test_which_of_the_list_or_of_the_shop(facets: Facets) -> None:
    assert after_mugs(facets, "which is the most expensive?").items == MUGS.items
    assert after_mugs(facets, "which is the most expensive striped one?").items == (0, 1)
    assert after_mugs(facets, "which jacket is the most expensive?").kind is not Kind.QUESTION


def test_it_is_what_was_spoken_of(facets: Facets) -> None:
    assert after_mugs(facets, "what is it made of?", focus=2).items == (2,)
    alone = read_turn("how much is it?", facets, Shown((5,)), wished=True)
    assert (alone.kind, alone.items) == (Kind.QUESTION, (5,))


def test_not_the_second(facets: Facets) -> None:
    turn = after_mugs(facets, "not the second")
    assert turn.parsed.dropped == [1]


def test_topics(facets: Facets) -> None:
    for text, topic in (
        ("what is the first made of?", "material"),
        ("how much is the first?", "price"),
        ("which brand is the first?", "brand"),
        ("what colour is the first?", "looks"),
        ("which one is the most expensive?", "price.most"),
    ):
        assert after_mugs(facets, text).topic == topic, text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(WORDS),
        max_size=25,
    )
)
def test_any_order_of_the_words_is_read(facets: Facets, words: list[str]) -> None:
    turn = after_mugs(facets, " ".join(words))
    assert set(turn.items) <= set(MUGS.items)
    assert len(turn.parsed.wanted) <= 12
