"""Examples from tasks: passes, paraphrase variants, and the one prompt form used at test time."""

from __future__ import annotations

import difflib
import logging
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import polars as pl

from genrec import registry
from genrec.lm.tasks import (
    STREAMED,
    Corpus,
    Options,
    Segments,
    Slots,
    Task,
    opening,
    rows_of,
    shorten,
    sid_segments,
)
from genrec.prompts import Style, Variant, pieces
from genrec.schema import Example, Segment
from genrec.sid.codes import format_sid

logger = logging.getLogger(__name__)

_STAGES = {"captions": "caption", "interests": "mine"}  # the stage that makes the texts of a task


def compose(
    corpus: Corpus,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    style: Style,
    seed: int,
    max_history: int = 50,
    max_text: int = 300,
) -> tuple[list[Example], list[Example]]:
    """Composes the examples to train and to validate on.

    Args:
        corpus: items, SIDs and splits.
        tasks: task name to its options, as `{"history_to_sid": {"rate": 1.0, "expand": "stream"}}`;
            a rate of 0 leaves a task out.
        style: which variants of the templates.
        seed: chooses units where a rate is fractional, and the variant of each example.
        max_history: items of history in a prompt.
        max_text: characters of an item's text.

    Returns:
        Train examples, in the order of `tasks`, then pass, then unit; and validation examples, row
        by row those of `corpus.valid`: first variant of `history_to_sid`, history, target.

    Raises:
        KeyError: an unknown task.
        ValueError: an option that the task does not have or a value out of bounds, a template that
            cannot be streamed, a task over texts that the corpus lacks, or no example at all.
    """
    train = train_examples(
        corpus, tasks, style=style, seed=seed, max_history=max_history, max_text=max_text
    )
    return list(train), list(valid_examples(corpus, style=style, max_history=max_history))


def train_examples(
    corpus: Corpus,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    style: Style,
    seed: int,
    max_history: int = 50,
    max_text: int = 300,
) -> Iterator[Example]:
    """Yields the examples to train on, one by one; see `compose`."""
    count = 0
    rates: dict[str, float] = {}
    for name, chosen in tasks.items():
        task = _task(name)
        options = _options(task, chosen, max_history=max_history, max_text=max_text)
        rates[name] = options.rate
        if options.rate == 0:
            continue
        _check_texts(task, corpus)
        variants = task.template.variants(style)
        if options.expand in STREAMED and task.expand:
            for variant in variants:
                _check_streamable(name, variant)
        before = count
        for example in _examples(task, corpus, options, variants, seed):
            count += 1
            yield example
        if count == before:
            logger.warning("compose: the task %s has no example; %s", name, _nothing(task))
    if not any(rates.values()):
        now = f"the rate of each is 0: {', '.join(rates)}" if rates else "none is given"
        raise ValueError(
            f"compose.tasks: no task takes part ({now}), so there is nothing to train on; set a rate "
            "above 0, such as compose.tasks.history_to_sid.rate=1"
        )
    if not count:
        now = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        raise ValueError(
            f"compose: no training example from {corpus.items.height} items and "
            f"{corpus.train.height} users; raise a rate in compose.tasks (now {now})"
        )


def valid_examples(corpus: Corpus, *, style: Style, max_history: int = 50) -> Iterator[Example]:
    """Yields the examples to validate on, one by one; see `compose`."""
    return examples_of(corpus.sids, corpus.valid, style=style, max_history=max_history)


def examples_of(
    sids: np.ndarray,
    split: pl.DataFrame,
    *,
    style: Style,
    max_history: int = 50,
) -> Iterator[Example]:
    """Yields users' histories and targets as the task that recommends: what is decoded later.

    Args:
        sids: int [N, L].
        split: table `schema.SPLIT`, as in `Corpus`.
        style: which variants; always the first one.
        max_history: items of history in a prompt.
    """
    for history, target, context, profile in rows_of(split):
        prompt = prompt_for(sids[history], context, profile, style=style, max_history=max_history)
        yield Example("history_to_sid", prompt, sid_segments(sids[[target]]))


def _nothing(task: Task) -> str:
    if task.needs:
        return f"no item has {task.needs}: genrec show RECIPE {_STAGES[task.needs]} says why"
    return "its histories are too short, or its rate is too low"


def prompt_for(
    history_sids: np.ndarray | Sequence[Sequence[int]],
    context: Sequence[str | None] = (),
    profile: str | None = None,
    *,
    style: Style,
    max_history: int | None = None,
) -> Segments:
    """Returns the prompt that asks for the next item, the same in validation, test and serving.

    Args:
        history_sids: int [H, L], the SIDs of the user's items, oldest first.
        context: of the H events, as `EventContext` writes it; empty: nothing is said of any.
        profile: of the user, as `UserProfile` writes it; None: nothing is said.
        style: which variants; always the first one of `history_to_sid`.
        max_history: keep this many of the newest items; None keeps all.
    """
    sids = sid_segments(history_sids, context)
    if max_history is not None:
        sids = sids[-max_history:]
    variant = _task("history_to_sid").template.variants(style)[0]
    return _fill(variant.prompt, {"history": (*opening(profile), *sids)})


def prompt_in_sets(
    sets: Iterable[np.ndarray],
    items: Sequence[int],
    context: Sequence[str | None] = (),
    profile: str | None = None,
    *,
    style: Style,
    max_history: int | None,
) -> Segments | tuple[Segments, ...]:
    """Returns the prompt of a history; with several sets of SIDs one in each, as decoding takes them.

    Args:
        sets: the SIDs of each set, int [N, L].
        items: numbers of the history's items, oldest first.
        context: as of `prompt_for`.
        profile: as there.
        style: as of `prompt_for`.
        max_history: as there.
    """
    wording: dict[str, Any] = {"style": style, "max_history": max_history}
    prompts = tuple(prompt_for(sids[list(items)], context, profile, **wording) for sids in sets)
    return prompts if len(prompts) > 1 else prompts[0]


