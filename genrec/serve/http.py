"""What all routes share: the parts of the application, by a parameter `registry: TheRegistry`; errors.

An error has one body on every route; it names fields, and how to fix it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from genrec.recommendations import Unanswerable
from genrec.serve.batching import Closed, Overloaded
from genrec.serve.chat.wording import Wording
from genrec.serve.models import ModelRegistry
from genrec.serve.resolve import Unknown
from genrec.serve.schemas import ErrorBody, Problem
from genrec.serve.settings import Settings

log = logging.getLogger("genrec.serve")
_TYPES = {
    400: "invalid_request",
    401: "authentication",
    403: "permission",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    422: "invalid_request",
    429: "overloaded",
    503: "unavailable",
    504: "timeout",
}


# Coroutines, because FastAPI would send plain functions to a thread.


async def _registry(request: Request) -> ModelRegistry:
    registry: ModelRegistry = request.app.state.registry
    return registry


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _wording(request: Request) -> Wording | None:
    wording: Wording | None = request.app.state.wording
    return wording


TheRegistry = Annotated[ModelRegistry, Depends(_registry)]
TheSettings = Annotated[Settings, Depends(_settings)]
TheWording = Annotated[Wording | None, Depends(_wording)]


def problem(
    status: int, message: str, *, headers: Mapping[str, str] | None = None, type: str | None = None
) -> JSONResponse:
    """Returns an error as an answer.

    Args:
        status: of HTTP.
        message: what is wrong, and how to fix it.
        headers: of the answer.
        type: a word for programs; by the status if None.
    """
    kind = type or _TYPES.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")
    # JSON may spell half a character, which no answer can hold; a message may repeat a field's name.
    sayable = message.encode(errors="replace").decode()
    body = ErrorBody(error=Problem(message=sayable, type=kind))
    return JSONResponse(body.model_dump(), status, headers=headers)


def handle_problems(app: FastAPI) -> None:
    """Turns what handlers raise into answers; what is not named here is a bug, and a 500."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (Unknown, Unanswerable):
        app.add_exception_handler(kind, lambda _, error: problem(422, str(error)))
    app.add_exception_handler(Overloaded, _overloaded)
    app.add_exception_handler(Closed, lambda _, error: problem(503, str(error)))
    app.add_exception_handler(TimeoutError, _late)
    app.add_exception_handler(ConnectionError, _unreachable)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the `responses` of a route that can fail so."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "the body is no JSON",
    401: "no key, or a wrong one",
    403: "not allowed here",
    404: "nothing has this id",
    408: "the request did not arrive in time",
    409: "the artifacts cannot be opened; what was served before still is",
    413: "the request is too large",
    422: "a field is missing, unknown or out of bounds; the message names it",
    429: "too many requests; Retry-After says when to try again",
    503: "the server is shutting down, or the one that runs the LLM cannot be reached",
    504: "no answer in time",
}


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    messages = [_message(each) for each in errors[:5]]
    if len(errors) > len(messages):
        messages.append(f"and {len(errors) - len(messages)} more")
    return problem(422, "; ".join(messages))


def _message(error: Mapping[str, Any]) -> str:
    """One field's problem; what the client wrote in it is not repeated."""
    if error["type"] == "json_invalid":
        return f"the body is no JSON, from character {error['loc'][-1]} on"
    if tuple(error["loc"]) == ("body",) and error["type"] != "value_error":
        return "expected a JSON object, sent with Content-Type: application/json"
    text = error["msg"].removeprefix("Value error, ")
    return text if tuple(error["loc"]) == ("body",) else f"{_field(error['loc'])}: {text}"


def _field(location: Sequence[Any]) -> str:
    """`("body", "history", 2)` to `history[2]`."""
    name = ""
    for part in location[1:] or location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:100]


def _overloaded(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Overloaded)
    return problem(429, str(error), headers={"Retry-After": str(error.retry_after)})


def _late(_: Request, __: Exception) -> JSONResponse:
    return problem(504, "there was no answer in time; ask for less, or try again later")


def _unreachable(_: Request, error: Exception) -> JSONResponse:
    """The address of the LLM's server is the operator's affair: it goes to the log."""
    log.error("%s", error)
    return problem(
        503, "the LLM's server cannot be reached; try again later", headers={"Retry-After": "5"}
    )
