"""Numbers in a message: bounds of what items are measured by, how many are asked for, the extremes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from genrec.serve.chat.facets import Facets, Order, Range
from genrec.serve.chat.lexicon import Measure, Token

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")
_DECADE = re.compile(r"(1\d|20)?(\d)0(?:'?s)")
_YEAR = re.compile(r"(?:1[89]|20)\d\d")
_NEAR = 0.2  # "around 30" is 24 to 36
_MANY = 999  # "the best 1999 films" are not so many


def read_order(facets: Facets, said: Sequence[Token], at: int) -> tuple[int, Order] | None:
    """Returns how many tokens ask for the least or the most at a place, and of what; None if none do."""
    for column, _, measure in _measures(facets):
        for phrases, least in ((measure.least, True), (measure.most, False)):
            if taken := facets.lexicon.starts(said, at, phrases):
                return taken, Order(column, least)
    return None


def read_count(
    facets: Facets, said: Sequence[Token], at: int, *, listed: bool
) -> tuple[int, int] | None:
    """Returns how many tokens say how many items are asked for at a place, and how many.

    "3 ideas", "show me five mugs", "the top 3"; but neither "2 person tents" nor "show me 50 euros".

    Args:
        facets: of the catalogue.
        said: a message.
        at: the place.
        listed: a list is shown: "show me 3" may be its third item.
    """
    words = facets.lexicon
    top = words.starts(said, at, words.tops)
    lead = top or words.starts(said, at, words.showing)
    start = at + (lead or words.starts(said, at, ("the",)))
    if start < len(said) and facets.callings.find(said, start, one_word=False)[0]:
        return None  # "show me 12 monkeys", the film
    counts = ((words.starts(said, start, phrases), n) for n, phrases in words.counts.items())
    taken, count = max(counts)
    if not taken and start < len(said) and said[start].word.isdecimal():
        taken, count = 1, int(said[start].word)
    if not taken or not 1 <= count <= _MANY:
        return None
    end = start + taken
    if counted := words.starts(said, end, words.counted):
        return end + counted - at, count
    if read_order(facets, said, end):  # "the 3 cheapest"
        return end - at, count
    if not lead:
        return None
    if words.starts(said, end, words.alike):  # "show me 3 like the second"
        return end - at, count
    if end == len(said) or said[end].word in words.filler or read_range(facets, said, end):
        return (end - at, count) if top or not listed else None
    return (end - at, count) if _several(facets, said, end) else None


def _several(facets: Facets, said: Sequence[Token], at: int) -> bool:
    """Whether things of the shop stand at a place: a trait, or a plural that is no unit."""
    word, stem = said[at]
    if any(word in measure.units for _, _, measure in _measures(facets)):
        return False
    plural = word.endswith("s") and stem != word
    return plural or facets.find(said, at)[1] is not None


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
    if years := _years(facets, said, at):
        return years
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


def _years(facets: Facets, said: Sequence[Token], at: int) -> tuple[int, Range] | None:
    """Reads "90s" and "from 1995", where items have a year."""
    column = facets.measured("year")
    if column is None:
        return None
    if found := _DECADE.fullmatch(said[at].word):
        century, tens = found.groups()
        first = int(century or ("19" if tens > "1" else "20")) * 100 + int(tens) * 10
        return 1, Range(column, first, first + 9)
    dated = said[at].word in ("in", "from", "of") and at + 1 < len(said)
    if dated and _YEAR.fullmatch(said[at + 1].word):
        return 2, Range(column, int(said[at + 1].word), int(said[at + 1].word))
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
