"""A conversation's state to items: what must hold is a filter, what should hold comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest, Recommended
from genrec.serve.chat.conversation import State
from genrec.serve.chat.facets import Bools, Facets
from genrec.serve.chat.guide import Guide
from genrec.serve.chat.lexicon import clean
from genrec.serve.chat.messages import MAX_LISTED
from genrec.serve.models import ModelVersion

_SEEN = 1000  # what was shown before comes after everything else
_GROUPS = 3  # lists that are asked for at once
_POOL = 4  # so many times the items of a list are put in order by a number


@dataclass(frozen=True)
class Asker:
    """Who requests, beside what the messages say.

    Attributes:
        history: item numbers, oldest first.
        k: items in a list.
        allowed: bool [N], the items that may come; None allows all.
        system: one system's list alone; None fuses.
        profile: what the LLM's prompt says of them, see `Bundle.profiles`; or nothing.
    """

    history: tuple[int, ...] = ()
    k: int = 5
    allowed: Bools | None = None
    system: str | None = None
    profile: str | None = None


async def listed(
    served: ModelVersion,
    guide: Guide,
    state: State,
    asker: Asker,
    *,
    seen: Literal["as good", "last", "out"] = "as good",
) -> list[Recommended]:
    """Returns the items for a state, best first.

    Those that have most of the wanted traits come first, and among equals those that the wish's words
    and the history rank highest. No item breaks a limit.

    Args:
        served: the model version that answers.
        guide: of its bundle.
        state: of the conversation.
        asker: who requests.
        seen: what was shown already is as good as anything, comes last, or does not come.
    """
    facets = guide.facets
    may, lacks = holds(state, facets), missing(state, facets)
    lacks[list(state.called)] = -1  # before all others
    if asker.allowed is not None:
        may &= asker.allowed
    may[[*state.dropped, *state.alike]] = False
    if seen == "out":
        may[list(state.seen)] = False
    elif seen == "last":
        lacks[list(state.seen)] += _SEEN
    history = (*asker.history, *(item for item in state.liked if item not in asker.history))
    may[list(history)] = False
    # A shop whose embedding reads no words still has the traits that they name.
    text = wish_text(state, served.bundle) if served.bundle.encode is not None else None
    k = length(state, asker)
    requests = [
        ListRequest(
            history,
            *_ahead(state, facets, group, k),
            text=text or None,
            system=asker.system,
            profile=asker.profile,
        )
        for group in groups(may, lacks, k)
    ]
    lists = await asyncio.gather(*(served.recommend(request) for request in requests))
    if state.order is not None:
        key = facets.sort_key(state.order)
        lists = [sorted(found, key=lambda one: key[one.item]) for found in lists]
    return [one for found in lists for one in found][:k]


def length(state: State, asker: Asker) -> int:
    """Returns how many items a list has: as many as was asked for, up to 20, or as is usual."""
    return asker.k if state.count is None else min(state.count, MAX_LISTED)


def _ahead(state: State, facets: Facets, may: Bools, k: int) -> tuple[int, Bools]:
    """Returns how many items to ask for, and among which, where a number puts them in order.

    Words that are no traits, "for a hiker", only a ranking understands: its first items are put in
    order. Else the order is that of all items that fit.
    """
    if state.order is None:
        return k, may
    if any(piece.trait is None for piece in state.pieces):
        return _POOL * k, may
    items = np.flatnonzero(may)
    ahead = np.zeros_like(may)
    ahead[items[np.argsort(facets.sort_key(state.order)[items], kind="stable")[:k]]] = True
    return k, ahead


def holds(state: State, facets: Facets) -> Bools:
    """Returns which items break no limit. bool [N].

    The kind of thing that is wished for is a limit too, if there is such a thing within the others:
    who requests for a jacket is not helped by an umbrella of the right colour.
    """
    may = np.ones(facets.size, dtype=bool)
    for trait in state.firm:
        may &= facets.having(trait)
    for trait in state.unwanted:
        may &= ~facets.telling(trait)
    for bounds in state.ranges:
        may &= facets.within(bounds)
    kinds = [trait for trait in state.wanted if trait.column == facets.kind]
    of_kind = np.logical_or.reduce([facets.having(trait) for trait in kinds]) if kinds else may
    return may & of_kind if (may & of_kind).any() else may


def missing(state: State, facets: Facets) -> npt.NDArray[np.int64]:
    """Returns how many of the wanted traits each item lacks. int [N]."""
    lacks = np.zeros(facets.size, dtype=np.int64)
    for trait in state.wanted:
        lacks += ~facets.having(trait)
    return lacks


def groups(may: Bools, lacks: npt.NDArray[np.int64], k: int) -> Iterator[Bools]:
    """Yields masks whose lists, one after the other, make the answer: those that lack least first.

    As many levels as fill k places; no more than `_GROUPS` masks, the last one takes several levels.
    """
    levels, counts = np.unique(lacks[may], return_counts=True)
    needed = levels[: int(np.searchsorted(np.cumsum(counts), k)) + 1]
    for level in needed[: _GROUPS - 1]:
        yield may & (lacks == level)
    if len(needed) >= _GROUPS:
        yield may & np.isin(lacks, needed[_GROUPS - 1 :])


def wish_text(state: State, bundle: Bundle) -> str:
    """Returns the words to search for: the wish's, and those of the items that others should be like."""
    like = [_words_of(bundle, item) for item in state.alike]
    return clean(" ".join([*like, state.text]), 1000)


def _words_of(bundle: Bundle, item: int) -> str:
    row = bundle.items.row(item, named=True)
    return clean(f"{row['title']}. {row.get('caption') or row['description'] or ''}", 400)


def matched(state: State, facets: Facets, items: Sequence[int]) -> int:
    """Returns how many of the items have all wanted traits."""
    lacks = missing(state, facets)
    return sum(not lacks[item] for item in items)
