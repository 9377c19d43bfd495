"""What the application is made of, as its handlers ask for it: by a parameter `live: TheLive`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from genrec.serve.chat.wording import Wording
from genrec.serve.live import Live
from genrec.serve.settings import Settings

# Coroutines, because FastAPI would send plain functions to a thread.


async def _live(request: Request) -> Live:
    found: Live = request.app.state.live
    return found


async def _settings(request: Request) -> Settings:
    found: Settings = request.app.state.settings
    return found


async def _wording(request: Request) -> Wording | None:
    found: Wording | None = request.app.state.wording
    return found


TheLive = Annotated[Live, Depends(_live)]
TheSettings = Annotated[Settings, Depends(_settings)]
TheWording = Annotated[Wording | None, Depends(_wording)]
