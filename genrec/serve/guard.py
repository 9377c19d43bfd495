"""Who may ask, how often, and how much: checked before a request reaches a handler.

Pure ASGI. A body is read here, whole and within its limit, because only then the next message can mean
one thing: the client has left. Its handler is cancelled, and so its place in the queue is free.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec.serve.http import problem
from genrec.serve.settings import Settings

OPEN = ("/healthz", "/login", "/static/")  # answered without a key; the login page needs files
_UNCOUNTED = ("/healthz", "/metrics", "/static/")  # a page has many small parts
_CALLERS = 10_000  # whose rates are remembered; who was away longest is forgotten
COOKIE = "genrec_key"  # the page's proof that its visitor knew the key
COOKIE_LIFETIME = 12 * 3600  # seconds
LEFT = 499  # the status, in logs and metrics, of a request whose client did not wait


class Buckets:
    """Token buckets by caller: `burst` at once, `rate` per second for long.

    Args:
        rate: requests per second; 0 for no limit.
        burst: requests at once.
        clock: seconds, ever growing.
    """

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._filled: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Takes one token; returns 0, or the seconds until there will be one."""
        if not self.rate:
            return 0.0
        now = self._clock()
        tokens, since = self._filled.pop(caller, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
        self._filled[caller] = (tokens if wait else tokens - 1, now)
        if len(self._filled) > _CALLERS:
            self._filled.popitem(last=False)
        return wait


class Guard:
    """Refuses requests that are not allowed, and cancels those that nobody waits for.

    Args:
        app: the application that it protects.
        settings: the key, the rates, the largest body.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._buckets = Buckets(settings.rate, settings.burst)
        self._key = settings.key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            body = await self._body(scope, receive)
            if isinstance(body, bytes):
                await self._attended(scope, body, receive, send)
                return
            refusal = body
        await refusal(scope, receive, send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a caller who may not ask; None for others."""
        headers, path = Headers(scope=scope), scope["path"]
        hosts, host = self._settings.hosts, _host(headers.get("host", ""))
        if hosts is not None and host not in hosts:
            return problem(421, f"this server has another name; use one of {sorted(hosts)}")
        if not path.startswith(_UNCOUNTED):
            client = scope.get("client")
            wait = self._buckets.take(client[0] if client else "")
            if wait:
                again = max(1, round(wait + 0.5))
                text = f"too many requests from your address; try again in {again} s"
                return problem(429, text, headers={"Retry-After": str(again)}, type="rate_limit")
        if self._key is not None and not _open(path) and not _knows(headers, self._key):
            return _unknown(scope)
        if scope["method"] not in ("GET", "HEAD") and _foreign(headers, host):
            return problem(403, "requests from other sites' pages are not answered")
        return None

    async def _body(self, scope: Scope, receive: Receive) -> bytes | ASGIApp:
        """The whole body, or the answer to one that is too large or too slow."""
        most = self._settings.max_body
        too_large = problem(413, f"the request is larger than {most} bytes; send less at once")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            return too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.timeout):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _nobody
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        return too_large
        except TimeoutError:
            return problem(
                408, "the request did not arrive in time", headers={"Connection": "close"}
            )
        return b"".join(parts)

    async def _attended(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Runs the application until it has answered, or its client leaves."""
        given, left, answered = False, asyncio.Event(), False

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def note(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body"):
                answered = True
            await send(message)

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if not answered:
                scope["genrec.left"] = True
                work.cancel()

        work = asyncio.ensure_future(self._app(scope, replay, note))
        watcher = asyncio.create_task(watch())
        try:
            await asyncio.wait([work])
        finally:  # cancelled itself when the server's grace is over
            watcher.cancel()
            work.cancel()
        if not (work.cancelled() and scope.get("genrec.left")):
            work.result()


def issue_cookie(key: str, *, now: float | None = None) -> str:
    """Returns the cookie's value for somebody who gave the key: an expiry time, signed with the key.

    Nothing is stored: a new key, or the end of the time, makes every cookie worthless.

    Args:
        key: the server's.
        now: seconds since 1970; the clock's by default.
    """
    expires = str(int(time.time() if now is None else now) + COOKIE_LIFETIME)
    return f"{expires}.{_sign(key, expires)}"


def cookie_is_valid(key: str, value: str, *, now: float | None = None) -> bool:
    """Says whether `issue_cookie` made this value with this key, less than `COOKIE_LIFETIME` ago.

    Takes the same time wherever a wrong value differs from the right one.
    """
    expires, _, signature = value.partition(".")
    if not hmac.compare_digest(signature.encode(), _sign(key, expires).encode()):
        return False
    return int(expires) > (time.time() if now is None else now)


def _sign(key: str, expires: str) -> str:
    return hmac.new(key.encode(), f"{COOKIE} until {expires}".encode(), "sha256").hexdigest()


def _knows(headers: Headers, key: str) -> bool:
    """Compared by digest and in constant time, so that time tells nothing of the key."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return hmac.compare_digest(_digest(given.strip()), _digest(key))
    return cookie_is_valid(key, cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))


def _open(path: str) -> bool:
    return any(path == free or (free.endswith("/") and path.startswith(free)) for free in OPEN)


def _unknown(scope: Scope) -> ASGIApp:
    """Sends a person to the login page, and answers 401 to a program.

    Without a Basic challenge: browsers would show a window of their own over the page's.
    """
    if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
        query = scope.get("query_string", b"").decode("latin-1")
        address = scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse("/login?" + urlencode({"next": address}), status_code=303)
    text = "this server wants its API key, as in `Authorization: Bearer KEY`"
    return problem(401, text, headers={"WWW-Authenticate": "Bearer"})


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers nothing: the client left while it was sending."""
    scope["genrec.left"] = True


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _host(header: str) -> str:
    """`localhost:8000` to `localhost`, `[::1]:8000` to `[::1]`."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdecimal() else header).lower()


def _foreign(headers: Headers, host: str) -> bool:
    """Whether a browser sent this for another site's page; other clients send neither header."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and _host(origin.partition("://")[2]) != host
