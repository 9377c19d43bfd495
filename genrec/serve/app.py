"""The application: routers, errors as answers, and the two layers that every request passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute

import genrec
from genrec.serve import api, operate
from genrec.serve.chat import completions
from genrec.serve.chat.guide import guide_of
from genrec.serve.chat.wording import Wording
from genrec.serve.guard import Guard
from genrec.serve.http import documented, handle_problems
from genrec.serve.models import ModelRegistry
from genrec.serve.operate import Metrics, Watch
from genrec.serve.settings import Settings
from genrec.serve.web import pages

_ABOUT = """Recommendations by an LLM that writes semantic IDs, joined with retrievers.

Ids are those of the catalogue's owner. A server with a key wants `Authorization: Bearer KEY`; browsers
are asked for it once, at /login. Every answer has an `X-Request-ID`.
"""
_ANYWHERE = (401, 413, 422, 429)  # the statuses of errors that every route has
_TAGS = [
    {"name": "recommendations", "description": "Lists of items, and why each came."},
    {"name": "chat", "description": "The same in words, in OpenAI's protocol."},
    {"name": "catalogue", "description": "Items, their images and neighbours."},
    {"name": "operations", "description": "For who runs the server."},
]


def create_app(
    registry: ModelRegistry, settings: Settings, *, wording: Wording | None = None
) -> FastAPI:
    """Makes the application.

    Args:
        registry: what is served; opened when the server starts, if it is not yet, and closed when it
            ends.
        settings: limits.
        wording: a model that introduces the chat's items; None leaves that to a template.
    """
    app = FastAPI(
        title=f"genrec {genrec.__version__}",
        version=genrec.__version__,
        description=_ABOUT,
        openapi_tags=_TAGS,
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        generate_unique_id_function=_operation,
    )
    app.state.registry, app.state.settings, app.state.wording = registry, settings, wording
    registry.warm = guide_of  # else the first who chats would wait for it
    app.state.metrics = metrics = Metrics(registry)
    for router in (api.router, operate.router):
        app.include_router(router, responses=documented(*_ANYWHERE))
    app.include_router(completions.router, responses=documented(400, 404, *_ANYWHERE, 503, 504))
    app.include_router(pages.router)
    handle_problems(app)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Watch, metrics=metrics, settings=settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    registry: ModelRegistry = app.state.registry
    wording: Wording | None = app.state.wording
    await registry.start()
    try:
        yield
    finally:
        await registry.close()
        if wording is not None:
            await wording.close()


def _operation(route: APIRoute) -> str:
    """Operations are named after their functions, which clients made from the document then show."""
    return route.name
