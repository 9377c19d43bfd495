"""The REST API: recommendations, items, their images and neighbours."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse

from genrec.serve import present
from genrec.serve.http import TheRegistry, documented
from genrec.serve.models import ModelVersion
from genrec.serve.operate import note
from genrec.serve.resolve import Unknown, list_request, number_of, view_of
from genrec.serve.schemas import (
    MAX_ID,
    MAX_K,
    Item,
    Model,
    Models,
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
    summary="Recommend items for a history, a known user, or a query in words",
    responses=documented(400, 503, 504),
)
async def recommendations(
    body: RecommendationsRequest, request: Request, registry: TheRegistry
) -> Recommendations:
    """Every system ranks the history, and their lists are fused as the recipe says.

    A `query` is searched for and joined with them. Filters, excluded items and those of the history
    never come back. Where fewer items than `k` are left, fewer are returned.
    """
    note(request, user=body.user, query=body.query)
    async with registry.current() as served, asyncio.timeout(served.timeout):
        if body.filters:
            wanted = await asyncio.to_thread(list_request, served.bundle, body)
        else:
            wanted = list_request(served.bundle, body)
        listed = await served.recommend(wanted)
        reasons = None
        if body.explain:
            items = [entry.item for entry in listed]
            said = (wanted.context, wanted.profile)
            influences = await served.influence(wanted.history, items, *said)
            reasons = present.reasons(served.bundle, items, influences)
        return Recommendations(
            recommendations=present.recommendations(served.bundle, listed, reasons),
            model=served.bundle.name,
            version=served.bundle.version,
        )


@router.get("/models", tags=["recommendations"], summary="What is served, in OpenAI's shape")
async def models(registry: TheRegistry) -> Models:
    """One model: the recipe. `systems` can be asked for alone, `views` by /v1/similar."""
    async with registry.current() as served:
        bundle = served.bundle
        model = Model(
            id=bundle.name,
            created=served.opened,
            version=bundle.version,
            systems=list(bundle.systems),
            views=sorted(bundle.views),
            items=len(bundle),
        )
        return Models(data=[model])


# Ids may hold slashes: hence `:path`, and the image's route first.
@router.get(
    "/items/{item_id:path}/image",
    summary="An item's image",
    response_class=Response,
    responses=documented(404) | {200: {"content": {"image/*": {}}, "description": "the image"}},
)
async def image(item_id: ItemId, request: Request, registry: TheRegistry) -> Response:
    """The file that the catalogue names for this item; no part of the request is ever a path."""
    async with registry.current() as served:
        file = await asyncio.to_thread(present.image_of, served.bundle, _known(served, item_id))
    if file is None:
        raise HTTPException(404, "this item has no image")
    headers = {"Cache-Control": "private, max-age=3600", "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return FileResponse(file.path, media_type=file.media_type, headers=headers)


@router.get("/items/{item_id:path}", summary="An item", responses=documented(404))
async def item(item_id: ItemId, registry: TheRegistry) -> Item:
    """Its texts, caption, mined interests, semantic ID and attributes."""
    async with registry.current() as served:
        return present.item(served.bundle, _known(served, item_id))


@router.get(
    "/similar/{item_id:path}",
    summary="Items that are like one, in one view",
    responses=documented(404, 503, 504),
)
async def similar(
    item_id: ItemId,
    registry: TheRegistry,
    view: Annotated[
        str | None,
        Query(max_length=50, description="text, image, behaviour ...; /v1/models names them"),
    ] = None,
    k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
) -> Similar:
    """By cosine. An item that the view knows nothing of has no neighbours and is no neighbour."""
    async with registry.current() as served:
        bundle, number = served.bundle, _known(served, item_id)
        name = view_of(bundle, view)
        near = await served.similar(number, name, k)
        items = [
            Recommendation(
                place=n, score=score, item=present.item(bundle, other), systems={name: n}
            )
            for n, (other, score) in enumerate(near, 1)
        ]
        return Similar(id=item_id, view=name, items=items)


def _known(served: ModelVersion, item_id: str) -> int:
    try:
        return number_of(served.bundle, item_id, "item_id")
    except Unknown as error:
        raise HTTPException(404, str(error)) from error
