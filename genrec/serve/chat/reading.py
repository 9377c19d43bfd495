"""A message read word by word: traits wanted and not, bounds of numbers, items of the list, the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from genrec.serve.chat.facets import Facets, Range, Trait
from genrec.serve.chat.lexicon import Measure, Token

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_MOST = 12  # traits and bounds of one message that are kept
_NEAR = 0.2  # "around 30" is 24 to 36
Mode = Literal["not", "alike", "choose"]


class Shown(NamedTuple):
    """The last list of a conversation, and the item that was spoken of since."""

    items: tuple[int, ...] = ()
    focus: int | None = None


class Piece(NamedTuple):
    """A word of a wish, and the trait that it is part of."""

    word: str
    trait: Trait | None = None


@dataclass
class Parsed:
    """What was read.

    Attributes:
        pieces: the words that say what is wished for, in order.
        wanted: traits that items should have; `firm` says whether they must.
        unwanted: traits that no item may have.
        ranges: bounds of numbers.
        alike: items of the list that others should be like.
        chosen: items of the list that are liked.
        dropped: items of the list that are turned down.
        named: items of the list that are just named.
    """

    pieces: list[Piece] = field(default_factory=list)
    wanted: list[Trait] = field(default_factory=list)
    unwanted: list[Trait] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    alike: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)
    firm: bool = False

    @property
    def limits(self) -> bool:
        """Whether it says anything that a filter can hold."""
        return bool(self.wanted or self.unwanted or self.ranges or self.dropped)


class Reader:
    """Reads one message from left to right.

    Args:
        facets: of the catalogue.
        said: the message.
        shown: what came before it.
    """

    def __init__(self, facets: Facets, said: Sequence[Token], shown: Shown) -> None:
        self.facets, self.words, self.said, self.shown = facets, facets.lexicon, said, shown
        self.parsed = Parsed()
        self._mode: Mode | None = None
        self._negation = ""  # the phrase that began the mode "not"
        self._purpose = False  # within what an item is for, where words are no traits of it

    def read(self) -> Parsed:
        """Returns what was read; every step takes at least one token."""
        at = 0
        steps = (self._number, self._comparison, self._operator, self._item, self._trait)
        while at < len(self.said):
            taken = next((n for step in steps if (n := step(at))), 0)
            at += taken or self._rest(at)
        for limits in (self.parsed.wanted, self.parsed.unwanted, self.parsed.ranges):
            del limits[_MOST:]
        return self.parsed

    # Each step returns how many tokens it took from a place, 0 if what stands there is not its own.

    def _number(self, at: int) -> int:
        found = read_range(self.facets, self.said, at)
        if found is None:
            return 0
        self.parsed.ranges.append(found[1])
        self._mode = None
        return found[0]

    def _comparison(self, at: int) -> int:
        """Reads "cheaper": than the middle of the list, or than the item that is named."""
        for name, measure in self.words.measures.items():
            column = self.facets.measured(name)
            for phrases, more in ((measure.less, False), (measure.more, True)):
                taken = self.words.starts(self.said, at, phrases)
                if column is None or not taken:
                    continue
                rest, than = self._than(at + taken)
                if bounds := self._beyond(column, [than] if rest else self.shown.items, more=more):
                    self.parsed.ranges.append(bounds)
                self._mode = None
                return taken + rest
        return 0

    def _than(self, at: int) -> tuple[int, int]:
        """Returns the tokens of "than the second" and the item; (0, 0) if that does not stand there."""
        if at < len(self.said) and self.said[at].word == "than":
            taken, item = self._reference(at + 1)
            if taken:
                return 1 + taken, item
        return 0, 0

    def _beyond(self, column: str, items: Sequence[int], *, more: bool) -> Range | None:
        numbers = self.facets.numbers[column][list(items)]
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            return None
        middle = float(np.median(numbers))
        bound = {"low": middle} if more else {"high": middle}
        return Range(column, strict=True, **bound)

    def _operator(self, at: int) -> int:
        word = self.said[at].word
        if word in self.words.purposes and self.parsed.wanted:
            self._purpose = True
        elif word in (",", "in", "but"):
            self._purpose = False
        modes: tuple[tuple[Mode, Sequence[str]], ...] = (
            ("not", self.words.negations),
            ("alike", self.words.alike),
            ("choose", self.words.choose),
        )
        taken, mode = max((self.words.starts(self.said, at, p), m) for m, p in modes)
        only = self.words.starts(self.said, at, self.words.restrictions)
        if only and only >= taken:
            self.parsed.firm = True
            return only
        if not taken or (mode == "alike" and self._mode == "not"):
            return 0
        if self._purpose and mode == "not":
            return 0  # "for a flat without much space"
        self._mode, self._purpose = mode, False
        self._negation = " ".join(token.word for token in self.said[at : at + taken])
        return taken

    def _item(self, at: int) -> int:
        taken, item = self._reference(at)
        if not taken:
            return 0
        lists = {
            "not": self.parsed.dropped,
            "alike": self.parsed.alike,
            "choose": self.parsed.chosen,
        }
        (lists[self._mode] if self._mode else self.parsed.named).append(item)
        if not self._goes_on(at + taken):
            self._mode = None
        return taken

    def _reference(self, at: int) -> tuple[int, int]:
        """Returns how many tokens name an item of the list at a place, and the item."""
        before = self.said[at - 1].word if at else ""
        marked = self.words.starts(self.said, at, (*self.words.number_marks, "the"))
        start = at + marked
        if not self.shown.items or start >= len(self.said):
            return 0, 0
        free = marked or self._mode in ("alike", "choose") or len(self.said) <= 3
        for place, phrases in self.words.ordinals.items():
            taken = self.words.starts(self.said, start, phrases)
            digit = str(place) == self.said[start].word and (
                bool(free) or self._mode == "not" or before in ("to", "about", "than", "why", "and")
            )
            if (taken and (free or before in ("to", "like"))) or digit:
                place = len(self.shown.items) if place == -1 else place
                if place <= len(self.shown.items):
                    return marked + self._one(start + max(taken, 1)) + max(taken, 1), (
                        self.shown.items[place - 1]
                    )
        return self._described(at, start) if marked else (0, 0)

    def _one(self, at: int) -> int:
        return int(at < len(self.said) and self.said[at].word in ("one", "item", "option"))

    def _described(self, at: int, start: int) -> tuple[int, int]:
        """Reads "the striped one", if one item of the list is meant by it."""
        fits, end = list(self.shown.items), start
        while end < len(self.said):
            taken, trait = self.facets.find(self.said, end, any_word=True)
            if not taken or trait is None:
                break
            having = self.facets.having(trait)
            fits = [item for item in fits if having[item]]
            end += taken
        if end == start or len(fits) != 1 or not (self._one(end) or self._mode):
            return 0, 0
        return end + self._one(end) - at, fits[0]

    def _trait(self, at: int) -> int:
        if self._purpose:
            return 0
        any_word = self._mode == "not" or self.parsed.firm
        taken, trait = self.facets.find(self.said, at, any_word=any_word)
        if trait is None:
            return 0
        if self._mode == "not":
            if trait.name:  # else nothing in the shop is called so
                self.parsed.unwanted.append(trait)
            if not self._goes_on(at + taken):
                self._mode = None
            return taken
        self._mode = None
        self.parsed.wanted.append(trait)
        spoken = " ".join(token.word for token in self.said[at : at + taken])
        self.parsed.pieces.append(Piece(spoken, trait))
        return taken

    def _goes_on(self, at: int) -> bool:
        """Whether what follows is one more of the things that "not" began with."""
        while at < len(self.said) - 1:
            word = self.said[at].word
            if word == "," and self._mode == "not":  # "not red, blue or green", "not red, striped"
                taken, _ = self.facets.find(self.said, at + 1)
                if not taken:
                    return False
                at += 1 + taken
            elif word == "and":
                return self._mode != "not" or self._negation in self.words.enumerating
            else:
                return word in self.words.joins
        return False

    def _rest(self, at: int) -> int:
        word = self.said[at].word
        if word in self.words.filler or not word[0].isalnum():
            if word == ",":
                self._mode = self._mode if at and self._goes_on(at) else None
            return 1
        if self._mode == "not":  # "not so flashy": nothing in the shop is called so
            self._mode = None
            return 1
        self._mode = None
        self.parsed.pieces.append(Piece(word))
        return 1


def read_range(facets: Facets, said: Sequence[Token], at: int) -> tuple[int, Range] | None:
    """Returns how many tokens bound a number at a place, and the bounds; None if none do."""
    words = facets.lexicon
    if taken := words.starts(said, at, words.between):
        low = _value(facets, said, at + taken)
        if low and words.starts(said, at + taken + low.taken, words.number_joins):
            high = _value(facets, said, at + taken + low.taken + 1)
            if high and (column := high.column or low.column):
                bounds = _between(column, low.value, high.value)
                return taken + low.taken + 1 + high.taken, bounds
    if (span := _SPAN.fullmatch(said[at].word)) and (column := _usual(facets)):
        unit = _value(facets, [Token(span[2], span[2]), *said[at + 1 :]], 0)
        if unit is not None:
            return unit.taken, _between(unit.column or column, float(span[1]), float(span[2]))
    for phrases, side in ((words.below, "high"), (words.above, "low"), (words.around, "near")):
        taken = words.starts(said, at, phrases)
        found = _value(facets, said, at + taken) if taken else None
        if found and found.column:
            return taken + found.taken, _bounds(found.column, found.value, side)
    found = _value(facets, said, at)
    if found and found.column and at + found.taken < len(said):
        after = at + found.taken
        taken = words.starts(said, after, [*_or(words.below), *_or(("less", "cheaper"))])
        if taken:
            return found.taken + taken, _bounds(found.column, found.value, "high")
    return None


class _Value(NamedTuple):
    value: float
    taken: int
    column: str | None


def _value(facets: Facets, said: Sequence[Token], at: int) -> _Value | None:
    """A number with its unit, if it is one that items are measured by; 500 ml is none."""
    start, column = at, None
    for measured, _, measure in _measures(facets):
        if start == at and at < len(said) and said[at].word in measure.units:
            start, column = at + 1, measured
    if start >= len(said) or not _NUMBER.fullmatch(said[start].word):
        return None
    end = start + 1
    if end < len(said):
        word = said[end].word
        unit = next((c for c, _, measure in _measures(facets) if word in measure.units), None)
        if unit is not None:
            return _Value(float(said[start].word), end + 1 - at, unit)
        known = word in facets.lexicon.filler or not word[0].isalnum()
        limit = facets.lexicon.starts(said, end, facets.lexicon.below)
        if not known and not limit and facets.find(said, end)[1] is None and column is None:
            return None
    return _Value(float(said[start].word), end - at, column or _usual(facets))


def _measures(facets: Facets) -> Iterator[tuple[str, str, Measure]]:
    for name, measure in facets.lexicon.measures.items():
        if column := facets.measured(name):
            yield column, name, measure


def _usual(facets: Facets) -> str | None:
    """The number that is meant where none is named: the first of the lexicon's that there is."""
    return next((column for column, _, _ in _measures(facets)), None)


def _bounds(column: str, value: float, side: str) -> Range:
    if side == "near":
        return Range(column, value * (1 - _NEAR), value * (1 + _NEAR))
    return Range(column, high=value) if side == "high" else Range(column, low=value)


def _between(column: str, one: float, other: float) -> Range:
    return Range(column, min(one, other), max(one, other))


def _or(words: Sequence[str]) -> list[str]:
    return [*words, *(f"or {word}" for word in words)]
