"""The pages: the shop, an item, why it came, the tree of codes, and the login.

They work without JavaScript: a visit's state is in the address, and each change of it is a form or a
link. Nothing that a request says reaches the file system.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from genrec.bundle import Bundle
from genrec.recommendations import Recommended
from genrec.serve import present
from genrec.serve.guard import COOKIE, issue_cookie
from genrec.serve.http import TheRegistry, TheSettings
from genrec.serve.models import ModelVersion
from genrec.serve.operate import note
from genrec.serve.resolve import history_of, view_of
from genrec.serve.schemas import MAX_K, Reasons, Recommendation
from genrec.serve.web.look import (
    PAGE,
    Address,
    Branching,
    Compared,
    Step,
    Visit,
    first_system,
    ideas,
    level,
    request_of,
    visit,
)
from genrec.serve.web.render import FOLDER, VIEWS, Page, Static, link, render, wants_json

_SEE_OTHER = 303
_NEWEST = 20  # items of a known user that make a history
_SIMILAR = 12

router = APIRouter(route_class=Page, include_in_schema=False)
router.mount("/static", Static(directory=FOLDER / "static"), name="static")


@router.get("/")
async def shop_page(
    request: Request, registry: TheRegistry, step: Annotated[Step, Query()]
) -> Response:
    """The products: for a history, for a query in words, or the popular ones."""
    async with registry.current() as served:
        if step.user:
            return _to(history=_newest(served.bundle, step.user))
        if step.add or step.drop:
            return _to(history=step.changed(), query=step.q)
        note(request, query=step.q or None)
        own = visit(served.bundle, step.h)
        listed = await served.recommend(request_of(served.bundle, own.numbers, step))
        cards = present.recommendations(served.bundle, listed)
        more = min(step.n + PAGE, MAX_K) if len(listed) == step.n < MAX_K else None
        return render(
            request,
            "shop.html.j2",
            **_frame(served.bundle, own, step),
            cards=cards,
            more=more,
            ideas=ideas(cards),
            first=first_system(served.bundle),
        )


@router.get("/items/{item:path}")
async def item_page(
    request: Request, registry: TheRegistry, item: str, address: Annotated[Compared, Query()]
) -> Response:
    """One product with all that is known of it, and its neighbours in one view."""
    async with registry.current() as served:
        bundle, number = served.bundle, _number(served.bundle, item)
        view = view_of(bundle, address.view or None) if address.view or bundle.views else None
        return render(
            request,
            "item.html.j2",
            **_frame(bundle, visit(bundle, address.h), address),
            item=present.item(bundle, number),
            view=view,
            offered=sorted(bundle.views, key=[*VIEWS, *bundle.views].index),
            near=[] if view is None else await _similar(served, number, view),
        )


@router.get("/why/{item:path}")
async def why_page(
    request: Request, registry: TheRegistry, item: str, address: Annotated[Address, Query()]
) -> Response:
    """Why one product: as JSON to the page's script, as a page to who has none."""
    async with registry.current() as served:
        bundle, number = served.bundle, _number(served.bundle, item)
        own = visit(bundle, address.h)
        reasons = await _reasons(served, own, number)
        if wants_json(request):
            return Response(reasons.model_dump_json(), media_type="application/json")
        return render(
            request,
            "why.html.j2",
            **_frame(bundle, own, address),
            item=present.item(bundle, number),
            reasons=reasons,
        )


@router.get("/sids")
async def tree_page(
    request: Request, registry: TheRegistry, address: Annotated[Branching, Query()]
) -> Response:
    """The tree of semantic IDs: what follows a prefix, page by page, and the items below it."""
    if address.code:
        prefix = ",".join(filter(None, (address.prefix, address.code)))
        return RedirectResponse(link("sids", prefix=prefix, h=address.h), _SEE_OTHER)
    async with registry.current() as served:
        bundle = served.bundle
        try:
            branches = await asyncio.to_thread(level, bundle, address)
        except KeyError as error:
            raise HTTPException(404, "No semantic ID of this shop starts so.") from error
        if branches is None:
            raise HTTPException(404, "This shop has no semantic IDs: its recipe trains no LLM.")
        own = visit(bundle, address.h)
        return render(request, "sids.html.j2", **_frame(bundle, own, address), level=branches)


@router.get("/login")
async def login_page(request: Request, settings: TheSettings, next: str = "/") -> Response:
    """Asks for the key, where there is one."""
    if settings.key is None:
        return RedirectResponse(_local(next), _SEE_OTHER)
    return render(request, "login.html.j2", after=_local(next), wrong=False)


@router.post("/login")
async def login(
    request: Request,
    settings: TheSettings,
    key: Annotated[str, Form(max_length=1000)],
    next: Annotated[str, Form(max_length=8000)] = "/",
) -> Response:
    """Lets in who has the key; the cookie is for this browser session."""
    expected = settings.key
    if expected is not None and not hmac.compare_digest(key.encode(), expected.encode()):
        return render(request, "login.html.j2", status=401, after=_local(next), wrong=True)
    answer = RedirectResponse(_local(next), _SEE_OTHER)
    if expected is not None:
        _set(answer, request, COOKIE, issue_cookie(expected), httponly=True)
    return answer


@router.post("/logout")
async def logout() -> Response:
    """Forgets the key, and the conversation that the tab keeps."""
    answer = RedirectResponse("/login", _SEE_OTHER)
    answer.headers["Clear-Site-Data"] = '"storage"'
    answer.delete_cookie(COOKIE)
    return answer


@router.post("/theme")
async def theme(
    request: Request,
    to: Annotated[str, Form(pattern="^(light|dark)$")],
    next: Annotated[str, Form(max_length=8000)] = "/",
) -> Response:
    """Remembers light or dark."""
    answer = RedirectResponse(_local(next), _SEE_OTHER)
    _set(answer, request, "theme", to, max_age=365 * 24 * 3600)
    return answer


def _frame(bundle: Bundle, own: Visit, address: Address) -> dict[str, Any]:
    """What every page of the shop shows."""
    return {
        "name": bundle.name,
        "size": len(bundle),
        "own": own,
        "query": address.q,
        "shown": address.n,
    }


def _number(bundle: Bundle, item: str) -> int:
    if item not in bundle.rows:
        raise HTTPException(404, "This shop has no such item. It may have left the catalogue.")
    return bundle.rows[item]


def _newest(bundle: Bundle, user: str) -> list[str]:
    numbers = dict.fromkeys(reversed(history_of(bundle, user=user, history=None)))
    newest = list(numbers)[:_NEWEST][::-1]
    return [bundle.items["item_id"][number] for number in newest]


async def _similar(served: ModelVersion, number: int, view: str) -> list[Recommendation]:
    near = await served.similar(number, view, _SIMILAR)
    listed = [Recommended(other, cosine, {}) for other, cosine in near]
    return present.recommendations(served.bundle, listed)


async def _reasons(served: ModelVersion, own: Visit, number: int) -> Reasons:
    influences = await served.influence(own.numbers, [number])
    return present.reasons(served.bundle, [number], influences)[0]


def _to(*, history: list[str], query: str = "") -> RedirectResponse:
    return RedirectResponse(link("", h=history, q=query), _SEE_OTHER)


def _local(address: str) -> str:
    """Returns an address if it stays on this server, else the front page."""
    split = urlsplit(address)
    stays = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if stays and not split.netloc and address.isprintable() else "/"


def _set(answer: Response, request: Request, name: str, value: str, **more: Any) -> None:
    answer.set_cookie(name, value, samesite="strict", secure=request.url.scheme == "https", **more)
