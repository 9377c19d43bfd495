"""The sentences of `prompts/chat/replies.yaml`: checked when loaded, filled with data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from genrec.prompts import TemplateError, pieces
from genrec.resources import find
from genrec.serve.chat.facets import Order, Range, Trait
from genrec.serve.chat.lexicon import clean

# Every sentence, and what it is filled with.
_NEEDS: Mapping[str, str] = {
    **dict.fromkeys(("greeting", "thanks", "farewell", "abilities", "unclear", "anew"), ""),
    **dict.fromkeys(
        ("fits_unnamed", "for_history", "anything", "no_more", "unnamed", "which_one"), ""
    ),
    **dict.fromkeys(("fits", "nearest", "none", "limits"), "sought"),
    **dict.fromkeys(("below", "at_most", "above", "at_least", "exactly"), "column bound"),
    **dict.fromkeys(("liked", "without"), "names"),
    **dict.fromkeys(("why_has", "why_alike", "why_interest"), "names"),
    **dict.fromkeys(("why_places", "why_history"), "names"),
    "partly": "count sought",
    "alike": "limits names",
    "more": "limits",
    "between": "column high low",
    **dict.fromkeys(("least_first", "most_first"), "column"),
    "line": "facts place",
    "for_interest": "interest",
    "answer": "facts name",
    "not_told": "name",
    "is_so": "name trait",
    "is_not_so": "name",
    "superlative": "column name value",
    "told": "name text",
    "about": "column value",
    "why": "name reasons",
    "why_caption": "text",
    "place": "place system",
    "and": "first last",
}


class Sayings(BaseModel):
    """A language's sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    words: Mapping[str, str]

    def __call__(self, sentence: str, /, **values: Any) -> str:
        """Returns a sentence with its places filled; a value is put in as it is, never read."""
        return self.words[sentence].format(**values)

    def joined(self, parts: Sequence[str]) -> str:
        """Returns "a, b and c"."""
        if len(parts) < 2:
            return "".join(parts)
        return self("and", first=", ".join(parts[:-1]), last=parts[-1])

    def traits(self, traits: Sequence[Trait]) -> str:
        """Returns the names of traits; one that the shop has no word for is not repeated."""
        named = [trait.name.lower() for trait in traits if trait.name]
        if len(named) < len(traits):
            named.append(self("unnamed"))
        return self.joined(list(dict.fromkeys(named)))

    def bounds(self, bounds: Range) -> str:
        """Returns a range in words."""
        low, high = f"{bounds.low:.6g}", f"{bounds.high:.6g}"
        column = spoken(bounds.column)
        if bounds.low == bounds.high:
            return self("exactly", column=column, bound=low)
        if bounds.low > float("-inf") and bounds.high < float("inf"):
            return self("between", column=column, low=low, high=high)
        if bounds.high < float("inf"):
            return self("below" if bounds.strict else "at_most", column=column, bound=high)
        return self("above" if bounds.strict else "at_least", column=column, bound=low)

    def order(self, order: Order) -> str:
        """Returns in words what comes first."""
        return self("least_first" if order.least else "most_first", column=spoken(order.column))


def spoken(column: str) -> str:
    """Returns a column's name as an answer says it."""
    return clean(column.replace("_", " "), 60)


@lru_cache
def load_sayings(name: str = "chat/replies") -> Sayings:
    """Loads the sentences of answers; raises as `load_sentences`."""
    return load_sentences(name, _NEEDS)


def load_sentences(name: str, needs: Mapping[str, str]) -> Sayings:
    """Loads sentences and checks that each has exactly its places.

    Args:
        name: a shipped file of `prompts/`, or the path of one's own.
        needs: every sentence's places, with spaces between them.

    Raises:
        FileNotFoundError: there is no such file.
        TemplateError: it is not YAML, or a sentence is missing, unknown or has other places.
    """
    file = find("prompts", name, suffix=".yaml")
    try:
        found = Sayings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise TemplateError(f"{file}: {error}") from error
    if set(found.words) != set(needs):
        odd = sorted(set(found.words) ^ set(needs))
        raise TemplateError(f"{file}: words: {odd} missing or unknown")
    for key, text in found.words.items():
        places = sorted({place for _, place in pieces(text) if place is not None})
        if places != sorted(needs[key].split()):
            raise TemplateError(f"{file}: words.{key}: places {places}, expected {needs[key]!r}")
    return found
