"""Judges replies of a chat against the gold of `recipes.bench.chat_gold`, and counts per kind of turn.

A reply is what a shopper sees: items shown, items spoken about, a text, and whether it says that the
items are not what was asked for. *Wrong but confident* is a reply that shows items as a fit, without a
word of doubt, of which none is right, or where none should be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from recipes.bench.chat_gold import (
    ABOUT_SHOWN,
    NO_REQUEST,
    NOTHING_FITS,
    Catalogue,
    Conversation,
    Gold,
    NothingThere,
    kinds,
)

FIRST = 5  # places that a shopper looks at
SHOWS = {"show", "remember"}  # behaviours that may come with items that satisfy `where`


@dataclass(frozen=True)
class Reply:
    """What the chat answered to one message.

    Attributes:
        text: its words; an empty text with no items is no answer.
        shown: ids of the items offered, the best first.
        about: ids of the items that the text describes, compares or explains.
        doubt: it says that nothing fits, or that what is shown is not what was asked for.
        help: it names help for people in distress.
    """

    text: str
    shown: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    doubt: bool = False
    help: bool = False


class Verdict(NamedTuple):
    """How one reply was. None where a question does not arise.

    Attributes:
        kinds: of the turn, see `chat_gold.kinds`.
        right: a shopper would be content: one of the allowed behaviours, done well.
        hit: an item within the first five is right; of turns to show.
        satisfied: share of the shown items for which `where` holds; of turns to show, if any is shown.
        nothing_fits: whether nothing in the catalogue does; of turns that ask for goods.
        abstained: whether no item was shown as a fit; likewise.
        wrong_confident: items shown as a fit, and none is, or none should be.
    """

    conversation: str
    turn: int
    kinds: frozenset[str]
    right: bool
    hit: bool | None
    satisfied: float | None
    nothing_fits: bool | None
    abstained: bool | None
    wrong_confident: bool


Ask = Callable[[str], Reply]


def judge(
    conversation: Conversation,
    number: int,
    reply: Reply,
    catalogue: Catalogue,
    before: Sequence[str],
) -> Verdict:
    """Judges one reply.

    A reference to an item that was never shown makes the turn wrong: the gold sees to it that a list
    long enough was possible. If it leads to no item ("cheaper than the cheapest"), nothing fits.

    Args:
        conversation: whose.
        number: of the turn, from 0.
        reply: to its message.
        catalogue: with the truth about the items.
        before: ids of the list that was shown last, before this reply.

    Raises:
        ValueError: a shown item is not in the catalogue.
    """
    gold = conversation.turns[number].gold
    if unknown := {*reply.shown, *reply.about} - catalogue.values("item_id"):
        raise ValueError(f"{conversation.id}, turn {number + 1}: unknown items {sorted(unknown)}")
    of_kind = frozenset(kinds(conversation, number, catalogue))
    try:
        fit = set(catalogue.satisfying(gold.where, before))
        right = set(catalogue.right(gold, before))
        spoken_of = set(catalogue.named(gold.refers_to or (), before))
    except NothingThere:
        show = gold.behaviour == "show"
        return Verdict(
            conversation.id,
            number,
            of_kind,
            right=False,
            hit=False if show else None,
            satisfied=0.0 if show and reply.shown else None,
            nothing_fits=None,
            abstained=None,
            wrong_confident=bool(reply.shown) and not reply.doubt,
        )
    fits = gold.behaviour == "show" and bool(right)
    request = gold.behaviour in ("show", *NOTHING_FITS)
    as_fit = bool(reply.shown) and not reply.doubt
    allowed = gold.allowed if fits or gold.behaviour != "show" else {"show_with_doubt", *gold.also}
    good = right if allowed & SHOWS else set()
    if allowed & set(ABOUT_SHOWN):
        good = good | spoken_of
    return Verdict(
        conversation.id,
        number,
        of_kind,
        right=any(_done(one, gold, reply, catalogue, right, spoken_of) for one in allowed),
        hit=bool(right & set(reply.shown[:FIRST])) if fits else None,
        satisfied=_share(reply.shown, fit) if fits and reply.shown else None,
        nothing_fits=not fits if request else None,
        abstained=not as_fit if request else None,
        wrong_confident=as_fit and not good & set(reply.shown),
    )


def _done(
    behaviour: str,
    gold: Gold,
    reply: Reply,
    catalogue: Catalogue,
    right: set[str],
    spoken_of: set[str],
) -> bool:
    """Whether the reply does this behaviour well."""
    said = bool(reply.text.strip())
    if behaviour == "help":
        return said and reply.help and not reply.shown
    if behaviour in NO_REQUEST:
        return said and not reply.shown
    if behaviour in NOTHING_FITS:
        return said and (reply.doubt or not reply.shown)
    if behaviour == "compare":
        return said and set(reply.about) == spoken_of
    if behaviour in ABOUT_SHOWN:
        return said and bool(reply.about) and set(reply.about) <= spoken_of
    if behaviour == "remember" and not reply.shown:
        return said
    return _shows_well(gold, reply, catalogue, right)


def _shows_well(gold: Gold, reply: Reply, catalogue: Catalogue, right: set[str]) -> bool:
    """Items are shown, the first five are all right, and in the order and number asked for."""
    first = reply.shown[:FIRST]
    if not first or not set(first) <= right:
        return False
    if gold.count is not None and len(reply.shown) != min(gold.count, len(right)):
        return False
    if gold.sort is None:
        return True
    known = dict(catalogue.frame.select("item_id", gold.sort.by).iter_rows())
    best = sorted((known[item] for item in right), reverse=gold.sort.descending)
    return [known[item] for item in first] == best[: len(first)]


def _share(shown: Sequence[str], fit: set[str]) -> float:
    return sum(item in fit for item in shown) / len(shown)


def converse(conversation: Conversation, ask: Ask, catalogue: Catalogue) -> list[Verdict]:
    """Holds one conversation and judges each reply.

    Args:
        conversation: whose messages are said in turn.
        ask: answers a message; remembers what was said before, so make a new one per conversation.
        catalogue: with the truth about the items.
    """
    verdicts: list[Verdict] = []
    before: tuple[str, ...] = ()
    for number, turn in enumerate(conversation.turns):
        reply = ask(turn.say)
        verdicts.append(judge(conversation, number, reply, catalogue, before))
        before = reply.shown or before
    return verdicts


def scores(verdicts: Iterable[Verdict]) -> pl.DataFrame:
    """Returns one row per kind of turn, null where a question does not arise.

    Columns: kind; turns; the shares right, hit@5, satisfied and wrong_confident; abstain_precision
    (share of abstentions where nothing fits) and abstain_recall (share of turns where nothing fits
    that were abstained from), both over turns that ask for goods.
    """
    rows = pl.DataFrame(
        [verdict._asdict() | {"kinds": sorted(verdict.kinds)} for verdict in verdicts],
        schema={
            **{"conversation": pl.String, "turn": pl.Int64, "kinds": pl.List(pl.String)},
            **{"right": pl.Boolean, "hit": pl.Boolean, "satisfied": pl.Float64},
            **{"nothing_fits": pl.Boolean, "abstained": pl.Boolean, "wrong_confident": pl.Boolean},
        },
    )
    return (
        rows.explode("kinds")
        .group_by(kind="kinds")
        .agg(
            pl.len().alias("turns"),
            pl.col("right").mean(),
            pl.col("hit").mean().alias(f"hit@{FIRST}"),
            pl.col("satisfied").mean(),
            pl.col("wrong_confident").mean(),
            pl.col("nothing_fits").filter("abstained").mean().alias("abstain_precision"),
            pl.col("abstained").filter("nothing_fits").mean().alias("abstain_recall"),
        )
        .sort(["turns", "kind"], descending=[True, False])
    )
