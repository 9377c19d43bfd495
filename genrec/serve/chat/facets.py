"""What a catalogue's items can be told apart by: columns of few values, numbers, and words.

A wish for something is held against what an item is said to be (its columns, its caption, its
title); a wish against it also against what is merely told of it, so that "not red" drops every item
whose text speaks of red.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csc_matrix

from genrec.serve.chat.calling import Callings
from genrec.serve.chat.lexicon import Lexicon, Token, clean, stem, tokens
from genrec.serve.columns import Columns

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]
_PARTS = re.compile(r"\s*[,|>;]\s*")  # "Kitchen > Cups", "Tools, Tapes"
_LONG = 20_000  # characters of an item's text that are read
_LONGEST = 5  # words of a column's value that a message may name
_COMMON = 0.5  # a caption's word that more items share tells them not apart


class Trait(NamedTuple):
    """Something that an item may be.

    Attributes:
        name: as an answer says it; the catalogue's or the lexicon's word, never the caller's.
        column: whose value it is; None for a word of captions and titles.
        value: in lower case; or the word's stem.
    """

    name: str
    column: str | None
    value: str


class Range(NamedTuple):
    """A number's bounds, both of them allowed unless `strict`."""

    column: str
    low: float = -np.inf
    high: float = np.inf
    strict: bool = False


class Order(NamedTuple):
    """The number by which items are put in order, from the least or from the most."""

    column: str
    least: bool


class Facets:
    """The facets of one catalogue.

    Args:
        typed: the catalogue's columns.
        lexicon: related words and the names of columns.
    """

    def __init__(self, typed: Columns, lexicon: Lexicon) -> None:
        items = typed.table
        self.lexicon, self.size = lexicon, len(items)
        self.callings = Callings(items, lexicon)
        self.numbers = {
            name: typed[name].numbers.fill_null(np.nan).to_numpy() for name in typed.numeric
        }
        self._rows: dict[Trait, Ints] = {}  # of the columns' values
        self._phrases: dict[tuple[str, ...], list[Trait]] = {}
        columns = [name for name in typed.attributes if name not in self.numbers]
        for name in columns:
            self._add_column(name, items[name])
        self.kind = next((c for c in lexicon.kinds if c in columns), None)
        texts = ("title", "description", "caption", "interests", *columns)
        words = {name: _Words(items[name]) for name in texts if name in items.columns}
        seen = ("caption",) if "caption" in words else ("title", "description")
        # Captions say what is seen. Other texts say anything, "light" as well of a lamp as of a coat:
        # there only the lexicon's words, such as colours, are taken for traits of what is wished for.
        self._captioned = "caption" in words
        self._seen = [words[name] for name in (*seen, *columns)]
        self._said = [words[name] for name in dict.fromkeys((*seen, "title", *columns))]
        self._told = list(words.values())

    def _add_column(self, name: str, column: pl.Series) -> None:
        found: dict[str, tuple[str, list[int]]] = {}
        for row, value in enumerate(column.to_list()):
            for part in _split(value):
                found.setdefault(part.lower(), (part, []))[1].append(row)
        for value, (part, rows) in found.items():
            trait = Trait(clean(part, 60), name, value)
            self._rows[trait] = np.array(sorted(set(rows)))
            words = [token for token in tokens(part) if token.word != ","]
            apart = [stem(one) for token in words for one in token.word.split("-") if one]
            for stems in {tuple(token.stem for token in words), tuple(apart)}:  # "sci-fi", "sci fi"
                if 0 < len(stems) <= _LONGEST:
                    self._phrases.setdefault(stems, []).append(trait)

    def find(
        self, said: Sequence[Token], at: int, *, any_word: bool = False
    ) -> tuple[int, Trait | None]:
        """Returns how many tokens name a trait at a place, and the trait; (0, None) for none.

        Args:
            said: a message.
            at: the place.
            any_word: also a word that only titles and descriptions hold, and one that no item holds.
        """
        for length in range(min(_LONGEST, len(said) - at), 0, -1):
            stems = tuple(token.stem for token in said[at : at + length])
            if found := self._phrases.get(stems):
                return length, min(found, key=lambda t: (t.column != self.kind, t.column or ""))
        token = said[at]
        if token.word in self.lexicon.filler or not any(c.isalpha() for c in token.word):
            return 0, None
        related = self.lexicon.meant_by(token.stem)
        seen = self._captioned or token.stem in self.lexicon.related
        if any_word or (seen and any(words.tells(one) for words in self._seen for one in related)):
            return 1, self._word(token, related)
        return 0, None

    def _word(self, token: Token, related: Iterable[str]) -> Trait:
        """A word that means one value of a column, as shoe means sneaker, is that value."""
        values = {t for one in related for t in self._phrases.get((one,), [])}
        if len(values) == 1:
            return values.pop()
        known = token.stem in self.lexicon.related or _any(self._told, (token.stem,)).any()
        return Trait(token.word if known else "", None, token.stem)

    def having(self, trait: Trait) -> Bools:
        """Returns which items are said to have a trait. bool [N]."""
        if trait.column is None:
            return _any(self._said, self.lexicon.meant_by(trait.value))
        found = np.zeros(self.size, dtype=bool)
        found[self._rows[trait]] = True
        return found

    def telling(self, trait: Trait) -> Bools:
        """Returns which items have a trait or speak of it anywhere. bool [N]."""
        stems = {t.stem for t in tokens(trait.value)} if trait.column else {trait.value}
        told = [_any(self._told, self.lexicon.meant_by(one)) for one in stems if one.isalpha()]
        spoken = np.logical_and.reduce(told) if told else np.zeros(self.size, dtype=bool)
        return spoken | self.having(trait)

    def within(self, bounds: Range) -> Bools:
        """Returns which items' number is within bounds; one without a number is not. bool [N]."""
        numbers = self.numbers[bounds.column]
        if bounds.strict:
            return (numbers > bounds.low) & (numbers < bounds.high)
        return (numbers >= bounds.low) & (numbers <= bounds.high)

    def sort_key(self, order: Order) -> npt.NDArray[np.float64]:
        """Returns what items are sorted by; those without the number come last. float [N]."""
        numbers = self.numbers[order.column] * (1 if order.least else -1)
        return np.where(np.isnan(numbers), np.inf, numbers)

    def measured(self, measure: str) -> str | None:
        """Returns the column of numbers that a measure of the lexicon is, if there is one."""
        known = self.lexicon.measures.get(measure)
        named = known.columns if known is not None else ()
        return next((column for column in named if column in self.numbers), None)


