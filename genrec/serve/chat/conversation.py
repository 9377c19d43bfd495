"""A conversation from its messages alone: what is looked for, what was shown, what was turned down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from genrec.serve.chat.facets import Bools, Facets, Order, Range, Trait
from genrec.serve.chat.messages import Message
from genrec.serve.chat.reading import Parsed, Piece, Shown
from genrec.serve.chat.titles import Titles
from genrec.serve.chat.turns import Kind, Turn, read_turn
from genrec.serve.schemas import MAX_HISTORY

T = TypeVar("T")
# Two traits exclude one another if items have both so much more rarely than by chance.
_RARELY = 0.2
_WISH_WORDS = 60  # words of a wish that are kept
_TRAITS = 16  # of each sort that a conversation keeps
_READ = 80  # newest messages that are read


@dataclass(frozen=True)
class State:
    """Where a conversation stands.

    Attributes:
        pieces: the words that say what is looked for, in order.
        wanted: traits that items should have, the more of them the better.
        firm: traits that every item must have.
        unwanted: traits that no item may have.
        ranges: bounds of numbers.
        order: the number whose least or most come first.
        count: how many items a list has; None leaves it to who asks.
        called: items that the wish calls by their names.
        alike: items that others should be like.
        liked: items that were chosen in the chat, oldest first.
        dropped: items that were turned down.
        seen: all items shown for this wish.
        shown: the last list.
        focus: the item that was spoken of last.
    """

    pieces: tuple[Piece, ...] = ()
    wanted: tuple[Trait, ...] = ()
    firm: tuple[Trait, ...] = ()
    unwanted: tuple[Trait, ...] = ()
    ranges: tuple[Range, ...] = ()
    order: Order | None = None
    count: int | None = None
    called: tuple[int, ...] = ()
    alike: tuple[int, ...] = ()
    liked: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    seen: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    focus: int | None = None

    @property
    def wished(self) -> bool:
        """Whether something is looked for."""
        limits = (self.wanted, self.firm, self.unwanted, self.ranges, self.order)
        return any((self.pieces, self.alike, self.liked, *limits))

    @property
    def text(self) -> str:
        """The wish in words."""
        return " ".join(piece.word for piece in self.pieces)


def converse(
    messages: Sequence[Message], facets: Facets, titles: Titles
) -> tuple[State, Turn | None]:
    """Reads a conversation.

    Args:
        messages: oldest first, of which the newest 80 are read. Those of the assistant tell what was
            shown, by ids in the structured field or the tool call, else by the titles in the text;
            what is not in the catalogue is passed over.
        facets: of the catalogue.
        titles: of the catalogue.

    Returns:
        Where it stands, with the last message taken in, and what that message means; no turn if no
        user spoke.
    """
    state, turn = State(), None
    for message in messages[-_READ:]:
        if message.role == "user":
            shown = Shown(state.shown, state.focus)
            turn = read_turn(message.text, facets, shown, wished=state.wished)
            state = taken_in(state, turn, facets)
        elif message.role == "assistant":
            items = titles.shown_by(message)
            if items and not (turn and turn.kind in (Kind.QUESTION, Kind.WHY)):
                state = replace(state, shown=items, seen=_union(state.seen, items), focus=None)
    return state, turn


def taken_in(state: State, turn: Turn, facets: Facets) -> State:
    """Returns the state after a turn of the user."""
    parsed, items = turn.parsed, turn.items
    state = State() if turn.anew else state
    if turn.kind is Kind.TALK:
        return state
    if turn.kind in (Kind.QUESTION, Kind.WHY):
        return replace(state, focus=items[0] if len(items) == 1 else state.focus)
    if turn.kind is Kind.WISH:
        state = State(liked=state.liked, dropped=state.dropped, shown=state.shown)
        firm = tuple(dict.fromkeys(parsed.wanted)) if parsed.firm else ()
        wanted = () if parsed.firm else tuple(dict.fromkeys(parsed.wanted))
        return replace(
            state,
            pieces=tuple(parsed.pieces[:_WISH_WORDS]),
            wanted=wanted,
            firm=firm,
            unwanted=tuple(dict.fromkeys(parsed.unwanted)),
            ranges=tuple(parsed.ranges),
            called=tuple(dict.fromkeys(parsed.called)),
            order=parsed.order,
            count=parsed.count,
        )
    if turn.kind is Kind.ALIKE:
        state = replace(state, alike=items, called=(), pieces=())
    if turn.kind is Kind.LIKE:
        state = replace(state, liked=_union(state.liked, items)[-MAX_HISTORY:])
    return _refined(state, parsed, facets)


def _refined(state: State, parsed: Parsed, facets: Facets) -> State:
    """The newest word counts: what it contradicts of the earlier ones is forgotten."""
    wanted, firm, unwanted = list(state.wanted), list(state.firm), list(state.unwanted)
    for trait in parsed.unwanted:
        gone = facets.telling(trait)
        wanted, firm = (_without(traits, gone, facets) for traits in (wanted, firm))
    for trait in parsed.wanted:
        wanted, firm = (_beside(traits, trait, facets) for traits in (wanted, firm))
        having = facets.having(trait)
        unwanted = [u for u in unwanted if (having & ~facets.telling(u)).any()]
    firm += [trait for trait in parsed.wanted if trait not in firm]
    wanted = [trait for trait in wanted if trait not in firm]
    kept = {*wanted, *firm}
    pieces = [p for p in state.pieces if p.trait is None or p.trait in kept]
    known = {piece.word for piece in pieces}
    pieces += [piece for piece in parsed.pieces if piece.word not in known]
    newer = {bounds.column for bounds in parsed.ranges}
    ranges = [b for b in state.ranges if b.column not in newer]
    return replace(
        state,
        pieces=tuple(pieces[-_WISH_WORDS:]),
        wanted=tuple(wanted[-_TRAITS:]),
        firm=tuple(firm[-_TRAITS:]),
        unwanted=_union(unwanted, parsed.unwanted)[-_TRAITS:],
        ranges=(*ranges, *parsed.ranges),
        order=parsed.order or state.order,
        count=parsed.count or state.count,
        dropped=_union(state.dropped, parsed.dropped),
    )


def _without(traits: Iterable[Trait], gone: Bools, facets: Facets) -> list[Trait]:
    """The traits that some item still has."""
    return [trait for trait in traits if (facets.having(trait) & ~gone).any()]


def _beside(traits: Iterable[Trait], newer: Trait, facets: Facets) -> list[Trait]:
    """The traits that a newer one does not replace, as red replaces blue."""
    new = facets.having(newer)
    kept = []
    for trait in traits:
        old = facets.having(trait)
        chance = old.sum() * new.sum() / max(1, facets.size)
        if trait == newer or not new.any() or (old & new).sum() > _RARELY * chance:
            kept.append(trait)
    return kept


def _union(first: Iterable[T], second: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys([*first, *second]))
