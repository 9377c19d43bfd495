"""An answer: which items, and the words about them. The items never depend on who words it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from genrec.bundle import Bundle
from genrec.recommendations import Recommended
from genrec.serve.chat.conversation import State, converse
from genrec.serve.chat.guide import Guide, guide_of
from genrec.serve.chat.lexicon import clean, tokens
from genrec.serve.chat.listing import Asker, length, listed, matched
from genrec.serve.chat.messages import Message
from genrec.serve.chat.questions import LONG, answered
from genrec.serve.chat.sayings import Sayings, load_sayings
from genrec.serve.chat.titles import SEPARATOR
from genrec.serve.chat.turns import Kind, Turn
from genrec.serve.chat.wording import Fact, Worded, Wording
from genrec.serve.models import ModelVersion

_SHORT = 160  # characters of a caption in a list
_SEEN: Mapping[Kind, Literal["last", "out"]] = {Kind.ALIKE: "last", Kind.MORE: "out"}
TEMPLATE, MODEL = "template", "model"


class Cells(NamedTuple):
    """An item's columns in a list; empty words where there is nothing to say."""

    name: str
    price: str
    seen: str
    interest: str


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        turn: how the last message was understood.
        intro: the words before the list, or the whole answer without one.
        cells: each item's name, price, looks and interest, as the list says them; or empty words.
        found: the items of the list, best first; none where the answer shows no list.
        state: of the conversation, the last message taken in.
        liked: items that the last message says are liked.
        worded_by: `template` or `model`; or `template`, and what the model gave instead.
    """

    turn: Kind
    intro: str
    cells: tuple[Cells, ...] = ()
    found: tuple[Recommended, ...] = ()
    state: State = field(default_factory=State)
    liked: tuple[int, ...] = ()
    worded_by: str = TEMPLATE

    @property
    def text(self) -> str:
        """The whole answer in words, the list among them."""
        say = load_sayings()
        lines = [
            say("line", place=place, facts=SEPARATOR.join(filter(None, cells)))
            for place, cells in enumerate(self.cells, 1)
        ]
        return "\n\n".join(part for part in (self.intro, "\n".join(lines)) if part)


async def respond(
    served: ModelVersion,
    messages: Sequence[Message],
    asker: Asker,
    *,
    wording: Wording | None = None,
) -> Reply:
    """Answers a conversation.

    Args:
        served: the model version that answers.
        messages: oldest first; the last user's message is answered.
        asker: who asks.
        wording: a model that introduces the items; a template does without it.

    Raises:
        Overloaded, TimeoutError: as `ModelVersion.recommend`.
    """
    begun = time.monotonic()
    guide = await asyncio.to_thread(guide_of, served.bundle)
    state, turn = await asyncio.to_thread(converse, messages, guide.facets, guide.titles)
    say = load_sayings()
    if turn is None or turn.kind is Kind.TALK:
        topic = turn.topic if turn is not None and turn.topic else "greeting"
        return Reply(Kind.TALK, say(topic), state=state)
    if turn.kind is Kind.QUESTION:
        return Reply(turn.kind, answered(served.bundle, guide, say, turn), state=state)
    if turn.kind is Kind.WHY:
        text = await _reasons(served, guide, say, state, turn, asker)
        return Reply(turn.kind, text, state=state)
    found = await listed(served, guide, state, asker, seen=_SEEN.get(turn.kind, "as good"))
    cells = tuple(cells_of(served.bundle, guide, say, state, one.item) for one in found)
    intro = _intro(guide, say, state, turn, found, history=bool(asker.history or state.liked))
    liked = turn.items if turn.kind is Kind.LIKE else ()
    reply = Reply(turn.kind, intro, cells, tuple(found), state, liked)
    if wording is None or not found:
        return reply
    left = served.timeout - (time.monotonic() - begun)
    words = await _introduced(reply, wording, messages, guide, say, within=left / 2)
    if words.refused is not None:
        return replace(reply, worded_by=f"{TEMPLATE}: the model gave {words.refused}")
    return replace(reply, intro=words.text, worded_by=MODEL)


async def _introduced(
    reply: Reply,
    wording: Wording,
    messages: Sequence[Message],
    guide: Guide,
    say: Sayings,
    *,
    within: float,
) -> Worded:
    """A model's words about the items, if they may be shown."""
    names = await asyncio.to_thread(lambda: guide.names)
    facts = [
        Fact(name, price or None, seen, (interest,) if interest else ())
        for name, price, seen, interest in reply.cells
    ]
    said = next(message.text for message in reversed(messages) if message.role == "user")
    understood = sought(guide, say, reply.state)
    return await wording.introduce(clean(said), understood, facts, names=names, within=within)


