"""What operators look at: request ids, logs of one JSON object per line, metrics, health, reload."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.pipeline import MissingArtifact
from genrec.serve.guard import LEFT
from genrec.serve.http import TheRegistry, TheSettings, documented, problem
from genrec.serve.models import ModelRegistry
from genrec.serve.schemas import Health, Reloaded
from genrec.serve.settings import Settings
from genrec.store import DamagedArtifact

log = logging.getLogger("genrec.serve")
router = APIRouter(tags=["operations"])
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    # The page brings its scripts, styles and images itself; nothing else is ever loaded.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none, forms would come without an origin too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # unless the answer says otherwise
}

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_REFUSED = {401: "key", 408: "slow", 413: "size", 421: "host", 429: "overload", 504: "timeout"}


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, event, request id, and the record's `fields`.

    Args:
        text: exceptions may show their messages, which can hold texts of a request.
    """

    def __init__(self, *, text: bool = False) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        if (request_id := _request_id.get()) is not None:
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line |= _error_fields(record.exc_info[1], text=self._text)
        return json.dumps(line, default=str)


def _error_fields(error: BaseException, *, text: bool) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    trace = [f"{frame.name} {frame.filename}:{frame.lineno}" for frame in frames]
    fields: dict[str, Any] = {"error": type(error).__name__, "trace": trace}
    return fields | {"message": str(error)} if text else fields


def note(request: Request, **fields: str | None) -> None:
    """Adds a request's texts (a user id, a query) to its line in the log, if the server may log them."""
    if request.app.state.settings.log_text:
        request.scope.setdefault("genrec.noted", {}).update(fields)


class Metrics:
    """The server's counters, for Prometheus; each application has its own.

    Args:
        registry: whose queue is measured, and whose batches.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self.collectors = collectors = CollectorRegistry()
        ProcessCollector(registry=collectors)
        PlatformCollector(registry=collectors)
        self.requests = Counter(
            "genrec_requests", "Requests answered.", ["route", "status"], registry=collectors
        )
        self.seconds = Histogram(
            "genrec_request_seconds",
            "From the request's first byte to the answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=collectors,
        )
        self.running = Gauge("genrec_requests_running", "Requests now.", registry=collectors)
        self.rejected = Counter(
            "genrec_rejected", "Requests turned away.", ["reason"], registry=collectors
        )
        self.batch_size = Histogram(
            "genrec_batch_size", "Requests per batch.", buckets=_SIZES, registry=collectors
        )
        self.batch_seconds = Histogram(
            "genrec_batch_seconds", "Time per batch.", buckets=_SECONDS, registry=collectors
        )
        queue = Gauge("genrec_queue_depth", "Requests that wait for a batch.", registry=collectors)
        queue.set_function(lambda: registry.waiting)
        kept = Gauge("genrec_prompt_cache_bytes", "Prompts kept computed.", registry=collectors)
        kept.set_function(lambda: registry.prompt_bytes)
        registry.watch = self.batch

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request; `route` is a path of the API, never what a client wrote."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)
        if status in _REFUSED:
            self.rejected.labels(_REFUSED[status]).inc()

    def batch(self, size: int, seconds: float) -> None:
        """Counts a computed batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)


class Watch:
    """Outermost: gives each request an id, counts and logs it, and answers uncaught errors.

    Args:
        app: the application that it watches.
        metrics: where it counts.
        settings: whether logs may hold text.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: Settings) -> None:
        self._app, self._metrics, self._settings = app, metrics, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        token = _request_id.set(request_id)
        status, begun = 0, time.perf_counter()

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            with self._metrics.running.track_inprogress():
                await self._app(scope, receive, marked)
        except Exception:  # a bug: the client is told so, the log where
            log.exception("unhandled error")
            if not status:
                answer = problem(500, f"an error of the server's; its id is {request_id}")
                await answer(scope, receive, marked)
        finally:
            self._done(scope, LEFT if scope.get("genrec.left") else status, begun)
            _request_id.reset(token)

    def _done(self, scope: Scope, status: int, begun: float) -> None:
        seconds = time.perf_counter() - begun
        route = getattr(scope.get("route"), "path", None) or "none"
        self._metrics.request(route, status, seconds)
        fields = {"method": scope["method"][:10], "route": route, "status": status}
        fields["ms"] = round(1000 * seconds, 1)
        if self._settings.log_text:
            fields |= {"path": scope["path"], **scope.get("genrec.noted", {})}
        log.info("request", extra={"fields": fields})


@router.get("/healthz", summary="Is the server able to answer?", response_model=Health)
async def healthz(registry: TheRegistry) -> Health:
    """Needs no key. The port opens once the artifacts are loaded; until then connections are refused."""
    async with registry.current() as served:
        waiting = served.batcher.waiting
        return Health(
            status="ok",
            model=registry.bundle.name,
            version=registry.bundle.version,
            waiting=waiting,
        )


@router.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "the text format"}},
)
async def metrics(request: Request) -> Response:
    """Requests by route and status, their times, the queue, batches, what was turned away."""
    counted: Metrics = request.app.state.metrics
    return Response(
        generate_latest(counted.collectors), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


@router.post(
    "/admin/reload",
    summary="Serve the newest artifacts",
    responses=documented(401, 403, 409),
)
async def reload(registry: TheRegistry, settings: TheSettings) -> Reloaded:
    """Reads the recipe again and opens what it names; running requests end on what they began with.

    Only on a server with a key. If the artifacts cannot be opened, the old ones stay.
    """
    if settings.key is None:
        raise HTTPException(403, "start the server with an API key to be able to reload it")
    try:
        changed = await registry.reload()
    except (MissingArtifact, DamagedArtifact, ValueError, OSError) as error:
        log.warning("reload failed", exc_info=error)
        raise HTTPException(409, f"nothing was changed: {error}") from error
    log.info("reloaded", extra={"fields": {"changed": changed, "version": registry.bundle.version}})
    return Reloaded(changed=changed, model=registry.bundle.name, version=registry.bundle.version)
