"""Ids to numbers: what a request names, looked up in the bundle or refused by field and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest, context_of, profile_of
from genrec.serve.columns import columns_of
from genrec.serve.schemas import RecommendationsRequest


class Unknown(ValueError):
    """A request names what the bundle does not have.

    Attributes:
        field: of the request, as in `history[2]`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


def number_of(bundle: Bundle, item_id: str, field: str) -> int:
    """Returns the number of the item with an id.

    Args:
        bundle: whose item.
        item_id: the owner's.
        field: of the request, for the message.

    Raises:
        Unknown: there is none.
    """
    number = bundle.rows.get(item_id)
    if number is None:
        raise Unknown(
            field, f"no item has the id {_shown(item_id)}; ids look like {_sample(bundle)}"
        )
    return number


def history_of(bundle: Bundle, *, user: str | None, history: Sequence[str] | None) -> list[int]:
    """Returns item numbers, oldest first: those given, or else the known user's; [] for neither.

    Raises:
        Unknown: no such item or user; names the field and the id.
    """
    if history is not None:
        return [number_of(bundle, id_, f"history[{n}]") for n, id_ in enumerate(history)]
    if user is None:
        return []
    if user not in bundle.histories:
        raise Unknown("user", f"no user has the id {_shown(user)}; pass a `history` of item ids")
    return list(bundle.histories[user])


def profile_for(
    bundle: Bundle, *, user: str | None, attributes: Mapping[str, Any] | None
) -> str | None:
    """Returns what prompts say of whoever asks: as described, or else as the known user's row has it.

    Raises:
        Unknown: attributes that prompts do not say, or values that do not fit.
    """
    if attributes is None:
        return None if user is None else bundle.profiles.get(user)
    try:
        return profile_of(bundle, attributes)
    except ValueError as error:
        raise Unknown("user_attributes", str(error)) from error


def view_of(bundle: Bundle, view: str | None) -> str:
    """Returns the name of a view of the items: the one asked for, or else `text` or the first.

    Raises:
        Unknown: there is no such view, or none at all.
    """
    if view is None:
        view = "text" if "text" in bundle.views else min(bundle.views, default="")
    if view not in bundle.views:
        raise Unknown("view", f"no view {_shown(view)}; expected one of {sorted(bundle.views)}")
    return view


def list_request(bundle: Bundle, request: RecommendationsRequest) -> ListRequest:
    """Returns a request in the bundle's numbers.

    Raises:
        Unknown: an id or an attribute that the bundle does not have, or events or attributes of the user
            that do not fit.
    """
    try:
        allowed = columns_of(bundle).mask(request.filters) if request.filters else None
    except ValueError as error:
        raise Unknown("filters", str(error).removeprefix("filters: ")) from error
    exclude = [number_of(bundle, id_, f"exclude[{n}]") for n, id_ in enumerate(request.exclude)]
    history = tuple(history_of(bundle, user=request.user, history=request.history))
    context = tuple(bundle.contexts.get(request.user or "", ()))
    if request.events is not None:
        try:
            context = context_of(bundle, history, request.events)
        except ValueError as error:
            raise Unknown("events", str(error)) from error
    return ListRequest(
        history=history,
        k=request.k,
        allowed=allowed,
        exclude=tuple(exclude),
        keep_seen=request.keep_seen,
        text=request.query,
        system=request.system,
        context=context,
        profile=profile_for(bundle, user=request.user, attributes=request.user_attributes),
    )


def _shown(word: str) -> str:
    return repr(word if len(word) <= 60 else word[:59] + "…")


def _sample(bundle: Bundle) -> str:
    return repr(bundle.items["item_id"][0])
