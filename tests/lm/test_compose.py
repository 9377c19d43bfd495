"""Composing: rates, variants, seeds, the validation prompts, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from genrec import registry
from genrec.lm import compose as composing
from genrec.lm.compose import compose, prompt_for, render
from genrec.prompts import STYLES, Variant
from genrec.schema import Example, Segment, read_examples, write_examples

TASKS = registry.parts("tasks")


def made(corpus, tasks, *, style="instruct", seed=0, **changes):
    return compose(corpus, tasks, style=style, seed=seed, **changes)


def counts(examples):
    return Counter(example.task for example in examples)


def test_a_streamed_history_is_one_example_per_user(corpus):
    train, _ = made(corpus, {"history_to_sid": {}}, style="compact")
    assert len(train) == corpus.train.height
    sids = [tuple(int(c) for c in corpus.sids[item]) for item in (0, 1, 2)]
    assert train[0] == Example(
        "history_to_sid",
        (Segment(sid=sids[0]),),
        (Segment(sid=sids[1]), Segment(sid=sids[2])),
    )


def test_rates_are_expected_passes(corpus):
    for rate, expected in ((0.0, 0), (0.5, 15), (1.0, 30), (2.0, 60), (2.5, 75)):
        tasks = {"title_to_sid": {"rate": rate}, "sid_to_title": {}}
        assert counts(made(corpus, tasks)[0])["title_to_sid"] == expected


def test_a_second_pass_uses_other_words(corpus):
    train, _ = made(corpus, {"title_to_sid": {"rate": 2.0}})
    first, second = train[:30], train[30:]
    assert [e.completion for e in first] == [e.completion for e in second]
    assert all(a.prompt != b.prompt for a, b in zip(first, second, strict=True))


def test_every_variant_is_used(corpus):
    train, _ = made(corpus, {"title_to_sid": {}})
    used = {example.prompt[0].text.split("thing")[0] for example in train}
    assert len(used) == len(TASKS["title_to_sid"].template.instruct)


def test_same_seed_same_examples(corpus, tmp_path):
    tasks = {"title_to_sid": {"rate": 0.5}, "history_to_sid": {"expand": "prefix"}}
    tasks["titles_to_sid"] = {"expand": "prefix"}
    one, again, other = (made(corpus, tasks, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one[0] != other[0]
    write_examples(tmp_path / "train.parquet", one[0])
    assert read_examples(tmp_path / "train.parquet") == one[0]


@pytest.mark.parametrize("style", STYLES)
def test_validation_prompts_are_the_prompts_of_recommend(corpus, style):
    _, valid = made(corpus, {"history_to_sid": {}}, style=style, max_history=5)
    assert len(valid) == corpus.valid.height
    for example, row in zip(valid, corpus.valid.iter_rows(named=True), strict=True):
        sids = corpus.sids[row["history"]]
        assert example.prompt == prompt_for(sids[-5:], style=style)
        assert example.prompt == prompt_for(sids, style=style, max_history=5)
        assert example.completion == (Segment(sid=tuple(corpus.sids[row["target"]].tolist())),)


@pytest.mark.parametrize("style", STYLES)
def test_a_stream_looks_like_a_prompt_at_test_time(corpus, style):
    # Whatever precedes the k-th target in training must be the prompt for those k items, or the
    # model would be asked at test time what it never saw.
    first_variant = TASKS["history_to_sid"].template.variants(style)[0].prompt
    train, _ = made(corpus, {"history_to_sid": {}}, style=style)
    head = first_variant.removesuffix("{history}")
    mine = [e for e in train if (e.prompt[0].text or "") == head]
    assert mine
    for example in mine:
        whole = (*example.prompt, *example.completion)
        sids = np.array([s.sid for s in whole if s.sid])
        for known in range(1, len(sids)):
            expected = prompt_for(sids[:known], style=style)
            assert whole[: len(expected)] == expected
            assert whole[len(expected)] == Segment(sid=tuple(sids[known].tolist()))


def test_validation_has_a_row_for_a_user_without_history(corpus):
    history = [None if u == 3 else h for u, h in enumerate(corpus.valid["history"].to_list())]
    bare = corpus.valid.with_columns(
        pl.Series("history", history, dtype=pl.List(pl.Int32)).fill_null([])
    )
    changed = type(corpus)(corpus.items, corpus.sids, corpus.train, bare)
    _, valid = made(changed, {"history_to_sid": {}}, style="compact")
    assert len(valid) == corpus.valid.height
    assert valid[3].prompt == ()


def test_render_marks_the_targets(corpus):
    train, _ = made(corpus, {"sid_to_title": {}}, style="compact")
    assert render(train[9]) == [
        ("<a_1><b_1>", False),
        ("\n", False),
        ("thing number 9 <a_1> blue", True),
    ]


def test_neighbouring_texts_become_one_segment(corpus):
    train, _ = made(corpus, {"title_to_sid": {}}, style="compact")
    assert train[4].prompt == (Segment(text="thing number 4 <a_1> blue\n"),)


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ({"titel_to_sid": {}}, KeyError, "did you mean 'title_to_sid'"),
        ({"title_to_sid": {"expand": "stream"}}, ValueError, r"unknown \['expand'\]"),
        ({"title_to_sid": {"rate": -1}}, ValueError, "rate: -1, expected at least 0"),
        ({"history_to_sid": {"expand": "all"}}, ValueError, "expand: 'all', expected one of"),
        (
            {"history_to_sid": {"rate": 0}, "title_to_sid": {"rate": 0}},
            ValueError,
            r"no task takes part \(the rate of each is 0: history_to_sid, title_to_sid\).*rate=1",
        ),
        ({}, ValueError, r"no task takes part \(none is given\), so there is nothing to train on"),
        (
            {"title_to_sid": {"rate": 1e-9}, "sid_to_title": {"rate": 0}},
            ValueError,
            r"no training example from 30 items.*now title_to_sid 1e-09, sid_to_title 0\)",
        ),
        ({"titles_to_sid": {"expand": "stream"}}, ValueError, "expected one of last, prefix"),
    ],
)
def test_bad_tasks_say_how_to_mend(corpus, tasks, error, message):
    with pytest.raises(error, match=message):
        made(corpus, tasks)


def test_tasks_over_words_that_are_not_there_say_how_to_mend(corpus):
    bare = replace(corpus, captions=None, interests=None)
    for name, stage in (("caption_to_sid", "caption"), ("query_to_sid", "mine")):
        with pytest.raises(ValueError, match=rf"{stage}\.engine.*tasks\.{name}\.rate=0"):
            made(bare, {name: {"rate": 0.5}})
    train, _ = made(bare, {"history_to_sid": {}, "caption_to_sid": {"rate": 0}})
    assert set(counts(train)) == {"history_to_sid"}


def test_a_task_without_an_example_is_warned_of(corpus, caplog):
    none = replace(corpus, captions=[None] * len(corpus.captions))
    train, _ = made(none, {"history_to_sid": {}, "caption_to_sid": {}})
    assert set(counts(train)) == {"history_to_sid"}
    assert "caption_to_sid has no example; no item has captions" in caplog.text
    made(corpus, {"history_to_sid": {}, "caption_to_sid": {}})
    assert len(caplog.records) == 1


def test_the_titles_of_a_history_stay_apart(corpus):
    train, _ = made(corpus, {"titles_to_title": {}}, style="compact")
    assert train[0].prompt == (
        Segment(text="thing number 0 <a_1> blue\n", entry=True),
        Segment(text="thing number 1 <a_1> blue\n", entry=True),
        Segment(text="next title\n"),
    )
    assert train[0].completion == (Segment(text="thing number 2 <a_1> blue"),)
    told, _ = made(corpus, {"titles_to_sid": {}}, style="instruct")
    for example in told:
        head, *titles, tail = example.prompt
        assert [s.text.endswith(" blue\n") for s in titles] == [True] * len(titles)
        assert all(s.entry for s in titles)
        assert not head.entry
        assert not tail.entry


def test_only_training_interactions_are_composed(corpus):
    # User 0's training sequence ends at item 2, the validation target is item 4.
    tasks = {name: {} for name, task in TASKS.items() if task.expand}
    one = replace(corpus, train=corpus.train[:1])
    train, _ = made(one, tasks, style="compact")
    segments = [s for e in train for s in (*e.prompt, *e.completion)]
    assert {s.sid for s in segments if s.sid} == {(0, 0), (0, 1), (0, 2)}
    assert not [s.text for s in segments if s.text and ("number 3" in s.text or " 4 " in s.text)]


def test_a_template_that_cannot_stream_says_so():
    good = Variant(prompt="Next: {history}", completion="{target}")
    composing._check_streamable("history_to_sid", good)
    for bad in (
        Variant(prompt="{history} then", completion="{target}"),
        Variant(prompt="{history}", completion="{target}."),
    ):
        with pytest.raises(ValueError, match="prefix or last"):
            composing._check_streamable("history_to_sid", bad)


def test_windows_are_composed_and_their_stride_is_checked(corpus):
    def train(max_history, **options):
        return made(corpus, {"history_to_sid": options}, max_history=max_history)[0]

    assert train(50, expand="window") == train(50, expand="stream")
    once, every = (train(2, expand="window", stride=stride) for stride in (None, 1))
    targets = sum(len(e.completion) for e in train(50, expand="stream"))
    assert sum(len(e.completion) for e in once) == targets
    assert sum(len(e.completion) for e in every) > targets
    with pytest.raises(ValueError, match=r"stride: 3, expected 1 to max_history \(2\)"):
        train(2, expand="window", stride=3)
