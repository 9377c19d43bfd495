"""The context of events in prompts: its words, where it stands, and that no target's is ever said."""

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from genrec.lm.batch import IGNORED, code_token_ids, encode_prompts
from genrec.lm.compose import compose, examples_of, prompt_for, prompt_in_sets, render
from genrec.lm.context import EventContext, UserProfile
from genrec.lm.corpus import encode_examples
from genrec.prompts import STYLES
from genrec.schema import Segment, read_examples, write_examples

DAY = 24 * 3600 * 10**9
MONDAY = 1_704_067_200 * 10**9  # 2024-01-01

# Tasks and ways that ask for one item; streams ask for many, and have tests of their own.
ASKING = [
    *(("history_to_sid", way) for way in ("prefix", "last")),
    *((task, way) for task in ("history_to_title", "titles_to_sid") for way in ("prefix", "last")),
    *(("titles_to_title", way) for way in ("prefix", "last")),
]


def log(**columns) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    place = {} if "place" in columns else {"place": [0] * count}
    return pl.DataFrame({**place, "timestamp": [MONDAY] * count} | columns)


def written(names, events, style="compact", fitted=None):
    return EventContext.fit(names, style, events if fitted is None else fitted).texts(events)


def test_gaps_are_bucketed_within_a_history() -> None:
    gaps = [0, 59, 60, 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400]
    times = [MONDAY + sum(gaps[: n + 1]) * 10**9 for n in range(len(gaps))]
    events = log(timestamp=[*times, MONDAY, MONDAY - 1], place=[0] * len(gaps) + [1, 1])
    words = ["seconds", "minutes", "hours", "days", "weeks", "months", "years"]
    # The first has none before it, and one that is earlier than the one before says nothing.
    assert written(["gap"], events) == [None, *(f" gap{word}" for word in words), None, None]


def test_weekday_and_month() -> None:
    events = log(timestamp=[MONDAY, MONDAY + 6 * DAY, MONDAY + 31 * DAY])
    assert written(["weekday", "month"], events) == [
        " weekdayMonday monthJanuary",
        " weekdaySunday monthJanuary",
        " weekdayThursday monthFebruary",
    ]


def test_few_numbers_have_a_word_each_and_many_a_tenth() -> None:
    few = log(stars=[1.0, 5.0, 4.5, None, 4.5])
    assert written(["stars"], few) == [" starsone", " starsthree", " starstwo", None, " starstwo"]
    many = log(price=[float(n) for n in range(100)])
    said = written(["price"], many)
    assert said[0] == " priceone"
    assert said[99] == " priceten"
    assert {said.count(word) for word in said} == {10}


def test_levels_are_those_of_what_is_learned_from() -> None:
    fitted = log(stars=[1.0, 2.0, 3.0])
    assert written(["stars"], log(stars=[0.0, 2.5, 99.0]), fitted=fitted) == [
        *(" starsone", " starsthree", " starsthree")
    ]


def test_texts_are_as_they_are_on_one_short_line() -> None:
    events = log(event=["view", None, "a\nb " + "x" * 99])
    view, nothing, long = written(["event"], events)
    assert (view, nothing) == (" eventview", None)
    assert long.startswith(" eventa b xxx")
    assert len(long) == len(" event") + 60


def test_instruct_says_it_in_words_and_leaves_out_what_is_not_known() -> None:
    times = [MONDAY, MONDAY + DAY, MONDAY + DAY]
    events = log(stars=[1.0, None, None], timestamp=times, place=[0, 0, 1])
    assert written(["stars", "gap"], events, "instruct") == [" (stars one)", " (gap days)", None]


