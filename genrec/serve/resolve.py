"""Ids to numbers: what a request names, found in the shop or refused by field and name."""

from __future__ import annotations

from collections.abc import Sequence

from genrec.bundle import Bundle
from genrec.serve.filters import mask
from genrec.serve.recommend import Ask
from genrec.serve.schemas import RecommendationsRequest


class Unknown(ValueError):
    """A request names what the shop does not have.

    Attributes:
        field: of the request, as in `history[2]`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def number_of(shop: Bundle, item_id: str, field: str) -> int:
    """Returns the number of the item with an id.

    Args:
        shop: whose item.
        item_id: the owner's.
        field: of the request, for the message.

    Raises:
        Unknown: there is none.
    """
    found = shop.rows.get(item_id)
    if found is None:
        raise Unknown(field, f"no item has the id {_shown(item_id)}; ids look like {_sample(shop)}")
    return found


def history_of(shop: Bundle, *, user: str | None, history: Sequence[str] | None) -> list[int]:
    """Returns item numbers, oldest first: those given, or else the known user's; [] for neither.

    Raises:
        Unknown: no such item or user; names the field and the id.
    """
    if history is not None:
        return [number_of(shop, one, f"history[{place}]") for place, one in enumerate(history)]
    if user is None:
        return []
    if user not in shop.histories:
        raise Unknown("user", f"no user has the id {_shown(user)}; pass a `history` of item ids")
    return list(shop.histories[user])


def view_of(shop: Bundle, view: str | None) -> str:
    """Returns the name of a view of the items: the one asked for, or else `text` or the first.

    Raises:
        Unknown: there is no such view, or none at all.
    """
    if view is None:
        view = "text" if "text" in shop.views else min(shop.views, default="")
    if view not in shop.views:
        raise Unknown("view", f"no view {_shown(view)}; expected one of {sorted(shop.views)}")
    return view


def ask_of(shop: Bundle, request: RecommendationsRequest) -> Ask:
    """Returns a request in the shop's numbers.

    Raises:
        Unknown: an id or an attribute that the shop does not have.
    """
    try:
        allowed = mask(shop.items, request.filters) if request.filters else None
    except ValueError as error:
        raise Unknown("filters", str(error).removeprefix("filters: ")) from error
    exclude = [number_of(shop, one, f"exclude[{n}]") for n, one in enumerate(request.exclude)]
    return Ask(
        history=tuple(history_of(shop, user=request.user, history=request.history)),
        k=request.k,
        allowed=allowed,
        exclude=tuple(exclude),
        keep_seen=request.keep_seen,
        text=request.query,
        system=request.system,
    )


def _shown(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:59] + "…")


def _sample(shop: Bundle) -> str:
    return repr(shop.items["item_id"][0])
