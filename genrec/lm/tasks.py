"""What the LLM learns: tasks, each one object, made by a decorator of the function that composes it.

A task turns each of its units (a user or an item) into slots, pieces of text and SIDs; its template
says what stands around them. SIDs stay SID segments all the way: no text can spell one. That there
are eight, two of them over captions, is TriAlignGR's; which six the others are is our reconstruction.
Other packages register theirs by the entry point group `genrec.tasks`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from genrec.prompts import Template, load_template
from genrec.schema import Segment
from genrec.settings import Section

Expand = Literal["stream", "window", "prefix", "last"]
Segments = tuple[Segment, ...]
Slots = Mapping[str, Segments]


@dataclass(frozen=True)
class Corpus:
    """What tasks read.

    Attributes:
        items: table `schema.ITEMS`, row i is item i.
        sids: int [N, L], row i is the SID of item i.
        train: table `schema.SPLIT`; nothing else of the interactions is ever trained on. A column
            `context`, a text or null per item of the history, is written beside the items; a column
            `profile`, a text or null, before the first of them.
        valid: likewise.
        captions: one per item, None where an item has none; or None where nothing was captioned.
        interests: a list of phrases per item, strongest first; or None where nothing was mined.
    """

    items: pl.DataFrame
    sids: np.ndarray
    train: pl.DataFrame
    valid: pl.DataFrame
    captions: Sequence[str | None] | None = None
    interests: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        for name, stage in (("sids", "quantize"), ("captions", "caption"), ("interests", "mine")):
            rows = getattr(self, name)
            if rows is not None and len(rows) != self.items.height:
                raise ValueError(
                    f"{name} has {len(rows)} rows and items {self.items.height}; expected one "
                    f"per item: run {stage} again"
                )


@dataclass(frozen=True)
class Options:
    """How one task is composed.

    Attributes:
        rate: expected passes over the task's units: 1.0 all, 0.5 a seeded half, 2.0 all twice, the
            second time in another variant.
        expand: histories only. `stream`: one example per user in which every next item is a
            target, of the newest max_history + 1 items; `window`: as many such examples as it takes
            to slide over the whole history; `prefix`: one example per next item; `last`: the last
            item only.
        stride: items by which a window moves on, 1 to max_history; None is max_history, with which
            each next item is a target once.
        max_history: items of history in a prompt; the oldest go first.
        max_text: characters of an item's text.
    """

    rate: float = 1.0
    expand: Expand = "prefix"
    stride: int | None = None
    max_history: int = 50
    max_text: int = 300


class TaskSettings(Section):
    """How often a task is composed."""

    needs: ClassVar[str | None] = None  # the optional stage whose texts the task is made of
    rate: float | None = Field(1.0, ge=0, description="expected passes over its items or users")

    @property
    def required(self) -> bool:
        """Whether a recipe must have what the task is made of."""
        return bool(self.rate)


class HistoryTaskSettings(TaskSettings):
    """SID history -> SID; `stream` makes every next item a target in one example per user.

    It has the newest max_history + 1 items. `window` slides over longer histories: such an example
    every `stride` items. `prefix` is the classic expansion, an example per next item.
    """

    expand: Literal["stream", "window", "prefix", "last"] = Field(
        "stream", description="how a history becomes examples"
    )
    stride: int | None = Field(
        None, ge=1, description="of expand=window, items; null: max_history, each target once"
    )

    @model_validator(mode="after")
    def _strides(self) -> HistoryTaskSettings:
        if self.stride is not None and self.expand != "window":
            raise ValueError(f"stride={self.stride}: expand={self.expand} has none; leave it out")
        return self


class NextTaskSettings(TaskSettings):
    """A history with titles on either side: the last item as target, or an example per next item.

    `prefix` is how others compose these; with it such tasks make many times the examples of all
    others, which are then starved.
    """

    expand: Literal["last", "prefix"] = Field("last", description="how a history becomes examples")


class CaptionTaskSettings(TaskSettings):
    """A task over captions; it takes part where the recipe has the stage caption."""

    needs: ClassVar[str | None] = "caption"
    later: ClassVar[tuple[str, ...]] = ("optional",)
    rate: float | None = Field(
        None, ge=0, description="null: 1 if the recipe has what it is made of, else 0"
    )
    optional: bool = Field(
        False,
        description="a rate is of use where the recipe has what the task is made of; elsewhere the task "
        "is left out, where it would else be an error",
    )

    @property
    def required(self) -> bool:
        """Whether a recipe must have the stage `needs`."""
        return super().required and not self.optional


class InterestTaskSettings(CaptionTaskSettings):
    """A task over mined interests; it takes part where the recipe has the stage mine."""

    needs: ClassVar[str | None] = "mine"


class Probe(NamedTuple):
    """How the stage `probe` asks a trained model for what a task taught it.

    Attributes:
        way: `write`, the model writes a text for each SID; or `find`, it finds items by their texts.
        column: of the items, the text that is written or read.
    """

    way: Literal["write", "find"]
    column: str


Compose = Callable[["Corpus", "Options"], Iterator[list["Slots"]]]


@dataclass(frozen=True)
class Task:
    """A task: its slots, what fills them, how often it is composed, how it is probed.

    Attributes:
        name: its name in recipes.
        units: yields one list of slots per user or item; each slots mapping is one example.
        prompt: placeholders of the prompt.
        description: one line about it.
        settings: its defaults in a recipe; `needs` of their class names the stage it is made of.
        completion: placeholders of the completion.
        expand: for histories, the ways to expand one; the first is the default.
        needs: the part of the corpus, in addition to items and histories, that it is made of.
        probe: how it is probed; None if it is not.
        path: the template; None for `prompts/tasks/<name>.yaml`.
    """

    name: str
    units: Compose
    prompt: tuple[str, ...]
    description: str
    settings: TaskSettings = field(default_factory=TaskSettings)
    completion: tuple[str, ...] = ("target",)
    expand: tuple[Expand, ...] = ()
    needs: Literal["captions", "interests"] | None = None
    probe: Probe | None = None
    path: Path | None = None

    @property
    def template(self) -> Template:
        """The task's template, checked; read once per process."""
        return _template(self)


