"""Tasks: each task's units, expansions against plain slicing, shortening."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec import schema
from genrec.lm.tasks import TASKS, Corpus, Options, shorten, sid_segments
from genrec.prompts import STYLES
from genrec.schema import Segment


def sids_of(segments):
    return [segment.sid for segment in segments]


def line(length: int) -> Corpus:
    """One user who takes items 0, 1, 2, ... in order; item i has the SID (i,)."""
    items = pl.DataFrame(
        {"item": range(20), "item_id": [str(i) for i in range(20)], "title": ["t"] * 20}
    )
    one = pl.DataFrame(
        {"user": [0], "history": [list(range(length - 1))], "target": [length - 1]},
        schema=dict(schema.SPLIT),
    )
    return Corpus(items, np.arange(20)[:, None], one, one)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("style", STYLES)
def test_every_task_has_a_template_and_fills_it(corpus, name, style):
    task = TASKS[name]
    assert task.template.variants(style)
    units = [unit for unit in task.units(corpus, Options()) if unit]
    assert units
    for slots in units[0]:
        assert set(slots) == {*task.prompt, *task.completion}


@given(length=st.integers(1, 9), max_history=st.integers(1, 9))
def test_expansions_are_slices_of_the_sequence(length, max_history):
    corpus, sequence = line(length), [(i,) for i in range(length)]

    def expand(kind):
        options = Options(expand=kind, max_history=max_history)
        (unit,) = TASKS["history_to_sid"].units(corpus, options)
        return [(sids_of(slots["history"]), sids_of(slots["target"])) for slots in unit]

    prefixes = [
        (sequence[max(0, end - max_history) : end], [sequence[end]]) for end in range(1, length)
    ]
    assert expand("prefix") == prefixes
    assert expand("last") == prefixes[-1:]
    kept = sequence[-(max_history + 1) :]
    assert expand("stream") == ([(kept[:1], kept[1:])] if len(kept) > 1 else [])


def test_stream_targets_are_all_the_prefix_targets():
    # The same next items are learned, in one example instead of seven.
    corpus = line(8)
    history = TASKS["history_to_sid"].units
    (stream,) = history(corpus, Options(expand="stream"))
    (prefix,) = history(corpus, Options(expand="prefix"))
    assert len(stream) == 1
    assert sids_of(stream[0]["target"]) == [sids_of(slots["target"])[0] for slots in prefix]


def test_item_tasks_have_one_unit_per_item(corpus):
    (first, *rest) = TASKS["title_to_sid"].units(corpus, Options(max_text=12))
    assert first == [{"title": (Segment(text="thing number"),), "target": (Segment(sid=(0, 0)),)}]
    assert len(rest) == corpus.items.height - 1
    (last,) = list(TASKS["sid_to_title"].units(corpus, Options()))[-1]
    assert last["sid"] == (Segment(sid=(3, 5)),)
    assert last["target"] == (Segment(text="thing number 29 <a_1> blue"),)


def test_sids_must_match_items(corpus):
    with pytest.raises(ValueError, match="sids has 3 rows and items 30"):
        Corpus(corpus.items, corpus.sids[:3], corpus.train, corpus.valid)


def test_sid_segments_hold_plain_ints():
    (segment,) = sid_segments(np.array([[1, 2]], dtype=np.int32))
    assert segment == Segment(sid=(1, 2))
    assert all(type(code) is int for code in segment.sid)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("a red lamp", 10, "a red lamp"),
        ("a red lamp", 9, "a red"),
        ("a red lamp", 5, "a red"),
        ("a red lamp", 4, "a"),
        ("unbreakable", 5, "unbre"),
        ("two\n lines\tand  tabs", 99, "two lines and tabs"),
    ],
)
def test_shorten_cuts_between_words(text, limit, expected):
    assert shorten(text, limit) == expected


@given(text=st.text("ab \n", max_size=40), limit=st.integers(1, 20))
def test_shorten_keeps_the_limit_and_a_prefix(text, limit):
    short = shorten(text, limit)
    assert len(short) <= limit
    assert " ".join(text.split()).startswith(short)
