"""Items that a message calls by name, as people do: "toy story" for "Toy Story (1995)"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import polars as pl

from genrec.serve.chat.lexicon import Lexicon, Token, tokens

_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")  # "(1995)", "[2 Pack]"
_INVERTED = re.compile(r"^(.+), (the|an?|l[ae]s?|el|il|das|der|die)$", re.IGNORECASE)
_ALIAS = re.compile(r"\((?:a\.?k\.?a\.?|also known as) ([^()]+)\)", re.IGNORECASE)
_ARTICLES = ("a", "an", "the")
_END = re.compile(r":\s|\s[-\u2013\u2014|]\s|,\s")  # "Star Wars: Episode IV" is called Star Wars
_LONGEST = 12  # words of a name
_SHARED = 12  # a name that more items share is a brand's or a kind's

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

    def find(self, said: Sequence[Token], at: int, *, one_word: bool) -> tuple[int, list[int]]:
        """Returns how many tokens call items by name at a place, and the items; (0, []) for none.

        Args:
            said: a message.
            at: the place.
            one_word: a single word is enough, beside those that tell nothing.
        """
        if not said[at].word[0].isalnum():
            return 0, []
        words = [
            (n, plain(said[n].word)) for n in range(at, len(said)) if said[n].word[0].isalnum()
        ]
        for length in range(min(_LONGEST, len(words)), 0, -1):
            name = tuple(word for _, word in words[:length])
            bare = _without_article(name)
            rows = self._whole.get(bare) or self._short.get(bare, [])
            telling = sum(word not in self._lexicon.filler for word in name)
            if 0 < len(rows) <= _SHARED and telling > (0 if one_word else 1):
                return words[length - 1][0] + 1 - at, rows
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