def words_prompt(
    text: str, tasks: Collection[str], *, style: Style, max_text: int
) -> Segments | None:
    """Returns the prompt that asks a trained model for an item by a free text, as a search does.

    Args:
        text: the query; it stays text, whatever it spells.
        tasks: those that the model was trained on; the one nearest to a search lends its form.
        style: which variants; always the first one.
        max_text: characters of the text that are kept.

    Returns:
        None if no task taught the model to read a text.
    """
    for name in ("query_to_sid", "interest_to_sid", "caption_to_sid", "title_to_sid"):
        if name in tasks:
            task = _task(name)
            slots = {task.prompt[0]: (Segment(text=shorten(text, max_text)),)}
            return _fill(task.template.variants(style)[0].prompt, slots)
    return None


def questions(name: str, corpus: Corpus, *, style: Style, max_text: int = 300) -> list[Example]:
    """Returns one task over every unit, in its template's first variant: what a trained model is asked.

    Args:
        name: the task.
        corpus: only the items to ask about; a caption task passes those without one over.
        style: which variants; always the first one.
        max_text: characters of an item's text.

    Raises:
        KeyError: an unknown task.
    """
    task = _task(name)
    variant = task.template.variants(style)[0]
    return list(_examples(task, corpus, Options(max_text=max_text), [variant], seed=0))


def render(example: Example) -> list[tuple[str, bool]]:
    """Returns the example as (text, is_target) parts: what `genrec show` prints in color."""
    return [
        (("" if part.sid is None else format_sid(part.sid)) + (part.text or ""), is_target)
        for parts, is_target in ((example.prompt, False), (example.completion, True))
        for part in parts
    ]


def _task(name: str) -> Task:
    tasks: dict[str, Task] = registry.parts("tasks")
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(tasks)}"
        raise KeyError(f"compose.tasks: unknown task '{name}'; {hint}")
    return tasks[name]


def _options(task: Task, chosen: Mapping[str, Any], **limits: Any) -> Options:
    known = ["rate", *(["expand"] if task.expand else [])]
    known += ["stride"] if "window" in task.expand else []
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"compose.tasks.{task.name}: unknown {unknown}; expected {known}")
    default = {"expand": task.expand[0]} if task.expand else {}
    options = Options(**{**default, **chosen, **limits})
    if task.expand and options.expand not in task.expand:
        raise ValueError(
            f"compose.tasks.{task.name}.expand: '{options.expand}', expected one of "
            f"{', '.join(task.expand)}"
        )
    for name, value, least in (
        (f"tasks.{task.name}.rate", options.rate, 0),
        ("max_history", options.max_history, 1),
        ("max_text", options.max_text, 1),
    ):
        if value < least:
            raise ValueError(f"compose.{name}: {value}, expected at least {least}")
    if options.stride is not None and not 1 <= options.stride <= options.max_history:
        raise ValueError(
            f"compose.tasks.{task.name}.stride: {options.stride}, expected 1 to max_history "
            f"({options.max_history}), or some next items would be no target"
        )
    return options


def _examples(
    task: Task,
    corpus: Corpus,
    options: Options,
    variants: Sequence[Variant],
    seed: int,
) -> Iterator[Example]:
    """Yields the examples of all passes; a unit's next pass takes its next variant.

    Units are made anew in every pass, and once to be counted, for together they may be more than
    memory holds.
    """

    def units() -> Iterator[list[Slots]]:
        return (unit for unit in task.units(corpus, options) if unit)

    count = sum(1 for _ in units())
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode())])
    first = rng.integers(len(variants), size=count)
    for turn in range(math.ceil(options.rate)):
        share = min(1.0, options.rate - turn)
        chosen = np.zeros(count, dtype=bool)
        chosen[rng.permutation(count)[: round(share * count)]] = True
        for number, unit in compress(enumerate(units()), chosen):
            for position, slots in enumerate(unit):
                variant = variants[(first[number] + turn + position) % len(variants)]
                yield Example(
                    task.name,
                    _fill(variant.prompt, slots),
                    _fill(variant.completion, slots),
                )


def _fill(text: str, slots: Slots) -> Segments:
    """Puts slots into a template text; neighbouring texts become one, but for a history's items."""
    parts: list[Segment] = []
    for literal, name in pieces(text):
        parts += [Segment(text=literal)] if literal else []
        parts += slots[name] if name else ()
    merged: list[Segment] = []
    for part in parts:
        if merged and _is_plain(merged[-1]) and _is_plain(part):
            merged[-1] = Segment(text=f"{merged[-1].text}{part.text}")
        else:
            merged.append(part)
    return tuple(merged)


def _is_plain(part: Segment) -> bool:
    return part.sid is None and not part.entry


def _check_texts(task: Task, corpus: Corpus) -> None:
    if task.needs and getattr(corpus, task.needs) is None:
        stage = _STAGES[task.needs]
        raise ValueError(
            f"compose.tasks.{task.name} is made of {task.needs}, and there are none: set "
            f"{stage}.engine, so that the stage {stage} makes them, or "
            f"compose.tasks.{task.name}.rate=0"
        )


def _check_streamable(name: str, variant: Variant) -> None:
    if pieces(variant.prompt)[-1][1] != "history" or variant.completion != "{target}":
        raise ValueError(
            f"prompts/tasks/{name}.yaml: a streamed history needs prompts that end with {{history}} and "
            f"the completion '{{target}}', found '{variant.prompt}' -> '{variant.completion}'; "
            "change the template or set expand to prefix or last"
        )
