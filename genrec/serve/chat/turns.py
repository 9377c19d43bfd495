"""What a message of a user is: a wish, a refinement of the last list, a question, or small talk.

Read by rules over the lexicon and the catalogue's own words, so that the same messages always mean
the same: the server keeps no conversation, it reads it again at each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from genrec.serve.chat.facets import Facets, Trait
from genrec.serve.chat.lexicon import Lexicon, Token, tokens
from genrec.serve.chat.reading import Parsed, Reader, Shown

_TALK = ("abilities", "greeting", "thanks", "farewell")  # the first that occurs is answered
_A_WISH = 3  # words that are neither traits nor filler; so many say a new wish


class Kind(StrEnum):
    """What a turn is."""

    WISH = "wish"
    REFINE = "refine"
    MORE = "more"
    ALIKE = "alike"
    LIKE = "like"
    QUESTION = "question"
    WHY = "why"
    TALK = "talk"


@dataclass(frozen=True)
class Turn:
    """A message, understood.

    Attributes:
        kind: what it is.
        parsed: what it asks for.
        items: the items of the last list that it is about.
        topic: of small talk; or of a question, as `price`, or `price.least` for which is cheapest.
        said: its words.
        anew: what was said before counts no more.
    """

    kind: Kind
    parsed: Parsed
    items: tuple[int, ...] = ()
    topic: str | None = None
    said: tuple[Token, ...] = ()
    anew: bool = False


def read_turn(text: str, facets: Facets, shown: Shown, *, wished: bool) -> Turn:
    """Returns what a message means after a list of items.

    Args:
        text: what the user wrote; read as words, never as anything else.
        facets: of the catalogue.
        shown: what was shown last.
        wished: an earlier turn said what is looked for.
    """
    said, words = tuple(tokens(text)), facets.lexicon
    if taken := words.starts(said, 0, words.anew):
        turn = _read(said[taken:], facets, Shown(), wished=False)
        return replace(turn, anew=True, topic="anew" if turn.topic == "unclear" else turn.topic)
    return _read(said, facets, shown, wished=wished)


def _read(said: tuple[Token, ...], facets: Facets, shown: Shown, *, wished: bool) -> Turn:
    words = facets.lexicon
    if topic := _small_talk(said, words):
        return Turn(Kind.TALK, Parsed(), topic=topic, said=said)
    reader = Reader(facets, said, shown)
    parsed = reader.read()
    kind, items, topic = _about_items(said, facets, shown, parsed, asks=reader.asks)
    if kind is None:
        kind = _about_the_shop(said, facets, parsed, wished=wished)
        topic = "unclear" if kind is Kind.TALK else None
    return Turn(kind, parsed, tuple(dict.fromkeys(items)), topic, said)


def _small_talk(said: Sequence[Token], words: Lexicon) -> str | None:
    """The topic, if the whole message is small talk or holds no word."""
    found, at = set(), 0
    while at < len(said):
        lengths = {topic: words.starts(said, at, getattr(words, topic)) for topic in _TALK}
        topic = max(lengths, key=lambda t: lengths[t])
        if lengths[topic]:
            found.add(topic)
        elif said[at].word not in words.filler and said[at].word[0].isalnum():
            return None
        at += max(1, lengths[topic])
    if found:
        return min(found, key=_TALK.index)
    return None if any(token.word[0].isalnum() for token in said) else "unclear"


def _about_items(
    said: Sequence[Token], facets: Facets, shown: Shown, parsed: Parsed, *, asks: bool
) -> tuple[Kind | None, Sequence[int], str | None]:
    """A turn about items of the list, or called by name: more like it, I take it, why, or a question."""
    words = facets.lexicon
    if shown.items and words.starts(said, 0, words.why):
        return Kind.WHY, parsed.named or _spoken_of(said, words, shown) or shown.items, None
    if parsed.alike:
        return Kind.ALIKE, parsed.alike, None
    if parsed.chosen:
        return Kind.LIKE, parsed.chosen, None
    offered = words.starts(said, 0, words.offering)  # "do you have", which is a wish
    if asks and parsed.called and not parsed.named and not offered:
        ranked = _superlative(said, words)
        return Kind.QUESTION, parsed.called, ranked or _question(said, words)
    if not shown.items:
        return None, (), None
    if asks and (ranked := _superlative(said, words)):
        meant = _having(shown.items, parsed.wanted, facets)
        if meant:  # else it is of the shop that "the cheapest lamp" is asked
            return Kind.QUESTION, meant, ranked
    nothing_else = not parsed.limits and not parsed.pieces
    if parsed.named and (asks or nothing_else):
        return Kind.QUESTION, parsed.named, _question(said, words)
    if asks and not parsed.named and (items := _spoken_of(said, words, shown)):
        return Kind.QUESTION, items, _question(said, words)
    return None, (), None


def _having(items: Sequence[int], traits: Sequence[Trait], facets: Facets) -> list[int]:
    """The items that have all traits."""
    return [item for item in items if all(facets.having(trait)[item] for trait in traits)]


def _spoken_of(said: Sequence[Token], words: Lexicon, shown: Shown) -> tuple[int, ...]:
    """The item that "it" is, where one was spoken of or only one shown."""
    if not words.has(said, words.pronouns):
        return ()
    if shown.focus is not None:
        return (shown.focus,)
    return shown.items if len(shown.items) == 1 else ()


def _superlative(said: Sequence[Token], words: Lexicon) -> str | None:
    for name, measure in words.measures.items():
        for end, phrases in (("least", measure.least), ("most", measure.most)):
            if words.has(said, phrases):
                return f"{name}.{end}"
    return None


def _question(said: Sequence[Token], words: Lexicon) -> str | None:
    return next((n for n, topic in words.questions.items() if words.has(said, topic.asks)), None)


def _about_the_shop(said: Sequence[Token], facets: Facets, parsed: Parsed, *, wished: bool) -> Kind:
    """A wish, a refinement of it, or more of the same."""
    words = facets.lexicon
    more = words.has(said, words.more)
    if not parsed.limits and all(piece.word in words.more for piece in parsed.pieces):
        if more and wished:
            return Kind.MORE
        if parsed.count:
            return Kind.REFINE if wished else Kind.WISH
        return Kind.WISH if words.has(said, words.anything) else Kind.TALK
    if not wished or parsed.called:
        return Kind.WISH
    kind_named = facets.kind is not None and any(t.column == facets.kind for t in parsed.wanted)
    free = [piece for piece in parsed.pieces if piece.trait is None]
    refines = words.has(said, words.refining) or bool(
        parsed.unwanted or parsed.ranges or parsed.dropped or parsed.firm
    )
    a_list = parsed.order is not None or parsed.count is not None  # "the cheapest tent", "5 tents"
    asked = words.has(said, words.wishing) or said[0].word in ("a", "an")
    if kind_named and (free or a_list or asked):
        return Kind.REFINE if parsed.firm or words.has(said, ("instead",)) else Kind.WISH
    if refines or len(free) < _A_WISH:
        return Kind.REFINE
    return Kind.WISH
