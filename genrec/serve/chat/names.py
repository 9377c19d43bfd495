"""What a catalogue's items are called: whether words that a model wrote name anything else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import polars as pl

from genrec.serve.chat.lexicon import Lexicon, clean

_WORD = re.compile(r"[^\W_]+")
_OPENING = re.compile(r"(?:^|[.!?…]['\"”’)]*\s)\W*$")  # what stands before a sentence's first word
_TEXTS = ("description", "caption", "interests")  # written in sentences, unlike titles
_LONG = 5000  # characters of an item's text that are read
_TELLING = 2  # words of a title that name it, beside those that tell nothing


class Names:
    """The titles of a catalogue, and the words that it writes in small letters.

    Args:
        items: the catalogue, with `caption` and `interests` where they were made.
        lexicon: words that tell nothing, and words that may open a sentence.
    """

    def __init__(self, items: pl.DataFrame, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._titles: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for title in items["title"]:
            words = words_of(title)
            if head := self._head(words):
                self._titles.setdefault(head, []).append(words)
        self._longest = max(map(len, self._titles), default=0)
        self._openers = {*lexicon.filler, *lexicon.openers}
        for column in (items[name] for name in _TEXTS if name in items.columns):
            for value in column.to_list():
                text = " ".join(value) if isinstance(value, list) else value or ""
                self._openers.update(w for w in _WORD.findall(text[:_LONG]) if w.islower())

    def foreign(self, text: str, facts: Sequence[str]) -> bool:
        """Says whether a text names what the facts do not.

        Two things do: a capitalised word, unless the facts have it, or it opens a sentence and is
        known as a word (the catalogue writes it small, or the lexicon has it); and the beginning of
        any item's title, in whatever letters, unless the facts hold just that.

        Args:
            text: a model's words, without places.
            facts: what the model was told of each item, its name and other texts one by one.
        """
        known = [words_of(fact) for fact in facts]
        words = {word for fact in known for word in fact}
        plain = unicodedata.normalize("NFKC", text)
        for found in _WORD.finditer(plain):
            word = found[0]
            if word.islower() or word.casefold() in words or word == "I" or not word[0].isupper():
                continue
            opens = _OPENING.search(plain[: found.start()]) is not None
            if not opens or word.casefold() not in self._openers:
                return True
        return any(not _holds(known, run) for run in set(self._named(words_of(plain))))

    def _named(self, said: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        """Yields what a text says of titles: each one's beginning as far as it is said."""
        for at in range(len(said)):
            for end in range(at + 1, min(len(said), at + self._longest) + 1):
                for title in self._titles.get(said[at:end], ()):
                    same = (a == b for a, b in zip(title, said[at:], strict=False))
                    length = next((n for n, one in enumerate(same) if not one), None)
                    yield said[at : at + (len(title) if length is None else length)]

    def _head(self, title: tuple[str, ...]) -> tuple[str, ...]:
        """The beginning that names a title; a title of one word is known by its capital alone."""
        telling = [n for n, word in enumerate(title) if word not in self._lexicon.filler]
        end = telling[_TELLING - 1] + 1 if len(telling) >= _TELLING else len(title)
        return title[:end] if end > 1 else ()


def words_of(text: str) -> tuple[str, ...]:
    """Returns the words of a text in order, letters and digits alone, without regard to case."""
    plain = unicodedata.normalize("NFKC", clean(text))
    return tuple(word.casefold() for word in _WORD.findall(plain))


def _holds(facts: Iterable[tuple[str, ...]], run: tuple[str, ...]) -> bool:
    size = len(run)
    return any(fact[at : at + size] == run for fact in facts for at in range(len(fact) - size + 1))
