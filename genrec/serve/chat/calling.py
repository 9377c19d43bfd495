"""Items that a message calls by name, as people do: "toy story" for "Toy Story (1995)"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import islice

import polars as pl

from genrec.serve.chat.lexicon import Lexicon, Token, tokens

_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")  # "(1995)", "[2 Pack]"
_INVERTED = re.compile(r"^(.+), (the|an?|l[ae]s?|el|il|das|der|die)$", re.IGNORECASE)
_ALIAS = re.compile(r"\((?:a\.?k\.?a\.?|also known as) ([^()]+)\)", re.IGNORECASE)
_ARTICLES = ("a", "an", "the")
_END = re.compile(r":\s|\s[-\u2013\u2014|]\s|,\s")  # "Star Wars: Episode IV" is called Star Wars
_LONGEST = 12  # words of a name
_SHARED = 5  # a name that more items share is a brand's or a kind's

Name = tuple[str, ...]


class Callings:
    """What the items of a catalogue may be called: their titles, whole and up to a colon, dash or comma.

    Args:
        items: the catalogue.
        lexicon: words that tell nothing.
    """

    def __init__(self, items: pl.DataFrame, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._whole: dict[Name, list[int]] = {}
        self._short: dict[Name, list[int]] = {}
        for row, title in enumerate(items["title"]):
            bare = " ".join(_ASIDE.sub(" ", title).split())
            whole = {self._name(bare), *map(self._name, _ALIAS.findall(title))}
            short = {self._name(_END.split(bare)[0])} - whole
            for index, names in ((self._whole, whole), (self._short, short)):
                for name in names - {()}:
                    index.setdefault(name, []).append(row)
        self._first = {name[0] for name in (*self._whole, *self._short)}

    def find(self, said: Sequence[Token], at: int, *, one_word: bool) -> tuple[int, list[int]]:
        """Returns how many tokens call items by name at a place, and the items; (0, []) for none.

        Args:
            said: a message.
            at: the place.
            one_word: a whole title may be one word, beside those that tell nothing.
        """
        first = plain(said[at].word)
        if first not in self._first and first not in _ARTICLES:
            return 0, []
        spoken = (n for n in range(at, len(said)) if said[n].word[0].isalnum())
        ends = list(islice(spoken, _LONGEST))
        words = tuple(plain(said[n].word) for n in ends)
        for length in range(len(words), 0, -1):
            name = _without_article(words[:length])
            telling = sum(word not in self._lexicon.filler for word in name)
            rows = self._whole.get(name, []) if telling > 1 or one_word else []
            if telling > 1 and not rows:
                rows = self._short.get(name, [])
            if telling and 0 < len(rows) <= _SHARED:
                return ends[length - 1] + 1 - at, rows
        return 0, []

    def _name(self, text: str) -> Name:
        turned = _INVERTED.match(text)
        words = tokens(f"{turned[2]} {turned[1]}" if turned else text)
        name = tuple(plain(token.word) for token in words if token.word[0].isalnum())
        return _without_article(name)[:_LONGEST]


def _without_article(name: Name) -> Name:
    return name[1:] if len(name) > 1 and name[0] in _ARTICLES else name


def plain(word: str) -> str:
    """Returns a word without accents: "amelie" for "amélie"."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(sign for sign in parts if not unicodedata.combining(sign))