def sought(guide: Guide, say: Sayings, state: State) -> str:
    """Returns what is looked for, in words of the catalogue: never the caller's own."""
    parts = [say.traits([trait]) for trait in (*state.wanted, *state.firm)]
    parts += [say("without", names=say.traits([trait])) for trait in state.unwanted]
    parts += [say.bounds(bounds) for bounds in state.ranges]
    parts += [say.order(state.order)] if state.order is not None else []
    return ", ".join(dict.fromkeys(parts))


def _intro(
    guide: Guide,
    say: Sayings,
    state: State,
    turn: Turn,
    found: Sequence[Recommended],
    *,
    history: bool,
) -> str:
    words = sought(guide, say, state)
    limits = say("limits", sought=words) if words else ""
    if not found:
        return say("none", sought=words) if words and turn.kind is not Kind.MORE else say("no_more")
    names = guide.titles.names
    if turn.kind is Kind.MORE:
        return say("more", limits=limits)
    if turn.kind is Kind.ALIKE:
        return say("alike", names=say.joined([names[i] for i in turn.items]), limits=limits)
    if turn.kind is Kind.LIKE:
        return say("liked", names=say.joined([names[i] for i in turn.items]))
    if not words:
        return say("fits_unnamed" if state.wished else "for_history" if history else "anything")
    full = matched(state, guide.facets, [one.item for one in found])
    if full == len(found):
        return say("fits", sought=words)
    return say("partly", count=full, sought=words) if full else say("nearest", sought=words)


def cells_of(bundle: Bundle, guide: Guide, say: Sayings, state: State, item: int) -> Cells:
    """Returns an item's name, its price, what it looks like, and whom it is for."""
    row = bundle.items.row(item, named=True)
    price = guide.facets.measured("price")
    seen = row.get("caption") or row["description"] or ""
    return Cells(
        guide.titles.names[item],
        clean(str(row[price]), 40) if price and row[price] is not None else "",
        clean(seen, _SHORT).rstrip("."),
        say("for_interest", interest=_interest(row["interests"], state))
        if row.get("interests")
        else "",
    )


def _interest(interests: Sequence[str], state: State) -> str:
    """The interest that shares most words with the wish, the strongest among equals."""
    asked = {token.stem for piece in state.pieces for token in tokens(piece.word)}
    return clean(max(interests, key=lambda i: len(asked & {t.stem for t in tokens(i)})), _SHORT)


async def _reasons(
    served: ModelVersion, guide: Guide, say: Sayings, state: State, turn: Turn, asker: Asker
) -> str:
    """Why each of the turn's items came: traits, pictures, interests, systems, the history."""
    items = turn.items[: length(state, asker)]
    history = (*asker.history, *state.liked)
    whole = replace(asker, k=max(50, asker.k))
    found, influences = await asyncio.gather(
        listed(served, guide, replace(state, count=None), whole),
        served.influence(history, items, profile=asker.profile) if history else _nothing(),
    )
    places = {one.item: one.ranks for one in found}
    titles, lines = guide.titles.names, []
    for number, item in enumerate(items):
        parts = _why_item(served.bundle, guide, say, state, item)
        if ranks := places.get(item):
            by = [say("place", system=system, place=place) for system, place in ranks.items()]
            parts.append(say("why_places", names=say.joined(by)))
        if influences is not None:
            ratios = sorted(influences[number].items(), key=lambda pair: -pair[1])
            because = [titles[n] for n, ratio in ratios if ratio > 0 and n != item][:2]
            parts += [say("why_history", names=say.joined(because))] if because else []
        lines.append(say("why", name=titles[item], reasons="; ".join(parts)))
    return "\n".join(lines)


async def _nothing() -> Any:
    return None


def _why_item(bundle: Bundle, guide: Guide, say: Sayings, state: State, item: int) -> list[str]:
    row, parts = bundle.items.row(item, named=True), []
    traits = [t for t in (*state.wanted, *state.firm) if guide.facets.having(t)[item]]
    if traits:
        parts.append(say("why_has", names=say.traits(traits)))
    if state.alike:
        names = say.joined([guide.titles.names[other] for other in state.alike])
        parts.append(say("why_alike", names=names))
    if row.get("caption"):
        text = clean(row["caption"], LONG).rstrip(".")
        parts.append(say("why_caption", text=text))
    if row.get("interests"):
        names = say.joined([clean(one, _SHORT) for one in row["interests"]])
        parts.append(say("why_interest", names=names))
    return parts
