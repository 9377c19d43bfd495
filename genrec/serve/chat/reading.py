"""A message read word by word: traits wanted and not, bounds of numbers, items of the list, the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from genrec.serve.chat.facets import Facets, Order, Range, Trait
from genrec.serve.chat.lexicon import Token
from genrec.serve.chat.messages import MAX_SHOWN
from genrec.serve.chat.quantities import read_count, read_order, read_range

_MOST = 12  # traits and bounds of one message that are kept
Mode = Literal["not", "alike", "choose"]


class Shown(NamedTuple):
    """The last list of a conversation, and the item that was spoken of since."""

    items: tuple[int, ...] = ()
    focus: int | None = None


class Piece(NamedTuple):
    """A word of a wish, and the trait that it is part of; or whether it is part of an item's name."""

    word: str
    trait: Trait | None = None
    called: bool = False


@dataclass
class Parsed:
    """What was read.

    Attributes:
        pieces: the words that say what is wished for, in order.
        wanted: traits that items should have; `firm` says whether they must.
        unwanted: traits that no item may have.
        ranges: bounds of numbers.
        order: the number whose least or most are asked for.
        count: how many items are asked for.
        alike: items, of the list or called by their names, that others should be like.
        chosen: those that are liked.
        dropped: those that are turned down.
        named: items of the list that are just named.
        called: items of the shop that are called by their names.
    """

    pieces: list[Piece] = field(default_factory=list)
    wanted: list[Trait] = field(default_factory=list)
    unwanted: list[Trait] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    order: Order | None = None
    count: int | None = None
    alike: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)
    called: list[int] = field(default_factory=list)
    firm: bool = False

    @property
    def limits(self) -> bool:
        """Whether it says anything that a filter can hold, or which come first."""
        return bool(self.wanted or self.unwanted or self.ranges or self.dropped or self.order)