def test_somebody_may_describe_events() -> None:
    context = EventContext(("stars", "event", "gap", "weekday"), "compact", {"stars": [1.0, 2.0]})
    events = [
        {"stars": 2, "timestamp": "2024-01-01T10:00:00Z"},
        {"event": "buy", "timestamp": datetime(2024, 1, 3, 9)},  # of UTC
        {"timestamp": "2024-01-03T11:00:00+01:00", "stars": None},
        {"stars": 9.5},
    ]
    assert context.said(events) == [
        *(" starstwo weekdayMonday", " eventbuy gapdays weekdayWednesday"),
        *(" gaphours weekdayWednesday", " starsthree"),
    ]
    assert context.said([]) == []
    alone = EventContext(("event",), "compact", {})
    assert alone.said([{}, {"event": "view"}]) == [None, " eventview"]
    for event, message in (
        ({"rating": 4}, r"event 0: no \['rating'\].*\['stars', 'event', 'timestamp'\]"),
        ({"stars": "4"}, "event 0: stars '4'; expected a number"),
        ({"timestamp": 17e8}, "event 0: timestamp 17.*; expected such as 2026"),
        ({"timestamp": "soon"}, "event 0: timestamp 'soon'"),
    ):
        with pytest.raises(ValueError, match=message):
            context.said([event])
    with pytest.raises(ValueError, match=r"no \['timestamp'\] in prompts; expected \['event'\]"):
        alone.said([{"timestamp": "2024-01-01"}])


def test_it_is_added_history_by_history() -> None:
    split = pl.DataFrame({"user": [7, 8, 9], "history": [[1, 2], [], [3]], "target": [4, 5, 6]})
    events = log(event=["a", "b", "c"], place=[0, 0, 2])
    table = EventContext(("event",), "compact", {}).added(split, events)
    assert table.columns == ["user", "history", "target", "context"]
    assert table["context"].to_list() == [[" eventa", " eventb"], [], [" eventc"]]


@pytest.fixture
def told(corpus):
    """The corpus, with a context at each event that names its user and place."""

    def added(split):
        context = [
            [f" c{user}p{place}" for place in range(len(history))]
            for user, history in split.select("user", "history").iter_rows()
        ]
        return split.with_columns(pl.Series("context", context))

    return replace(corpus, train=added(corpus.train), valid=added(corpus.valid))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("task", "expand"), ASKING)
def test_a_target_is_asked_for_with_the_context_of_all_before_and_not_its_own(
    told, task, expand, style
) -> None:
    options = {task: {"expand": expand}}
    examples, _ = compose(told, options, style=style, seed=0, max_history=4)
    plain = replace(told, train=told.train.drop("context"))
    bare, _ = compose(plain, options, style=style, seed=0, max_history=4)
    expected = []
    for user, history in told.train.select("user", "history").iter_rows():
        targets = range(1, len(history) + 1) if expand == "prefix" else [len(history)]
        expected += [[f"c{user}p{place}" for place in range(max(0, t - 4), t)] for t in targets]
    said = [re.findall(r"c\d+p\d+", "".join(p.text or "" for p in e.prompt)) for e in examples]
    assert said == expected
    assert [e.completion for e in examples] == [e.completion for e in bare]


def test_the_whole_form_of_a_stream(told) -> None:
    train, valid = compose(told, {"history_to_sid": {}}, style="compact", seed=0, max_history=3)
    sid = [tuple(map(int, row)) for row in told.sids]
    # User 3 takes the items 3, 4, ... and the last of them is the target.
    items = [3, 4, 5, 6, 7, 8]
    history = told.train["history"][3].to_list()
    assert [*history, told.train["target"][3]] == items[: len(history) + 1]
    last = len(history)
    places = range(max(0, last - 3), last)
    whole = (*train[3].prompt, *train[3].completion)
    assert whole == (
        *(Segment(sid=sid[items[place]], text=f" c3p{place}") for place in places),
        Segment(sid=sid[items[last]]),
    )
    known = told.valid["history"][3].to_list()
    assert valid[3].prompt == tuple(
        Segment(sid=sid[item], text=f" c3p{place}") for place, item in list(enumerate(known))[-3:]
    )
    assert valid[3].completion == (Segment(sid=sid[told.valid["target"][3]]),)


