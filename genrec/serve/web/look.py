"""What the pages show in addition to recommendations: a visitor's history and the codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest
from genrec.serve import present
from genrec.serve.schemas import MAX_HISTORY, MAX_K, MAX_QUERY, Id, Item, Recommendation
from genrec.sid import SIDTrie

PAGE = 24  # cards on a page, and how many `more` adds
CODES = 48  # codes on a page of the tree
SAMPLE = 4  # images that stand for a branch of the code tree
_FIRST = "popular"  # who has shown nothing yet is shown this system's list


class Address(BaseModel):
    """What the address of a page says; the state of a visit is there and nowhere else.

    Attributes:
        h: item ids of the history, oldest first.
        q: a query in words.
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
    """The address of a node of the code tree.

    Attributes:
        prefix: codes, joined by commas; none for the root.
        code: one more code, to go on to.
        page: of the codes that follow.
        set: whose tree, from 1; a prefix says it by its codes.
    """

    prefix: str = Field("", pattern=r"^([0-9]{1,9}(,[0-9]{1,9}){0,31})?$")
    code: str = Field("", pattern=r"^[0-9]{0,9}$")
    page: int = Field(1, ge=1, le=10**9)
    set: int = Field(1, ge=1, le=100)

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
        kept = [item_id for item_id in self.h if item_id not in (self.add, self.drop)]
        return [*kept, self.add] if self.add else kept


@dataclass(frozen=True)
class Visit:
    """A visitor's history as a page shows it.

    Attributes:
        numbers: of the items, oldest first.
        items: the same, as the API shows them.
        lost: how many ids of the address are not in the catalogue (which may have changed).
    """

    numbers: tuple[int, ...]
    items: tuple[Item, ...]
    lost: int = 0

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return [item.id for item in self.items]


def visit(bundle: Bundle, ids: Iterable[str]) -> Visit:
    """Returns the history that an address names; what the bundle does not have is counted."""
    named = list(dict.fromkeys(ids))
    numbers = tuple(bundle.rows[item_id] for item_id in named if item_id in bundle.rows)
    return Visit(
        numbers, tuple(present.item(bundle, n) for n in numbers), len(named) - len(numbers)
    )


def request_of(bundle: Bundle, numbers: tuple[int, ...], address: Address) -> ListRequest:
    """Returns what the shop page asks for: the fused list, or where nothing is known the popular."""
    system = first_system(bundle) if not numbers and not address.q else None
    return ListRequest(numbers, address.n, text=address.q or None, system=system)


def first_system(bundle: Bundle) -> str | None:
    """Returns the system that answers an empty history; None leaves it to all of them."""
    return _FIRST if _FIRST in bundle.retrievers else None


def ideas(cards: Sequence[Recommendation], count: int = 3) -> list[str]:
    """Returns queries that the shown items would answer: their interests."""
    interests = (interest for card in cards for interest in card.item.interests[:1])
    return list(dict.fromkeys(interests))[:count]


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


@dataclass(frozen=True)
class Level:
    """What follows a prefix of SIDs: one page of codes, and the first items.

    Attributes:
        prefix: the codes chosen so far.
        levels: codes of a whole SID.
        codes: how many codes follow; 0 after a whole SID.
        page: the page shown, from 1.
        pages: how many there are.
        branches: the page's codes, ascending.
        count: items below the prefix.
        items: the first of them; none for the empty prefix.
        set: of SIDs, from 1.
        sets: how many there are.
    """

    prefix: tuple[int, ...]
    levels: int
    codes: int
    page: int
    pages: int
    branches: tuple[Branch, ...]
    count: int
    items: tuple[Item, ...]
    set: int = 1
    sets: int = 1

    @property
    def turns(self) -> list[int | None]:
        """The pages to offer: the first, the last and those around this one; None is a gap."""
        near = range(self.page - 1, self.page + 2)
        offered = [n for n in range(1, self.pages + 1) if n in (1, self.pages) or n in near]
        turns: list[int | None] = []
        for before, number in zip([0, *offered], offered, strict=False):
            turns += [number] if number == before + 1 else [None, number]
        return turns


def level(bundle: Bundle, address: Branching) -> Level | None:
    """Returns what follows the codes of an address; None in a bundle without SIDs.

    A page beyond the last one is the last one.

    Raises:
        KeyError: no item's SID starts so, or there is no such set.
    """
    tries, prefix = bundle.tries, address.codes
    if not tries:
        return None
    number = _set_of(tries, address)
    trie = tries[number]
    codes = trie.children(prefix).tolist()
    pages = max(1, -(-len(codes) // CODES))
    page = min(address.page, pages)
    branches = []
    for code in codes[(page - 1) * CODES : page * CODES]:
        below = trie.below((*prefix, code))
        sample = tuple(present.item(bundle, int(n)) for n in below[:SAMPLE])
        branches.append(Branch((*prefix, code), len(below), sample))
    below = trie.below(prefix)
    items = tuple(present.item(bundle, int(n)) for n in below[: address.n]) if prefix else ()
    return Level(
        prefix,
        trie.levels,
        len(codes),
        page,
        pages,
        tuple(branches),
        len(below),
        items,
        set=number + 1,
        sets=len(tries),
    )


def _set_of(tries: Sequence[SIDTrie], address: Branching) -> int:
    """Returns the set whose tree is looked at, from 0: no first code is in two."""
    if address.codes:
        begins = (
            number for number, trie in enumerate(tries) if address.codes[0] in trie.children(())
        )
        return next(begins, 0)
    if address.set > len(tries):
        raise KeyError(address.set)
    return address.set - 1
