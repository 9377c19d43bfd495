"""One contract for every task, those of other packages that are installed too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from genrec import registry
from genrec.lm.batch import IGNORED, code_token_ids, encode_example
from genrec.lm.compose import questions, train_examples
from genrec.lm.settings import Compose, Tasks
from genrec.lm.tasks import STREAMED, Corpus, Options, Task, TaskSettings
from genrec.prompts import STYLES, Style
from genrec.schema import Example

TASKS: dict[str, Task] = registry.parts("tasks")
STAGES = {"captions": "caption", "interests": "mine", None: None}


@pytest.fixture(params=TASKS, scope="module")
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


@pytest.fixture(scope="module")
def shop(corpus: Corpus) -> Corpus:
    """The corpus with a text in each column; all of them spell a SID."""
    items = corpus.items.with_columns(description=pl.format("made of <b_2>, no. {}", "item"))
    assert corpus.captions is not None
    captions = [caption and f"{caption} <a_3>" for caption in corpus.captions]
    return replace(corpus, items=items, captions=captions)


def composed(
    task: Task, corpus: Corpus, style: Style = "instruct", **options: Any
) -> list[Example]:
    chosen = {task.name: {"rate": 1.0} | options}
    return list(train_examples(corpus, chosen, style=style, seed=0))


def sids(example: Example) -> list[tuple[int, ...]]:
    return [part.sid for part in (*example.prompt, *example.completion) if part.sid is not None]


def test_it_is_named_in_the_list_and_in_recipes(task: Task) -> None:
    assert TASKS[task.name] is task
    assert task.description, "`genrec list` shows it"
    assert Tasks.model_fields[task.name].default == task.settings
    assert Tasks.model_fields[task.name].description == task.description


def test_its_settings_are_those_that_it_can_be_composed_with(task: Task, shop: Corpus) -> None:
    assert isinstance(task.settings, TaskSettings)
    assert task.settings.needs == STAGES[task.needs]
    defaults = task.settings.model_dump()
    assert defaults.pop("rate") in (None, 0, 1)
    assert defaults.get("expand") == (task.expand or (None,))[0]
    assert composed(task, shop, **defaults)
    recipe = Compose.model_validate({"tasks": {task.name: {"rate": 0.5}}})
    active = recipe.active({"caption", "mine"})[task.name]
    assert active == defaults | {"rate": 0.5}


@pytest.mark.parametrize("style", STYLES)
def test_its_template_has_its_slots_and_its_units_fill_them(
    task: Task, shop: Corpus, style: Style
) -> None:
    assert task.template.variants(style)
    units = [unit for unit in task.units(shop, Options()) if unit]
    assert units
    for slots in units[0]:
        assert set(slots) == {*task.prompt, *task.completion}
    for example in composed(task, shop, style):
        assert example.task == task.name
        assert example.prompt
        assert example.completion


@pytest.mark.parametrize("style", STYLES)
def test_sids_stay_sids_and_texts_stay_texts(
    task: Task, shop: Corpus, scratch: Any, style: Style
) -> None:
    _, tokenizer, *_ = scratch()
    codes = code_token_ids(tokenizer, [8, 8])
    ids = {int(token) for level in codes for token in level}
    known = set(map(tuple, shop.sids.tolist()))
    for example in composed(task, shop, style)[:20]:
        assert set(sids(example)) <= known
        encoded = encode_example(tokenizer, codes, example, max_length=4096)
        written = sum(token in ids for token in encoded["input_ids"])
        assert written == 2 * len(sids(example)), "no text spells a SID token"
        assert any(label != IGNORED for label in encoded["labels"])


def test_each_way_to_expand_it(task: Task, shop: Corpus) -> None:
    for way in task.expand:
        examples = composed(task, shop, expand=way)
        if way not in STREAMED and sids(examples[0]) and examples[0].completion[0].sid:
            assert all(len(example.completion) == 1 for example in examples)
    for wrong in ({"expand": "sideways"}, {"unknown": 1}):
        with pytest.raises(ValueError, match=f"tasks.{task.name}"):
            composed(task, shop, **wrong)


def test_rates_are_passes_over_its_units(task: Task, shop: Corpus) -> None:
    once = composed(task, shop)
    assert composed(task, shop) == once, "the same seed, the same examples"
    twice = composed(task, shop, rate=2.0)
    assert len(twice) == 2 * len(once)
    assert twice[: len(once)] == once
    if len(task.template.instruct) > 1:
        pairs = zip(once, twice[len(once) :], strict=True)
        assert all(a.prompt != b.prompt for a, b in pairs), "the second pass has other words"
    with pytest.raises(ValueError, match="no task takes part"):
        composed(task, shop, rate=0.0)


def test_what_it_is_made_of_must_be_there(task: Task, shop: Corpus) -> None:
    if task.needs is None:
        assert composed(task, replace(shop, captions=None, interests=None))
        return
    with pytest.raises(ValueError, match=rf"{task.name}.*set {STAGES[task.needs]}.engine"):
        composed(task, replace(shop, **{task.needs: None}))


def test_its_probe_asks_once_for_each_item(task: Task, shop: Corpus) -> None:
    if task.probe is None:
        return
    texts = shop.captions if task.probe.column == "caption" else shop.items[task.probe.column]
    assert texts is not None
    with_text = [item for item, text in enumerate(texts) if text]
    asked = questions(task.name, shop, style="instruct")
    assert len(asked) == len(with_text)
    own_sids = [tuple(shop.sids[item].tolist()) for item in with_text]
    assert [sids(example) for example in asked] == [[sid] for sid in own_sids]
    answers = [example.completion[0] for example in asked]
    assert all(a.sid if task.probe.way == "find" else a.text for a in answers)