@pytest.mark.parametrize("expand", ["stream", "window"])
def test_what_precedes_a_streamed_target_is_the_prompt_at_test_time(told, expand) -> None:
    train, _ = compose(
        told, {"history_to_sid": {"expand": expand}}, style="compact", seed=0, max_history=3
    )
    for example in train:
        whole = (*example.prompt, *example.completion)
        for known in range(1, len(whole)):
            before = whole[:known]
            asked = prompt_for(
                [part.sid for part in before], [part.text for part in before], style="compact"
            )
            assert asked == before
        assert whole[-1].text is None


def test_a_history_without_context_is_written_as_ever(told, corpus) -> None:
    sids = told.sids[[1, 2]]
    assert prompt_for(sids, style="compact") == prompt_for(sids, [None, None], style="compact")
    bare = list(examples_of(corpus.sids, corpus.valid, style="instruct"))
    empty = corpus.valid.with_columns(pl.lit([], pl.List(pl.String)).alias("context"))
    assert list(examples_of(corpus.sids, empty, style="instruct")) == bare
    both = prompt_in_sets(
        [told.sids, told.sids], [1, 2], [" x", None], style="compact", max_history=9
    )
    assert both == (prompt_for(sids, [" x", None], style="compact"),) * 2


def test_titles_carry_it_on_their_line(told) -> None:
    (example, *_), _ = compose(told, {"titles_to_sid": {}}, style="compact", seed=0)
    assert example.prompt[0] == Segment(text="thing number 0 <a_1> blue c0p0\n", entry=True)


def test_it_is_stored_and_rendered(told, tmp_path) -> None:
    train, _ = compose(told, {"history_to_sid": {}}, style="compact", seed=0)
    write_examples(tmp_path / "t.parquet", train)
    assert read_examples(tmp_path / "t.parquet") == train
    assert render(train[0])[:2] == [("<a_0><b_0> c0p0", False), ("<a_0><b_1> c0p1", True)]


def test_the_loss_is_on_codes_alone_and_events_go_whole(told, scratch) -> None:
    _, tokenizer, *_ = scratch()
    tokens = code_token_ids(tokenizer, [8, 8])
    codes = {int(token) for level in tokens for token in level}
    train, valid = compose(told, {"history_to_sid": {}}, style="compact", seed=0)
    data = encode_examples(tokenizer, tokens, train, max_length=10**6).data
    for row, example in zip(data, train, strict=True):
        learned = [label for label in row["labels"] if label != IGNORED]
        wanted = [
            int(tokens[level][code])
            for part in example.completion
            for level, code in enumerate(part.sid)
        ]
        assert learned == wanted
    events = valid[5].prompt
    whole, _ = encode_prompts(tokenizer, tokens, [events], max_length=10**6)
    start = whole[0].tolist()
    ends = [n for n, token in enumerate(start) if token in codes][::2]  # where each event begins
    for limit in range(len(start) - ends[-1] + ends[0], len(start)):
        cut, _ = encode_prompts(tokenizer, tokens, [events], max_length=limit)
        kept = next(n for n in ends if len(start) - n + ends[0] <= limit)
        assert cut[0].tolist() == start[: ends[0]] + start[kept:]


def people(**columns) -> pl.DataFrame:
    return pl.DataFrame({"user": range(len(next(iter(columns.values()))))} | columns)


def test_a_profile_says_what_is_known_with_levels_of_those_learned_from() -> None:
    learned = people(age=[20.0, 30.0, 40.0], country=["DE", None, "FR"])
    everybody = people(age=[None, 35.0, 99.0], country=["DE", " new\nland ", None])
    for style, expected in (
        ("compact", [" countryDE", " agethree countrynew land", " agethree"]),
        (
            "instruct",
            ["(user: country DE)", "(user: age three, country new land)", "(user: age three)"],
        ),
    ):
        profile = UserProfile.fit(("age", "country"), style, learned)
        assert profile.texts(everybody) == expected
        assert profile.said({"age": 35, "country": "new land"}) == expected[1]
        assert profile.said({"country": None}) is None
    for attributes, message in (
        ({"sex": "f"}, r"no \['sex'\] in prompts; expected \['age', 'country'\]"),
        ({"age": "35"}, "age '35'; expected a number"),
    ):
        with pytest.raises(ValueError, match=message):
            profile.said(attributes)