def task(*prompt: str, description: str, **options: Any) -> Callable[[Compose], Task]:
    """Makes a task of the function that yields its slots; the function's name is the task's.

    Args:
        prompt: placeholders of the prompt.
        description: one line for `genrec list`.
        options: further fields of `Task`.
    """
    return lambda units: Task(units.__name__, units, prompt, description, **options)


STREAMED: tuple[Expand, ...] = ("stream", "window")  # several targets in one example
_ANY: tuple[Expand, ...] = ("stream", "window", "prefix", "last")
_ONE: tuple[Expand, ...] = ("last", "prefix")


@task(
    "history",
    description="the SIDs of a user's items -> the next item's SID",
    settings=HistoryTaskSettings(),
    expand=_ANY,
)
def history_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """SID history to the next item's SID: the task that recommends."""
    for items, context, profile in _sequences(corpus.train):
        sids, seen = _sids(corpus, items), _sids(corpus, items, context)
        first = opening(profile)
        if options.expand in STREAMED:
            yield list(_streams(first, sids, seen, options))
        else:
            yield [
                {"history": (*first, *seen[past]), "target": sids[nxt : nxt + 1]}
                for past, nxt in _steps(len(items), options)
            ]


@task("title", description="an item's title -> its SID", probe=Probe("find", "title"))
def title_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's title to its SID."""
    for item, title in enumerate(_titles(corpus, options)):
        yield [{"title": _text(title), "target": _sids(corpus, [item])}]


