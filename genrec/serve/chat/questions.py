"""Questions about items, answered from the catalogue, the captions and the interests alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from genrec.bundle import Bundle
from genrec.serve.chat.guide import Guide
from genrec.serve.chat.lexicon import clean, tokens
from genrec.serve.chat.sayings import Sayings, spoken
from genrec.serve.chat.turns import Turn

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_HIDDEN = ("item", "item_id", "image", "title")
_MOST = 5  # items that one question is answered for
LONG = 300  # characters of one fact


def answered(bundle: Bundle, guide: Guide, say: Sayings, turn: Turn) -> str:
    """Returns the answer to a question about items of the last list.

    Args:
        bundle: whose items.
        guide: of the bundle.
        say: the sentences.
        turn: a question.
    """
    if turn.topic and "." in turn.topic:
        return _extreme(guide, say, turn)
    lines = [_about(bundle, guide, say, turn, item) for item in turn.items[:_MOST]]
    return "\n".join(lines) if lines else say("which_one")


def _extreme(guide: Guide, say: Sayings, turn: Turn) -> str:
    """The cheapest of the list, or whatever else is measured."""
    measure, _, end = str(turn.topic).partition(".")
    column = guide.facets.measured(measure)
    numbers = guide.facets.numbers[column][list(turn.items)] if column else np.array([np.nan])
    if column is None or np.isnan(numbers).all():
        return "\n".join(say("not_told", name=guide.titles.names[i]) for i in turn.items[:_MOST])
    best = np.nanmin(numbers) if end == "least" else np.nanmax(numbers)
    named = [item for item, number in zip(turn.items, numbers, strict=True) if number == best]
    return "\n".join(
        say("superlative", name=guide.titles.names[item], column=column, value=f"{best:.6g}")
        for item in named
    )


def _about(bundle: Bundle, guide: Guide, say: Sayings, turn: Turn, item: int) -> str:
    row, name = bundle.items.row(item, named=True), guide.titles.names[item]
    if turn.parsed.wanted:  # "is the second one red?"
        having = [trait for trait in turn.parsed.wanted if guide.facets.having(trait)[item]]
        if len(having) == len(turn.parsed.wanted):
            return say("is_so", name=name, trait=say.traits(having))
        known = [row.get(trait.column or "caption") for trait in turn.parsed.wanted]
        told = [say("is_not_so", name=name), *(_fact(value) for value in known if value)]
        return " ".join(dict.fromkeys(told))
    columns = _columns(turn, row, guide)
    if columns:
        found = [_fact(row[c]) for c in columns if row.get(c)]
        if not found:
            return say("not_told", name=name)
        return say("answer", name=name, facts=found[0].rstrip("."))
    asked = _asked_words(turn, guide)
    if asked:
        return _quoted(row, say, name, asked)
    return say("told", name=name, text=_everything(row, say))


def _columns(turn: Turn, row: Mapping[str, Any], guide: Guide) -> list[str]:
    """The columns that the question is after: those of its topic, or one that it names."""
    if turn.topic is not None:
        topic = guide.facets.lexicon.questions[turn.topic]
        return [c for c in topic.columns if c in row] or list(topic.columns)
    stems = {token.stem for token in turn.said}
    return [c for c in row if c not in _HIDDEN and {t.stem for t in tokens(c)} <= stems]


def _asked_words(turn: Turn, guide: Guide) -> set[str]:
    """The stems that a question without a topic is about, such as waterproof."""
    words = guide.facets.lexicon
    silent = {*words.asking, *(w for phrases in words.ordinals.values() for w in phrases)}
    free = [p.word for p in turn.parsed.pieces if p.trait is None and not p.called]
    return {token.stem for word in free if word not in silent for token in tokens(word)}


def _quoted(row: Mapping[str, Any], say: Sayings, name: str, asked: set[str]) -> str:
    """The sentences of the catalogue that speak of what was asked."""
    texts = [row.get("description"), row.get("caption"), *(row.get("interests") or [])]
    sentences = [one for text in texts if text for one in _SENTENCE.split(clean(text, 4000))]
    found = [one for one in sentences if asked & {token.stem for token in tokens(one)}]
    if not found:
        return say("not_told", name=name)
    return say("told", name=name, text=clean(" ".join(found), LONG))


def _everything(row: Mapping[str, Any], say: Sayings) -> str:
    facts = [_fact(row.get("description")), _fact(row.get("caption"))]
    for column, value in row.items():
        if column not in (*_HIDDEN, "description", "caption") and value:
            told = say("about", column=spoken(column), value=_fact(value))
            facts.append(f"{told}.")
    return " ".join(fact for fact in facts if fact)


def _fact(value: Any) -> str:
    return clean(", ".join(map(str, value)) if isinstance(value, list) else str(value or ""), LONG)