def test_what_is_said_is_written_as_a_table_has_it() -> None:
    profile = UserProfile(("member",), "compact", {})
    for value, word in ((True, "true"), (10115, "10115"), (10115.0, "10115"), (0.5, "0.5")):
        assert profile.said({"member": value}) == f" member{word}"
    for unfit in (float("nan"), ["a"]):
        with pytest.raises(ValueError, match="expected a text"):
            profile.said({"member": unfit})
    numbers = UserProfile(("age",), "compact", {"age": [20.0]})
    assert numbers.said({"age": np.int64(35)}) == " agetwo"


@pytest.fixture
def known(told):
    """The corpus with context, and a profile of every user but each third."""

    def added(split):
        return split.with_columns(
            profile=pl.when(pl.col("user") % 3 > 0).then(pl.format(" who{}", "user"))
        )

    return replace(told, train=added(told.train), valid=added(told.valid))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("task", "expand"), [*ASKING, *(("history_to_sid", way) for way in ("stream", "window"))]
)
def test_a_profile_stands_once_and_before_all_items(known, task, expand, style) -> None:
    options = {task: {"expand": expand}}
    examples, _ = compose(known, options, style=style, seed=0, max_history=3)
    plain = replace(known, train=known.train.drop("profile"))
    bare, _ = compose(plain, options, style=style, seed=0, max_history=3)
    said = set()
    for example, without in zip(examples, bare, strict=True):
        whole = "".join(text for text, _ in render(example))
        found = re.findall(r" who\d+\n?", whole)
        said |= set(found)
        if found:
            (profile,) = found
            first = re.search(r"<a_\d+><b|thing number", whole)
            assert whole.index(profile) + len(profile) == first.start()
            whole = whole.replace(profile, "")
        assert whole == "".join(text for text, _ in render(without))
        assert example.completion == without.completion
    end = "\n" if task.startswith("titles") else ""
    users = known.train.filter(pl.col("profile").is_not_null())
    assert said == {f"{profile}{end}" for profile in users["profile"]}


def test_the_prompt_at_test_time_begins_as_a_stream_does(known) -> None:
    train, valid = compose(known, {"history_to_sid": {}}, style="compact", seed=0, max_history=3)
    for example, profile in zip(train, known.train["profile"], strict=True):
        whole = (*example.prompt, *example.completion)
        items = whole[1:] if profile else whole
        for count in range(1, len(items)):
            before = items[:count]
            asked = prompt_for(
                *([part.sid for part in before], [part.text for part in before], profile),
                style="compact",
            )
            assert asked == whole[: len(whole) - len(items) + count]
    for example, profile in zip(valid, known.valid["profile"], strict=True):
        assert (example.prompt[0].text == profile) == (profile is not None)
    assert prompt_for([], (), " who1", style="compact") == (Segment(text=" who1"),)


def test_a_profile_is_no_target_and_stays_where_items_go(known, scratch) -> None:
    _, tokenizer, *_ = scratch()
    tokens = code_token_ids(tokenizer, [8, 8])
    train, _ = compose(known, {"history_to_sid": {}}, style="compact", seed=0)
    example = max(train, key=lambda e: len(e.completion) * (e.prompt[0].sid is None))
    whole, bare = (
        encode_examples(tokenizer, tokens, [e], max_length=10**6).data[0]
        for e in (example, replace(example, prompt=example.prompt[1:]))
    )
    learned, same = ([n for n in row["labels"] if n != IGNORED] for row in (whole, bare))
    assert learned == same
    begin = whole["input_ids"][: 1 + whole["length"] - bare["length"]]
    cut = encode_examples(tokenizer, tokens, [example], max_length=whole["length"] - 1).data[0]
    assert cut["length"] < whole["length"]
    assert cut["input_ids"][: len(begin) - 1] == begin[:-1]