class Reader:
    """Reads one message from left to right.

    Args:
        facets: of the catalogue.
        said: the message.
        shown: what came before it.
    """

    def __init__(self, facets: Facets, said: Sequence[Token], shown: Shown) -> None:
        self.facets, self.words, self.said, self.shown = facets, facets.lexicon, said, shown
        self.parsed = Parsed()
        self._of_list: Mapping[Mode, list[int]] = {
            "not": self.parsed.dropped,
            "alike": self.parsed.alike,
            "choose": self.parsed.chosen,
        }
        self.asks = self.words.has(said[:2], self.words.asking) or self.words.has(said, ("about",))
        self._telling = [at for at in range(len(said)) if not self._silent(at)]
        self._mode: Mode | None = None
        self._negation = ""  # the phrase that began the mode "not"
        self._purpose = False  # within what an item is for, where words are no traits of it

    def read(self) -> Parsed:
        """Returns what was read; every step takes at least one token."""
        at = 0
        steps = (
            *(self._called, self._number, self._count, self._extreme, self._comparison),
            *(self._operator, self._item, self._trait),
        )
        while at < len(self.said):
            taken = next((n for step in steps if (n := step(at))), 0)
            at += taken or self._rest(at)
        for limits in (self.parsed.wanted, self.parsed.unwanted, self.parsed.ranges):
            del limits[_MOST:]
        for items in (*self._of_list.values(), self.parsed.named, self.parsed.called):
            del items[MAX_SHOWN:]
        return self.parsed

    # Each step returns how many tokens it took from a place, 0 if what stands there is not its own.

    def _called(self, at: int) -> int:
        """Reads "toy story"; a name of one word, "fargo", in a question, alone, or after "like"."""
        marked = self._mode is not None or self.asks or self._telling == [at]
        one_word = marked and self.facets.find(self.said, at)[1] is None
        taken, items = self.facets.callings.find(self.said, at, one_word=one_word)
        if not taken:
            return 0
        if self._mode is None:
            self.parsed.called += items
            words = (token.word for token in self.said[at : at + taken] if token.word[0].isalnum())
            self.parsed.pieces += [Piece(word, called=True) for word in words]
        else:
            self._of_list[self._mode].extend(items)
            if not self._goes_on(at + taken):
                self._mode = None
        return taken

    def _silent(self, at: int) -> bool:
        """Whether a token tells nothing."""
        word = self.said[at].word
        return word in self.words.filler or not word[0].isalnum()

    def _number(self, at: int) -> int:
        found = read_range(self.facets, self.said, at)
        if found is None:
            return 0
        self.parsed.ranges.append(found[1])
        self._mode = None
        return found[0]

    def _count(self, at: int) -> int:
        """Reads "show me 3 mugs": the newest number counts."""
        found = read_count(self.facets, self.said, at, listed=bool(self.shown.items))
        if found is None or self._mode is not None:
            return 0
        self.parsed.count = found[1]
        return found[0]

    def _extreme(self, at: int) -> int:
        """Reads "cheapest": which come first; after "not" or "like" the item of the list that is so."""
        found = read_order(self.facets, self.said, at)
        if found is None:
            return 0
        taken, order = found
        if self._mode is None:
            self.parsed.order = order
        elif self.shown.items:
            key = self.facets.sort_key(order)
            self._of_list[self._mode].append(min(self.shown.items, key=lambda item: key[item]))
        self._mode = None
        return taken + self._one(at + taken)

    def _comparison(self, at: int) -> int:
        """Reads "cheaper": than the middle of the list, or than the item that is named."""
        for name, measure in self.words.measures.items():
            column = self.facets.measured(name)
            for phrases, more in ((measure.less, False), (measure.more, True)):
                taken = self.words.starts(self.said, at, phrases)
                if column is None or not taken:
                    continue
                rest, than = self._than(at + taken)
                if bounds := self._beyond(column, [than] if rest else self.shown.items, more=more):
                    self.parsed.ranges.append(bounds)
                self._mode = None
                return taken + rest
        return 0

    def _than(self, at: int) -> tuple[int, int]:
        """Returns the tokens of "than the second" and the item; (0, 0) if that does not stand there."""
        if at < len(self.said) and self.said[at].word == "than":
            taken, item = self._reference(at + 1)
            if taken:
                return 1 + taken, item
        return 0, 0

    def _beyond(self, column: str, items: Sequence[int], *, more: bool) -> Range | None:
        numbers = self.facets.numbers[column][list(items)]
        numbers = numbers[~np.isnan(numbers)]
        if not len(numbers):
            return None
        middle = float(np.median(numbers))
        bound = {"low": middle} if more else {"high": middle}
        return Range(column, strict=True, **bound)

    def _operator(self, at: int) -> int:
        word = self.said[at].word
        if word in self.words.purposes and self.parsed.wanted:
            self._purpose = True
        elif word in (",", "in", "but"):
            self._purpose = False
        modes: tuple[tuple[Mode, Sequence[str]], ...] = (
            ("not", self.words.negations),
            ("alike", self.words.alike),
            ("choose", self.words.choose),
        )
        taken, mode = max((self.words.starts(self.said, at, p), m) for m, p in modes)
        only = self.words.starts(self.said, at, self.words.restrictions)
        if only and only >= taken:
            self.parsed.firm = True
            return only
        if not taken or (mode == "alike" and self._mode == "not"):
            return 0
        if self._purpose and mode == "not":
            return 0  # "for a flat without much space"
        self._mode, self._purpose = mode, False
        self._negation = " ".join(token.word for token in self.said[at : at + taken])
        return taken

    def _item(self, at: int) -> int:
        taken, item = self._reference(at)
        if not taken:
            return 0
        (self._of_list[self._mode] if self._mode else self.parsed.named).append(item)
        if not self._goes_on(at + taken):
            self._mode = None
        return taken

    def _reference(self, at: int) -> tuple[int, int]:
        """Returns how many tokens name an item of the list at a place, and the item."""
        before = self.said[at - 1].word if at else ""
        marked = self.words.starts(self.said, at, (*self.words.number_marks, "the"))
        start = at + marked
        if not self.shown.items or start >= len(self.said):
            return 0, 0
        free = marked or self._mode in ("alike", "choose") or len(self.said) <= 3
        for place, phrases in self.words.ordinals.items():
            taken = self.words.starts(self.said, start, phrases)
            digit = str(place) == self.said[start].word and (
                bool(free) or self._mode == "not" or before in ("to", "about", "than", "why", "and")
            )
            if (taken and (free or before in ("to", "like"))) or digit:
                place = len(self.shown.items) if place == -1 else place
                if place <= len(self.shown.items):
                    return marked + self._one(start + max(taken, 1)) + max(taken, 1), (
                        self.shown.items[place - 1]
                    )
        return self._described(at, start) if marked else (0, 0)

    def _one(self, at: int) -> int:
        return int(at < len(self.said) and self.said[at].word in ("one", "item", "option"))

    def _described(self, at: int, start: int) -> tuple[int, int]:
        """Reads "the striped one", if one item of the list is meant by it."""
        fits, end = list(self.shown.items), start
        while end < len(self.said):
            taken, trait = self.facets.find(self.said, end, any_word=True)
            if not taken or trait is None:
                break
            having = self.facets.having(trait)
            fits = [item for item in fits if having[item]]
            end += taken
        if end == start or len(fits) != 1 or not (self._one(end) or self._mode):
            return 0, 0
        return end + self._one(end) - at, fits[0]

    def _trait(self, at: int) -> int:
        if self._purpose:
            return 0
        any_word = self._mode == "not" or self.parsed.firm
        taken, trait = self.facets.find(self.said, at, any_word=any_word)
        if trait is None:
            return 0
        if self._mode == "not":
            if trait.name:  # else nothing in the shop is called so
                self.parsed.unwanted.append(trait)
            if not self._goes_on(at + taken):
                self._mode = None
            return taken
        self._mode = None
        self.parsed.wanted.append(trait)
        spoken = " ".join(token.word for token in self.said[at : at + taken])
        self.parsed.pieces.append(Piece(spoken, trait))
        return taken

    def _goes_on(self, at: int) -> bool:
        """Whether what follows is one more of the things that "not" began with."""
        while at < len(self.said) - 1:
            word = self.said[at].word
            if word == "," and self._mode == "not":  # "not red, blue or green", "not red, striped"
                taken, _ = self.facets.find(self.said, at + 1)
                if not taken:
                    return False
                at += 1 + taken
            elif word == "and":
                return self._mode != "not" or self._negation in self.words.enumerating
            else:
                return word in self.words.joins
        return False

    def _rest(self, at: int) -> int:
        word = self.said[at].word
        if self._silent(at):
            if word == ",":
                self._mode = self._mode if at and self._goes_on(at) else None
            return 1
        if self._mode == "not":  # "not so flashy": nothing in the shop is called so
            self._mode = None
            return 1
        self._mode = None
        self.parsed.pieces.append(Piece(word))
        return 1
