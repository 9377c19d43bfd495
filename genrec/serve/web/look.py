"""What the pages show of a shop, beside recommendations: a visitor's history and the codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from genrec.serve import present
from genrec.serve.recommend import Ask
from genrec.serve.schemas import MAX_HISTORY, MAX_K, MAX_QUERY, Id, Item, Recommendation
from genrec.serve.shop import Shop

PAGE = 24  # cards on a page, and how many `more` adds
SAMPLE = 4  # pictures that stand for a branch of the code tree
_FIRST = "popular"  # who has shown nothing yet is shown this system's list


class Address(BaseModel):
    """What the address of a page says; the state of a visit is there and nowhere else.

    Attributes:
        h: item ids of the history, oldest first.
        q: a wish in words.
        n: items wanted.
    """

    model_config = ConfigDict(str_strip_whitespace=True)

    h: list[Id] = Field([], max_length=MAX_HISTORY)
    q: str = Field("", max_length=MAX_QUERY)
    n: int = Field(PAGE, ge=1, le=MAX_K)


class Compared(Address):
    """The address of an item's page; `view` says in which one its neighbours are looked for."""

    view: str = Field("", max_length=100)


class Branching(Address):
    """The address of a place in the code tree: codes, joined by commas; none for the root."""

    prefix: str = Field("", pattern=r"^(\d{1,9}(,\d{1,9}){0,31})?$")

    @property
    def codes(self) -> tuple[int, ...]:
        """The codes as numbers."""
        return tuple(int(code) for code in self.prefix.split(",") if code)


class Step(Address):
    """An address with a change of the history, which leads to the changed one.

    Attributes:
        add: an item id, to stand last.
        drop: an item id.
        user: a known user, whose newest items are the history.
    """

    add: str = Field("", max_length=200)
    drop: str = Field("", max_length=200)
    user: str = Field("", max_length=200)

    def changed(self) -> list[str]:
        """Returns the history after the change of one item."""
        kept = [one for one in self.h if one not in (self.add, self.drop)]
        return [*kept, self.add] if self.add else kept


@dataclass(frozen=True)
class Visit:
    """A visitor's history as a page shows it.

    Attributes:
        numbers: of the items, oldest first.
        items: the same, in words.
        lost: how many ids of the address are not in the shop (its catalogue may have changed).
    """

    numbers: tuple[int, ...]
    items: tuple[Item, ...]
    lost: int = 0

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return [one.id for one in self.items]


def visit(shop: Shop, ids: Iterable[str]) -> Visit:
    """Returns the history that an address names; what the shop does not have is counted."""
    named = list(dict.fromkeys(ids))
    numbers = tuple(shop.rows[one] for one in named if one in shop.rows)
    return Visit(numbers, tuple(present.item(shop, n) for n in numbers), len(named) - len(numbers))


def wanted(shop: Shop, numbers: tuple[int, ...], address: Address) -> Ask:
    """Returns what the shop's page asks for: the fused list, or where nothing is known the popular."""
    system = first_system(shop) if not numbers and not address.q else None
    return Ask(numbers, address.n, text=address.q or None, system=system)


def first_system(shop: Shop) -> str | None:
    """Returns the system that answers an empty history; None leaves it to all of them."""
    return _FIRST if _FIRST in shop.retrievers else None


def ideas(cards: Sequence[Recommendation], count: int = 3) -> list[str]:
    """Returns wishes that the shown items would answer, in the words of their interests."""
    words = (interest for one in cards for interest in one.item.interests[:1])
    return list(dict.fromkeys(words))[:count]


@dataclass(frozen=True)
class Branch:
    """A code that may follow a prefix.

    Attributes:
        prefix: with the code.
        count: items below it.
        sample: the first of them.
    """

    prefix: tuple[int, ...]
    count: int
    sample: tuple[Item, ...]


def branches(shop: Shop, prefix: tuple[int, ...]) -> list[Branch]:
    """Returns what follows a prefix of SIDs, by code; [] after a whole SID.

    Raises:
        KeyError: no item's SID starts so.
    """
    assert shop.trie is not None
    found = []
    for code in shop.trie.children(prefix).tolist():
        below = shop.trie.below((*prefix, code))
        sample = tuple(present.item(shop, int(n)) for n in below[:SAMPLE])
        found.append(Branch((*prefix, code), len(below), sample))
    return found
