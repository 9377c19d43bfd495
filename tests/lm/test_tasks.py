"""Tasks: each task's units, expansions against plain slicing, shortening."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, strategies as st

from genrec import registry, schema
from genrec.lm.settings import Compose, Tasks
from genrec.lm.tasks import Corpus, Options, kind_words, shorten, sid_segments
from genrec.schema import Segment

TASKS = registry.parts("tasks")


def sids_of(segments):
    return [segment.sid for segment in segments]


def line(length: int) -> Corpus:
    """One user who takes items 0, 1, 2, ... in order; item i has the SID (i,)."""
    items = pl.DataFrame(
        {
            "item": range(20),
            "item_id": [str(i) for i in range(20)],
            "title": [f"t{i}" for i in range(20)],
        }
    )
    one = pl.DataFrame(
        {"user": [0], "history": [list(range(length - 1))], "target": [length - 1]},
        schema=dict(schema.SPLIT),
    )
    return Corpus(items, np.arange(20)[:, None], one, one)


def test_the_eight_of_the_paper_are_on_and_the_rest_off():
    tasks = Tasks()
    assert set(dict(tasks)) == set(TASKS)
    both = Compose().active({"caption", "mine"})
    assert set(both) == {
        *("history_to_sid", "title_to_sid", "sid_to_title"),
        *("history_to_title", "titles_to_title", "titles_to_sid"),
        *("caption_to_sid", "caption_to_title"),
    }
    assert all(options["rate"] == 1.0 for options in both.values())
    stages = {"caption": "captions", "mine": "interests", None: None}
    for name, task in tasks:
        assert stages[task.needs] == TASKS[name].needs
        assert (getattr(task, "expand", None),) == (TASKS[name].expand or (None,))[:1]


def test_every_task_says_itself_in_several_ways_and_no_two_alike():
    said = {}
    for name, task in TASKS.items():
        assert len(task.template.instruct) >= 4
        for variant in (*task.template.compact, *task.template.instruct):
            form = variant.prompt
            for kind, names in {"T": ("title", "titles", "caption", "interest", "query")}.items():
                for slot in names:
                    form = form.replace(f"{{{slot}}}", kind)
            form = form.replace("{history}", "S").replace("{sid}", "S")
            assert said.setdefault(form, name) == name, f"{name} asks as {said[form]}: {form!r}"
    assert len(said) == sum(
        len(t.template.compact) + len(t.template.instruct) for t in TASKS.values()
    )


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


@given(length=st.integers(1, 9), max_history=st.integers(1, 9), last=st.booleans())
def test_words_and_sids_of_a_history_stand_for_the_same_items(length, max_history, last):
    corpus = line(length)
    options = Options(expand="last" if last else "prefix", max_history=max_history)

    def units(name):
        (unit,) = TASKS[name].units(corpus, options)
        return unit

    ends = range(1, length)[-1:] if last else range(1, length)
    past = [list(range(max(0, end - max_history), end)) for end in ends]
    titles = [[Segment(text=f"t{i}\n", entry=True) for i in items] for items in past]
    sids = [[(i,) for i in items] for items in past]
    assert [list(slots["titles"]) for slots in units("titles_to_sid")] == titles
    assert [list(slots["titles"]) for slots in units("titles_to_title")] == titles
    assert [sids_of(slots["history"]) for slots in units("history_to_title")] == sids
    for name in ("history_to_title", "titles_to_title"):
        assert [slots["target"][0].text for slots in units(name)] == [f"t{end}" for end in ends]
    assert [sids_of(slots["target"]) for slots in units("titles_to_sid")] == [[(e,)] for e in ends]


def test_a_failed_caption_makes_no_example(corpus):
    for name in ("caption_to_sid", "caption_to_title", "sid_to_caption"):
        units = list(TASKS[name].units(corpus, Options()))
        assert len(units) == 24, "every fifth of thirty has none"
    ((slots,), *_) = TASKS["caption_to_title"].units(corpus, Options(max_text=12))
    assert slots["caption"][0].text == "a blue"
    assert slots["target"][0].text == "thing number"
    assert list(TASKS["interest_to_sid"].units(corpus, Options()))[:3] == [
        [],
        [{"interest": (Segment(text="use 1"),), "target": (Segment(sid=(0, 1)),)}],
        [
            {"interest": (Segment(text=f"{kind} 2"),), "target": (Segment(sid=(0, 2)),)}
            for kind in ("use", "gift")
        ],
    ]


def test_a_query_is_what_a_thing_is_and_what_it_is_for(corpus):
    titles = ["Acme Travel Mug 350 ml", "Blue Mug for Travel", "Zorro Lamp", "42"]
    assert kind_words(titles) == ["travel mug", "mug travel", "zorro lamp", ""]
    _, (slots,), *_ = TASKS["query_to_sid"].units(corpus, Options())
    assert slots["query"][0].text == "thing number use 1"


@pytest.mark.parametrize(
    ("part", "stage"), [("sids", "quantize"), ("captions", "caption"), ("interests", "mine")]
)
def test_parts_must_match_items(corpus, part, stage):
    with pytest.raises(ValueError, match=f"{part} has 3 rows and items 30.*run {stage} again"):
        replace(corpus, **{part: getattr(corpus, part)[:3]})


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


@given(length=st.integers(1, 14), max_history=st.integers(1, 6), data=st.data())
def test_windows_slide_over_the_whole_history(length, max_history, data):
    stride = data.draw(st.none() | st.integers(1, max_history))
    options = Options(expand="window", max_history=max_history, stride=stride)
    (unit,) = TASKS["history_to_sid"].units(line(length), options)
    windows = [[i for (i,) in sids_of((*s["history"], *s["target"]))] for s in unit]
    assert all(len(slots["history"]) == 1 for slots in unit)
    assert all(w == list(range(w[0], w[-1] + 1)) and len(w) <= max_history + 1 for w in windows)
    targets = Counter(i for window in windows for i in window[1:])
    assert set(targets) == set(range(1, length))
    if length > 1:
        assert windows[-1][-1] == length - 1
    if stride is None:
        assert set(targets.values()) <= {1}, "each next item once"
    steps = {late[-1] - early[-1] for early, late in pairwise(windows)}
    assert steps <= {stride or max_history}
    if stride == 1 and length > max_history:
        full = [list(range(i, i + max_history + 1)) for i in range(length - max_history)]
        assert windows == full, "classic: every stretch of so many items"


def test_a_short_history_has_one_window_which_is_its_stream():
    for length in (2, 5, 6):
        window, stream = (
            list(TASKS["history_to_sid"].units(line(length), Options(expand=e, max_history=5)))
            for e in ("window", "stream")
        )
        assert window == stream
