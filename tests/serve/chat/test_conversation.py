"""Where a conversation stands, from its messages alone."""

import json

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec.serve.chat.conversation import State, converse
from genrec.serve.chat.facets import Facets, Range
from genrec.serve.chat.messages import Message
from genrec.serve.chat.titles import Titles


def state_after(facets: Facets, titles: Titles, *said: str | list[int]) -> State:
    """Words are the user's; numbers are a list that was shown."""
    messages = [
        Message(role="user", content=one)
        if isinstance(one, str)
        else Message(role="assistant", recommendations=[{"id": f"i{n:02d}"} for n in one])
        for one in said
    ]
    return converse(messages, facets, titles)[0]


def names(traits: tuple) -> list[str]:
    return [trait.value for trait in traits]


def test_refinements_add_up(facets: Facets, titles: Titles) -> None:
    mugs = [0, 1, 2, 3, 4]
    state = state_after(
        facets, titles, "a striped mug", mugs, "not red", mugs, "under 40", mugs, "in enamel"
    )
    assert names(state.wanted) == ["stripe", "mug"]
    assert names(state.firm) == ["enamel"]
    assert names(state.unwanted) == ["red"]
    assert state.ranges == (Range("price", high=40),)
    assert state.text == "striped mug enamel"


def test_the_newest_word_counts(facets: Facets, titles: Titles) -> None:
    mugs = [0, 1, 2, 3, 4]
    red = state_after(facets, titles, "a blue mug", mugs, "in red")
    assert (names(red.wanted), names(red.firm), red.text) == (["mug"], ["red"], "mug red")
    lamps = state_after(facets, titles, "a blue mug", mugs, "only lamps")
    assert (names(lamps.wanted), names(lamps.firm)) == (["blue"], ["lamp"])
    no_blue = state_after(facets, titles, "a blue mug", mugs, "not blue")
    assert (names(no_blue.wanted), no_blue.text) == (["mug"], "mug")
    again = state_after(facets, titles, "a mug", mugs, "not red", mugs, "red after all, in red")
    assert names(again.unwanted) == []
    cheaper = state_after(facets, titles, "a mug", mugs, "under 40", mugs, "cheaper")
    assert cheaper.ranges == (Range("price", high=30, strict=True),)


def test_start_over(facets: Facets, titles: Titles) -> None:
    said = ("a red mug under 30", [0, 2], "I like the first", [1, 2])
    assert state_after(facets, titles, *said).liked == (0,)
    assert state_after(facets, titles, *said, "start over") == State()
    state = state_after(facets, titles, *said, "start over: something striped")
    assert names(state.wanted) == ["stripe"]
    assert (state.ranges, state.liked, state.shown) == ((), (), ())


def test_a_new_wish_begins_anew(facets: Facets, titles: Titles) -> None:
    state = state_after(
        *(
            facets,
            titles,
            "a striped mug under 30",
            [0, 1],
            "not red",
            [1],
            "I like the first",
            [1],
        ),
        "I need a jacket for long mountain hikes",
    )
    assert names(state.wanted) == ["jacket"]
    assert (state.unwanted, state.ranges, state.seen) == ((), (), ())
    assert state.liked == (1,)  # what was chosen stays known


def test_what_was_shown(facets: Facets, titles: Titles) -> None:
    state = state_after(facets, titles, "a mug", [0, 1], "more", [2, 3], "more like the second")
    assert (state.shown, state.seen, state.alike) == ((2, 3), (0, 1, 2, 3), (3,))
    asked = state_after(facets, titles, "a mug", [0, 1], "what is the second made of?")
    assert (asked.shown, asked.focus) == ((0, 1), 1)
    turned_down = state_after(facets, titles, "a mug", [0, 1], "not the second")
    assert turned_down.dropped == (1,)


def test_three_ways_to_say_what_was_shown(titles: Titles) -> None:
    text = "Here:\n\n1. Calder No1 Enamel Mug · 20.00 · A mug.\n2. Daylo No7 Linen Lamp\n3. Nobody"
    arguments = json.dumps({"recommendations": [{"id": "i01"}, {"id": "nope"}, {"id": "i07"}]})
    call = {"id": "c", "function": {"name": "recommend", "arguments": arguments}}
    other = {"id": "c", "function": {"name": "weather", "arguments": arguments}}
    for message, items in (
        (Message(role="assistant", content=text), (1, 7)),
        (Message(role="assistant", tool_calls=[call]), (1, 7)),
        (Message(role="assistant", tool_calls=[other]), ()),
        (Message(role="assistant", recommendations=["i01", {"item": {"id": "i07"}}]), (1, 7)),
        (Message(role="assistant", content=text, recommendations=[{"id": "i02"}]), (2,)),
        (Message(role="assistant", recommendations=[3, None, {"id": 4}, {"id": "../x"}]), ()),
        (Message(role="assistant", content="1. <a_1><b_2>\n2. Calder"), ()),
    ):
        assert titles.shown_by(message) == items


@given(st.lists(st.text(max_size=130), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_names_are_distinct_lines_that_read_back(given_titles: list[str]) -> None:
    ids = [f"x{n}" for n in range(len(given_titles))]
    own = Titles(pl.DataFrame({"title": given_titles, "item_id": ids}))
    assert len(set(own.names)) == len(ids)
    lines = [f"{n}. {name} · 9.95 · A picture · for x" for n, name in enumerate(own.names, 1)]
    text = "An intro.\n\n" + "\n".join(lines)
    if not any(" · " in name for name in own.names):
        assert own.shown_by(Message(role="assistant", content=text)) == tuple(range(len(ids)))


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
def test_only_users_wish(facets: Facets, titles: Titles, role: str) -> None:
    state, turn = converse([Message(role=role, content="a red mug")], facets, titles)  # type: ignore[arg-type]
    assert turn is None
    assert state == State()


def test_the_same_messages_mean_the_same(facets: Facets, titles: Titles) -> None:
    said: list[str | list[int]] = [
        "a striped mug",
        [0, 1, 2],
        "cheaper",
        [0],
        "not steel",
        [1],
        "more like the first",
    ]
    assert state_after(facets, titles, *said) == state_after(facets, titles, *said)
