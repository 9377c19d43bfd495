"""Templates to answers: everything escaped, and errors in plain words.

What a page may load is said by the policy that `operate.Watch` puts on every answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genrec.recommendations import Unanswerable
from genrec.serve.batching import Closed, Overloaded
from genrec.serve.resolve import Unknown
from genrec.sid.codes import token_name

FOLDER = Path(__file__).parent
SYSTEMS = {
    "generative": "Language model",
    "magnitude": "Similar meaning",
    "cooccurrence": "Bought together",
    "popular": "Popular",
    "itemknn": "Bought with the same items",
    "ease": "Linear model of buyers",
    "graph": "Bought next",
    "sasrec": "Sequence model",
    "anchorrec": "Anchored content",
    "norm_concat": "Buyers and content",
    "search": "Your query",
    "generative-search": "Model on your query",
}
# Not `no-store`, so that a browser may keep the page while its visitor goes back and forth.
_HEADERS = {"Cache-Control": "private, no-cache"}
VIEWS = {"text": "Text", "image": "Image", "behaviour": "Bought by the same people"}


class Static(StaticFiles):
    """The package's own files. Browsers keep them, and ask each time whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Returns the file, or 304 where the browser has it."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def link(*parts: str, **query: Any) -> str:
    """Returns an address on this server; parts are quoted, a list repeats its key, empty is left out."""
    given = {key: value for key, value in query.items() if value not in (None, "", [], ())}
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """Returns a page; `values` are what its template names in addition to what every page shows."""
    theme = request.cookies.get("theme")
    text = _TEMPLATES.get_template(template).render(
        theme=theme if theme in ("light", "dark") else None,
        locked=request.app.state.settings.key is not None,
        here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        **values,
    )
    return HTMLResponse(text, status, headers=_HEADERS | (headers or {}))


class Page(APIRoute):
    """A route whose errors are pages too, unless the caller asks for JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler that FastAPI made, with its errors caught."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError, Unknown, Unanswerable) as error:
                if wants_json(request):
                    raise
                return _problem(request, *_refusal(error))
            except (Overloaded, TimeoutError, Closed, ConnectionError) as error:
                if wants_json(request):
                    raise
                return _problem(request, *_trouble(error))

        return handler


def wants_json(request: Request) -> bool:
    """Says whether a script asks, rather than somebody who reads."""
    return "application/json" in request.headers.get("accept", "")


def _refusal(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return 422, f"{first['loc'][-1]}: {first['msg']}"
    return 422, str(error)


def _trouble(error: Exception) -> tuple[int, str, int | None]:
    if isinstance(error, Overloaded):
        return 429, "Many people are asking at the moment.", error.retry_after
    if isinstance(error, Closed):
        return 503, "The shop is restarting.", 5
    if isinstance(error, ConnectionError):
        return 503, "The language model cannot be reached at the moment.", 5
    return 504, "The answer took too long.", None


def _problem(request: Request, status: int, message: str, wait: int | None = None) -> Response:
    return render(
        request,
        "error.html.j2",
        status=status,
        headers={"Retry-After": str(wait)} if wait else None,
        code=status,
        phrase=HTTPStatus(status).phrase,
        message=message,
        wait=wait,
    )


def _ordinal(rank: int) -> str:
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10)
    return f"{rank}{ending or 'th'}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(link=link, systems=SYSTEMS, views=VIEWS, token_name=token_name)
_TEMPLATES.filters["ordinal"] = _ordinal
