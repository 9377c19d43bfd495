"""What people say and what it means: `prompts/chat/words.yaml`, checked, and text as stemmed tokens."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import snowballstemmer  # type: ignore[import-untyped]
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from genrec.prompts import TemplateError
from genrec.resources import find

_TOKEN = re.compile(r"[^\W_]+(?:[.'-][^\W_]+)*|[€$£#,-]")
_GROUPS = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")  # 1,299
_DECIMALS = re.compile(r"(?<![\w.,])(\d+),(\d\d)(?![\d,])")  # 39,99
_STEMMER = snowballstemmer.stemmer("english")
_STEMMING = threading.Lock()  # a stemmer works on a buffer of its own
MAX_TEXT = 2000  # characters of a message that are read


class Token(NamedTuple):
    """A word as it was said, in lower case, and its stem."""

    word: str
    stem: str


class Measure(BaseModel):
    """A number that items are compared by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...]
    units: tuple[str, ...]
    less: tuple[str, ...]
    more: tuple[str, ...]
    least: tuple[str, ...]
    most: tuple[str, ...]


class Topic(BaseModel):
    """What a question is after: the words that ask, and the columns that may answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asks: tuple[str, ...]
    columns: tuple[str, ...]


class Lexicon(BaseModel):
    """The words of a language; see the comments of the shipped file."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    description: str
    families: Mapping[str, tuple[str, ...]]
    synonyms: tuple[tuple[str, ...], ...]
    purposes: tuple[str, ...]
    kinds: tuple[str, ...]
    measures: Mapping[str, Measure]
    below: tuple[str, ...]
    above: tuple[str, ...]
    around: tuple[str, ...]
    between: tuple[str, ...]
    number_joins: tuple[str, ...]
    counts: Mapping[int, tuple[str, ...]]
    showing: tuple[str, ...]
    tops: tuple[str, ...]
    counted: tuple[str, ...]
    negations: tuple[str, ...]
    enumerating: tuple[str, ...]
    restrictions: tuple[str, ...]
    joins: tuple[str, ...]
    ordinals: Mapping[int, tuple[str, ...]]
    number_marks: tuple[str, ...]
    pronouns: tuple[str, ...]
    alike: tuple[str, ...]
    choose: tuple[str, ...]
    reject: tuple[str, ...]
    more: tuple[str, ...]
    anew: tuple[str, ...]
    refining: tuple[str, ...]
    wishing: tuple[str, ...]
    anything: tuple[str, ...]
    why: tuple[str, ...]
    asking: tuple[str, ...]
    offering: tuple[str, ...]
    greeting: tuple[str, ...]
    thanks: tuple[str, ...]
    farewell: tuple[str, ...]
    abilities: tuple[str, ...]
    questions: Mapping[str, Topic]
    filler: frozenset[str]
    openers: frozenset[str]

    @cached_property
    def related(self) -> Mapping[str, frozenset[str]]:
        """The stems that a stem means, itself among them."""
        same: dict[str, set[str]] = {}
        for group in self.synonyms:
            for word in group:
                same.setdefault(stem(word), set()).update(map(stem, group))
        found = {word: set(words) for word, words in same.items()}
        for broad, narrow in self.families.items():
            means = set(map(stem, (broad, *narrow)))
            for word in same.get(stem(broad), {stem(broad)}):
                found.setdefault(word, {word}).update(means)
        return {key: frozenset(value) for key, value in found.items()}

    def meant_by(self, own: str) -> frozenset[str]:
        """Returns the stems that a stem means; itself alone where the families do not know it."""
        return self.related.get(own, frozenset((own,)))

    def starts(self, tokens: Sequence[Token], at: int, phrases: Iterable[str]) -> int:
        """Returns how many tokens the longest of the phrases takes at a place; 0 if none is there."""
        return max((_length(tokens, at, phrase) for phrase in phrases), default=0)

    def has(self, tokens: Sequence[Token], phrases: Sequence[str]) -> bool:
        """Says whether one of the phrases occurs anywhere."""
        return any(self.starts(tokens, at, phrases) for at in range(len(tokens)))


def _length(tokens: Sequence[Token], at: int, phrase: str) -> int:
    words = phrase.split()
    said = [token.word for token in tokens[at : at + len(words)]]
    return len(words) if said == words else 0


@lru_cache
def load_lexicon(name: str = "chat/words") -> Lexicon:
    """Loads the words.

    Args:
        name: a shipped file of `prompts/`, or the path of one's own.

    Raises:
        FileNotFoundError: there is no such file.
        TemplateError: it is not YAML, or a field is missing or unknown.
    """
    file = find("prompts", name, suffix=".yaml")
    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Lexicon.model_validate(data)
    except (yaml.YAMLError, ValidationError) as error:
        raise TemplateError(f"{file}: {error}") from error


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Returns text on one line, without control and formatting characters, of at most `limit`.

    What a catalogue or a caller says can so neither move a terminal's cursor, nor turn the direction
    of writing, nor begin a line of its own in an answer.
    """
    head = (c for c in text[: 4 * limit] if c.isspace() or unicodedata.category(c)[0] != "C")
    kept = " ".join("".join(head).split())
    return kept if len(kept) <= limit else kept[: limit - 1].rstrip() + "…"


def tokens(text: str, limit: int = MAX_TEXT) -> list[Token]:
    """Returns the words of a text, its commas, currency signs and number signs, in order.

    A comma within a number is no comma of the text: `1,299` is 1299, and `39,99` is 39.99.
    """
    plain = unicodedata.normalize("NFKC", clean(text, limit)).lower().replace("’", "'")
    plain = _GROUPS.sub(lambda found: found[0].replace(",", ""), plain)
    plain = _DECIMALS.sub(r"\1.\2", plain)
    return [Token(word, stem(word)) for word in _TOKEN.findall(plain)]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Returns the stem of one word."""
    with _STEMMING:
        return str(_STEMMER.stemWord(word.lower()))
