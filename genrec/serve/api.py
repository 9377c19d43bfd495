"""The REST API: recommendations, items, their pictures and neighbours."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse

from genrec.serve import present
from genrec.serve.live import Edition
from genrec.serve.operate import note
from genrec.serve.parts import TheLive
from genrec.serve.pictures import picture_of
from genrec.serve.problems import documented
from genrec.serve.recommend import Ask, Recommended
from genrec.serve.resolve import Unknown, ask_of, number_of, view_of
from genrec.serve.schemas import (
    MAX_ID,
    MAX_K,
    Item,
    Model,
    Models,
    Reasons,
    Recommendation,
    Recommendations,
    RecommendationsRequest,
    Similar,
)

router = APIRouter(prefix="/v1", tags=["catalogue"])
ItemId = Annotated[str, Path(max_length=MAX_ID, description="the owner's item id")]


@router.post(
    "/recommendations",
    tags=["recommendations"],
    summary="Recommend items for a history, a known user, or a wish in words",
    responses=documented(400, 503, 504),
)
async def recommendations(
    body: RecommendationsRequest, request: Request, live: TheLive
) -> Recommendations:
    """Every system ranks the history, and their lists are fused as the recipe says.

    A `query` is searched for and joined with them. Filters, excluded items and those of the history
    never come back. Where fewer items than `k` are left, fewer are returned.
    """
    note(request, user=body.user, query=body.query)
    async with live.edition() as edition, asyncio.timeout(edition.timeout):
        ask = await asyncio.to_thread(ask_of, edition.shop, body) if body.filters else None
        ask = ask or ask_of(edition.shop, body)
        found = await edition.recommend(ask)
        reasons = await _reasons(edition, ask, found) if body.explain else None
        return Recommendations(
            recommendations=present.recommendations(edition.shop, found, reasons),
            model=edition.shop.name,
            version=edition.shop.version,
        )


async def _reasons(edition: Edition, ask: Ask, found: list[Recommended]) -> list[Reasons]:
    items = [one.item for one in found]
    return present.reasons(edition.shop, items, await edition.influence(ask.history, items))


@router.get("/models", tags=["recommendations"], summary="What is served, in OpenAI's shape")
async def models(live: TheLive) -> Models:
    """One model: the recipe. `systems` can be asked for alone, `views` by /v1/similar."""
    async with live.edition() as edition:
        shop = edition.shop
        model = Model(
            id=shop.name,
            created=edition.opened,
            version=shop.version,
            systems=list(shop.systems),
            views=sorted(shop.views),
            items=len(shop),
        )
        return Models(data=[model])


# Ids may hold slashes: hence `:path`, and the picture's route first.
@router.get(
    "/items/{item_id:path}/image",
    summary="An item's picture",
    response_class=Response,
    responses=documented(404) | {200: {"content": {"image/*": {}}, "description": "the picture"}},
)
async def image(item_id: ItemId, request: Request, live: TheLive) -> Response:
    """The file that the catalogue names for this item; no part of the request is ever a path."""
    async with live.edition() as edition:
        picture = await asyncio.to_thread(picture_of, edition.shop, _known(edition, item_id))
    if picture is None:
        raise HTTPException(404, "this item has no picture")
    headers = {"Cache-Control": "private, max-age=3600", "ETag": picture.etag}
    if request.headers.get("if-none-match") == picture.etag:
        return Response(status_code=304, headers=headers)
    return FileResponse(picture.path, media_type=picture.media_type, headers=headers)


@router.get("/items/{item_id:path}", summary="An item", responses=documented(404))
async def item(item_id: ItemId, live: TheLive) -> Item:
    """Its words, caption, mined interests, semantic ID and attributes."""
    async with live.edition() as edition:
        return present.item(edition.shop, _known(edition, item_id))


@router.get(
    "/similar/{item_id:path}",
    summary="Items that are like one, in one view",
    responses=documented(404, 503, 504),
)
async def similar(
    item_id: ItemId,
    live: TheLive,
    view: Annotated[
        str | None,
        Query(max_length=50, description="text, image, behaviour ...; /v1/models names them"),
    ] = None,
    k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
) -> Similar:
    """By cosine. An item that the view knows nothing of has no neighbours, and is nobody's."""
    async with live.edition() as edition:
        shop, number = edition.shop, _known(edition, item_id)
        name = view_of(shop, view)
        found = await edition.similar(number, name, k)
        items = [
            Recommendation(place=n, score=score, item=present.item(shop, other), systems={name: n})
            for n, (other, score) in enumerate(found, 1)
        ]
        return Similar(id=item_id, view=name, items=items)


def _known(edition: Edition, item_id: str) -> int:
    try:
        return number_of(edition.shop, item_id, "item_id")
    except Unknown as error:
        raise HTTPException(404, str(error)) from error