@task("sid", description="an item's SID -> its title", probe=Probe("write", "title"))
def sid_to_title(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's SID to its title."""
    for item, title in enumerate(_titles(corpus, options)):
        yield [{"sid": _sids(corpus, [item]), "target": _text(title)}]


@task(
    "history",
    description="the SIDs of a user's items -> the next item's title",
    settings=NextTaskSettings(),
    expand=_ONE,
)
def history_to_title(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """SID history to the next item's title."""
    titles = _titles(corpus, options)
    for items, context, profile in _sequences(corpus.train):
        seen = _sids(corpus, items, context)
        yield [
            {"history": (*opening(profile), *seen[past]), "target": _text(titles[items[nxt]])}
            for past, nxt in _steps(len(items), options)
        ]


@task(
    "titles",
    description="the titles of a user's items -> the next item's title",
    settings=NextTaskSettings(),
    expand=_ONE,
)
def titles_to_title(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """Title history to the next item's title."""
    titles = _titles(corpus, options)
    for items, context, profile in _sequences(corpus.train):
        lines = entries([titles[item] for item in items], context)
        yield [
            {"titles": (*opening(profile, "\n"), *lines[past]), "target": _text(titles[items[nxt]])}
            for past, nxt in _steps(len(items), options)
        ]


@task(
    "titles",
    description="the titles of a user's items -> the next item's SID",
    settings=NextTaskSettings(),
    expand=_ONE,
)
def titles_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """Title history to the next item's SID."""
    titles = _titles(corpus, options)
    for items, context, profile in _sequences(corpus.train):
        lines = entries([titles[item] for item in items], context)
        sids = _sids(corpus, items)
        yield [
            {"titles": (*opening(profile, "\n"), *lines[past]), "target": sids[nxt : nxt + 1]}
            for past, nxt in _steps(len(items), options)
        ]


@task(
    "caption",
    description="what an item's image shows -> its SID",
    settings=CaptionTaskSettings(),
    needs="captions",
    probe=Probe("find", "caption"),
)
def caption_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """What an item's image shows to its SID."""
    for item, caption in _captions(corpus, options):
        yield [{"caption": _text(caption), "target": _sids(corpus, [item])}]


@task(
    "caption",
    description="what an item's image shows -> its title",
    settings=CaptionTaskSettings(),
    needs="captions",
)
def caption_to_title(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """What an item's image shows to its title."""
    titles = _titles(corpus, options)
    for item, caption in _captions(corpus, options):
        yield [{"caption": _text(caption), "target": _text(titles[item])}]


@task(
    "sid",
    description="an item's SID -> what its image shows (off by default)",
    settings=CaptionTaskSettings(rate=0),
    needs="captions",
    probe=Probe("write", "caption"),
)
def sid_to_caption(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """An item's SID to what its image shows."""
    for item, caption in _captions(corpus, options):
        yield [{"sid": _sids(corpus, [item]), "target": _text(caption)}]


@task(
    "interest",
    description="an interest an item serves -> its SID (off by default)",
    settings=InterestTaskSettings(rate=0),
    needs="interests",
)
def interest_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """Each interest that an item serves to its SID."""
    for item, phrases in enumerate(corpus.interests or ()):
        sid = _sids(corpus, [item])
        yield [
            {"interest": _text(shorten(phrase, options.max_text)), "target": sid}
            for phrase in phrases
        ]


@task(
    "query",
    description="words of a search -> an item's SID (off by default)",
    settings=InterestTaskSettings(rate=0),
    needs="interests",
)
def query_to_sid(corpus: Corpus, options: Options) -> Iterator[list[Slots]]:
    """Words of a search to an item's SID.

    Our stand-in for a query log: the two words of the title that most titles share (what kind of
    thing it is, not which one), then an interest: "travel mug keeps drinks hot".
    """
    kinds = kind_words(corpus.items["title"].to_list())
    for item, phrases in enumerate(corpus.interests or ()):
        queries = [f"{kinds[item]} {phrase}".strip().lower() for phrase in phrases]
        sid = _sids(corpus, [item])
        yield [{"query": _text(shorten(q, options.max_text)), "target": sid} for q in queries]


def sid_segments(
    sids: np.ndarray | Sequence[Sequence[int]], context: Sequence[str | None] = ()
) -> Segments:
    """Returns one SID segment per row of int [n, L], with the context of as many events as have one."""
    rows = zip_longest(sids, context)
    return tuple(Segment(sid=tuple(int(code) for code in sid), text=text) for sid, text in rows)


def entries(titles: Sequence[str], context: Sequence[str | None] = ()) -> Segments:
    """Returns a history of titles, oldest first, each with its context on a line of its own."""
    rows = zip_longest(titles, context)
    return tuple(Segment(text=f"{title}{text or ''}\n", entry=True) for title, text in rows)


def opening(profile: str | None, end: str = "") -> Segments:
    """Returns what stands before the first item of a history: who the user is, or nothing."""
    return (Segment(text=f"{profile}{end}"),) if profile else ()


def rows_of(split: pl.DataFrame) -> Iterator[tuple[list[int], int, list[str | None], str | None]]:
    """Yields history, target, the history's context and the user's profile of each row.

    [] and None where nothing is said.
    """
    said = {"context": pl.lit([], pl.List(pl.String)), "profile": pl.lit(None, pl.String)}
    lacking = [nothing.alias(name) for name, nothing in said.items() if name not in split.columns]
    yield from split.with_columns(lacking).select("history", "target", *said).iter_rows()


def shorten(text: str, max_characters: int) -> str:
    """Returns `text` on one line, cut after the last whole word within `max_characters`."""
    text = " ".join(text.split())
    if len(text) <= max_characters:
        return text
    head = text[: max_characters + 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head[:max_characters]).rstrip()


def kind_words(titles: Sequence[str], *, count: int = 2) -> list[str]:
    """Returns of each title the words that most titles share, in their order in it.

    English function words, numbers and words of one or two letters do not count.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow, and rarely needed

    title_words = [
        [w for w in dict.fromkeys(re.findall(r"[^\W\d_]{3,}", t)) if w not in ENGLISH_STOP_WORDS]
        for t in map(str.lower, titles)
    ]
    titles_with = Counter(word for own in title_words for word in own)
    kept = [set(sorted(own, key=lambda w: -titles_with[w])[:count]) for own in title_words]
    return [" ".join(w for w in own if w in k) for own, k in zip(title_words, kept, strict=True)]


def _streams(first: Segments, sids: Segments, seen: Segments, options: Options) -> Iterator[Slots]:
    """Yields windows in each of which every item but the first is a target, the newest one last.

    Each begins with `first`. All but the newest are `seen`, with their context, before the next one is
    asked for. There is one more than max_history: the newest item is a target only. Windows are placed
    from the newest item back, so that the oldest is the short one.
    """
    width = options.max_history + 1
    ends = [len(sids)]
    while options.expand == "window" and ends[-1] > width:
        ends.append(ends[-1] - (options.stride or options.max_history))
    for end in reversed(ends):
        window = (*seen[max(0, end - width) : end - 1], sids[end - 1])
        if len(window) > 1:
            yield {"history": (*first, *window[:1]), "target": window[1:]}


def _steps(length: int, options: Options) -> Iterator[tuple[slice, int]]:
    """Yields (history, position of the next item) within a sequence of so many items."""
    first = max(1, length - 1) if options.expand == "last" else 1
    for end in range(first, length):
        yield slice(max(0, end - options.max_history), end), end


@lru_cache
def _template(task: Task) -> Template:
    place = task.path or f"tasks/{task.name}"
    return load_template(place, prompt=task.prompt, completion=task.completion)


def _sequences(
    split: pl.DataFrame,
) -> Iterator[tuple[list[int], list[str | None], str | None]]:
    """Yields each user's items, the context of all but the last, and the profile."""
    for history, target, context, profile in rows_of(split):
        yield [*history, target], context, profile


def _sids(corpus: Corpus, items: Sequence[int], context: Sequence[str | None] = ()) -> Segments:
    return sid_segments(corpus.sids[np.asarray(items, dtype=np.int64)], context)


def _titles(corpus: Corpus, options: Options) -> list[str]:
    return [shorten(title, options.max_text) for title in corpus.items["title"]]


def _captions(corpus: Corpus, options: Options) -> Iterator[tuple[int, str]]:
    """Yields item and caption, of the items that have one."""
    for item, caption in enumerate(corpus.captions or ()):
        if caption:
            yield item, shorten(caption, options.max_text)


def _text(text: str) -> Segments:
    return (Segment(text=text),)