class _Words:
    """Which items' text holds which stems: a sparse matrix [N, words], column by column."""

    def __init__(self, column: pl.Series) -> None:
        self._index: dict[str, int] = {}
        rows, words = [], []
        for row, value in enumerate(column.to_list()):
            for word in _stems(value):
                rows.append(row)
                words.append(self._index.setdefault(word, len(self._index)))
        shape = (len(column), len(self._index))
        self._holds = csc_matrix((np.ones(len(rows), dtype=bool), (rows, words)), shape=shape)

    def rows(self, word: str) -> Ints:
        """The items that hold a stem."""
        at = self._index.get(word)
        if at is None:
            return np.zeros(0, dtype=np.int32)
        start, end = self._holds.indptr[at : at + 2]
        return self._holds.indices[start:end]

    def tells(self, word: str) -> bool:
        """Whether a stem tells items apart: some hold it, and not most of them."""
        return bool(0 < len(self.rows(word)) <= max(1, _COMMON * len(self)))

    def __len__(self) -> int:
        return int(self._holds.shape[0])


def _any(fields: Sequence[_Words], words: Iterable[str]) -> Bools:
    """Which items hold one of the stems in one of the fields. bool [N]."""
    found = np.zeros(len(fields[0]), dtype=bool)
    for word in words:
        for field in fields:
            found[field.rows(word)] = True
    return found


def _stems(value: Any) -> set[str]:
    """The stems of a text; of a word with a hyphen also those of its parts."""
    said = tokens(" ".join(value) if isinstance(value, list) else str(value or ""), _LONG)
    parts = (one for t in said if "-" in t.word for one in t.word.split("-") if one)
    return {token.stem for token in said} | {stem(one) for one in parts}


def _split(value: Any) -> list[str]:
    if value is None:
        return []
    parts = value if isinstance(value, list) else _PARTS.split(str(value))
    return [str(part).strip() for part in parts if str(part).strip()]
