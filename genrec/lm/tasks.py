"""What the LLM learns: tasks, each one small function over the corpus and one template file.

A task turns each of its units (a user or an item) into slots, pieces of text and SIDs; the template
says what stands around them. SIDs stay SID segments all the way (design decision 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
import polars as pl

from genrec.prompts import Template, load_template
from genrec.schema import Segment

Expand = Literal["stream", "prefix", "last"]
Segments = tuple[Segment, ...]
Slots = Mapping[str, Segments]


@dataclass(frozen=True)
class Corpus:
    """What tasks read.

    Attributes:
        items: table `schema.ITEMS`, row i is item i.
        sids: int [N, L], row i is the SID of item i.
        train: table `schema.SPLIT`; nothing else of the interactions is ever trained on.
        valid: table `schema.SPLIT`.
    """

    items: pl.DataFrame
    sids: np.ndarray
    train: pl.DataFrame
    valid: pl.DataFrame

    def __post_init__(self) -> None:
        if len(self.sids) != self.items.height:
            raise ValueError(
                f"sids has {len(self.sids)} rows and items {self.items.height}; expected one SID "
                "per item: run quantize again"
            )


@dataclass(frozen=True)
class Options:
    """How one task is composed.

    Attributes:
        rate: expected passes over the task's units: 1.0 all, 0.5 a seeded half, 2.0 all twice, the
            second time in other words.
        expand: SID history only. `stream`: one example per user in which every next item is a
            target; `prefix`: one example per next item; `last`: the last item only.
        max_history: items of history in a prompt; the oldest go first.
        max_text: characters of an item's text.
    """

    rate: float = 1.0
    expand: Expand = "stream"
    max_history: int = 50
    max_text: int = 300


@dataclass(frozen=True)
class Task:
    """A task: which placeholders its template has, and what fills them.

    Attributes:
        name: also the name of the template, `prompts/tasks/<name>.yaml`.
        units: yields one list of slots per user or item; each slots mapping is one example.
        prompt: placeholders of the prompt.
        completion: placeholders of the completion.
        options: the options, beside `rate`, that mean something to this task.
    """

    name: str
    units: Callable[[Corpus, Options], Iterator[list[Slots]]]
    prompt: tuple[str, ...]
    completion: tuple[str, ...] = ("target",)
    options: frozenset[str] = field(default_factory=frozenset)

    @property
    def template(self) -> Template:
        """The task's template, checked; read once per process."""
        return _template(self)


def history_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """SID history to the next item's SID: the task that recommends."""
    for items in _sequences(corpus.train):
        sids = _sids(corpus, items)
        yield list(_EXPANSIONS[options.expand](sids, options.max_history))


def title_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's title to its SID."""
    for item, title in enumerate(corpus.items["title"]):
        text = Segment(text=shorten(title, options.max_text))
        yield [{"title": (text,), "target": _sids(corpus, [item])}]


def sid_to_title(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's SID to its title."""
    for item, title in enumerate(corpus.items["title"]):
        text = Segment(text=shorten(title, options.max_text))
        yield [{"sid": _sids(corpus, [item]), "target": (text,)}]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("history_to_sid", history_to_sid, ("history",), options=frozenset({"expand"})),
        Task("title_to_sid", title_to_sid, ("title",)),
        Task("sid_to_title", sid_to_title, ("sid",)),
    )
}


def sid_segments(sids: np.ndarray | Sequence[Sequence[int]]) -> Segments:
    """Returns one SID segment per row of int [n, L]."""
    return tuple(Segment(sid=tuple(int(code) for code in sid)) for sid in sids)


def shorten(text: str, max_characters: int) -> str:
    """Returns `text` on one line, cut after the last whole word within `max_characters`."""
    text = " ".join(text.split())
    if len(text) <= max_characters:
        return text
    head = text[: max_characters + 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head[:max_characters]).rstrip()


def _stream(sids: Segments, max_history: int) -> Iterator[Slots]:
    # One more than max_history: the newest item is a target only.
    sids = sids[-(max_history + 1) :]
    if len(sids) > 1:
        yield {"history": sids[:1], "target": sids[1:]}


def _prefix(sids: Segments, max_history: int) -> Iterator[Slots]:
    for end in range(1, len(sids)):
        yield {"history": sids[max(0, end - max_history) : end], "target": sids[end : end + 1]}


def _last(sids: Segments, max_history: int) -> Iterator[Slots]:
    yield from list(_prefix(sids, max_history))[-1:]


_EXPANSIONS: Mapping[str, Callable[[Segments, int], Iterator[Slots]]] = {
    "stream": _stream,
    "prefix": _prefix,
    "last": _last,
}


@lru_cache
def _template(task: Task) -> Template:
    return load_template(f"tasks/{task.name}", prompt=task.prompt, completion=task.completion)


def _sequences(split: pl.DataFrame) -> Iterator[list[int]]:
    for history, target in split.select("history", "target").iter_rows():
        yield [*history, target]


def _sids(corpus: Corpus, items: Sequence[int]) -> Segments:
    return sid_segments(corpus.sids[np.asarray(items, dtype=np.int64)])
