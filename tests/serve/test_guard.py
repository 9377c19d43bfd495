"""Keys, rates, sizes, hosts, and clients that leave."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from genrec.serve.guard import (
    COOKIE,
    COOKIE_LIFETIME,
    Buckets,
    Guard,
    cookie_is_valid,
    issue_cookie,
)
from genrec.serve.settings import Settings

KEY = "correct-horse-battery"
Reply = tuple[int, dict[str, str], bytes]


class Echo:
    """Answers with the size of the body; can be told to wait first."""

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = False
        self.waits = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        body = (await receive())["body"]
        try:
            if self.waits:
                await asyncio.sleep(10)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})


def ask(
    app: Any,
    *parts: bytes,
    path: str = "/v1/models",
    method: str = "POST",
    client: str = "10.0.0.1",
    stays: float = 5,
    **headers: str,
) -> Reply:
    """One request, its body in parts; the client leaves `stays` seconds after it."""
    sent: list[Any] = []
    given = list(parts or (b"",))

    async def receive() -> dict[str, Any]:
        if given:
            part = given.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(given)}
        await asyncio.sleep(stays)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    named = {"host": "localhost:8000"} | {k.replace("_", "-"): v for k, v in headers.items()}
    scope = {
        "type": "http",
        "path": path,
        "method": method,
        "client": (client, 1),
        "headers": [(k.encode(), v.encode()) for k, v in named.items()],
    }
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 8))
    if not sent:
        return 0, {}, b""
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer  {KEY}", 200),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        (KEY, 401),
        (f"Digest {KEY}", 401),
        (f"Basic {KEY}", 401),
        ("Bearer \xe9", 401),
        ("", 401),
    ],
)
def test_the_key(authorization: str, status: int) -> None:
    echo = Echo()
    found, headers, _ = ask(Guard(echo, Settings(key=KEY)), authorization=authorization)
    assert found == status
    assert echo.asked == (status == 200)
    assert ("www-authenticate" in headers) == (status == 401)


def test_without_a_header_and_what_needs_no_key() -> None:
    guard = Guard(Echo(), Settings(key=KEY))
    assert ask(guard)[0] == 401
    assert ask(guard, path="/", method="GET")[0] == 401
    assert ask(guard, path="/metrics", method="GET")[0] == 401
    for path in ("/healthz", "/login", "/static/page.css"):
        assert ask(guard, path=path, method="GET")[0] == 200
    assert ask(guard, path="/static", method="GET")[0] == 401
    assert ask(guard, path="/healthzz", method="GET")[0] == 401
    assert ask(Guard(Echo(), Settings()))[0] == 200


def test_a_browser_is_sent_to_the_login_and_comes_back_with_a_cookie() -> None:
    guard = Guard(Echo(), Settings(key=KEY))
    status, headers, _ = ask(guard, path="/items/a&b=?", method="GET", accept="text/html,*/*")
    assert (status, headers["location"]) == (303, "/login?next=%2Fitems%2Fa%26b%3D%3F")
    assert ask(guard, path="/", method="POST", accept="text/html")[0] == 401
    named = f"theme=dark; {COOKIE}="
    assert ask(guard, path="/", cookie=named + issue_cookie(KEY))[0] == 200
    assert ask(guard, path="/", cookie=named + issue_cookie(KEY + "x"))[0] == 401
    assert ask(guard, path="/", cookie=named + issue_cookie(KEY, now=0))[0] == 401
    assert ask(guard, path="/", cookie=named)[0] == 401


def test_a_body_is_counted_while_it_comes() -> None:
    echo = Echo()
    guard = Guard(echo, Settings(max_body=100))
    assert ask(guard, b"x" * 60, b"y" * 40) == (200, {}, b"100")
    assert ask(guard, b"x" * 60, b"y" * 41)[0] == 413
    assert ask(guard, *[b"x" * 10] * 1000)[0] == 413
    assert ask(guard, b"", content_length="101")[0] == 413
    assert ask(guard, b"", content_length="9" * 50)[0] == 413
    assert ask(guard, b"", content_length="-1")[0] == 413
    assert echo.asked == 1


def test_a_body_that_does_not_come() -> None:
    async def silent() -> None:
        await asyncio.sleep(5)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/x", "method": "POST", "headers": [], "client": None}
    asyncio.run(Guard(Echo(), Settings(timeout=0.05))(scope, silent, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


def test_who_leaves_is_not_computed_for() -> None:
    echo = Echo()
    echo.waits = True
    assert ask(Guard(echo, Settings()), b"x", stays=0.05) == (0, {}, b"")
    assert echo.cancelled


def test_what_a_handler_raises_comes_through() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        ask(Guard(broken, Settings()))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_arithmetic_of_buckets() -> None:
    clock = Clock()
    buckets = Buckets(2, 3, clock=clock)  # 2 per second, 3 at once
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.25
    assert buckets.take("a") == pytest.approx(0.25)  # refusals cost nothing
    clock.now += 0.25
    assert buckets.take("a") == 0
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]  # never more than 3
    assert [Buckets(0, 1).take("a") for _ in range(9)] == [0] * 9


def test_who_was_away_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.serve.guard._CALLERS", 10)
    buckets = Buckets(1, 1, clock=Clock())
    for n in range(100):
        buckets.take(str(n))
    assert len(buckets._filled) == 10


def test_rates_are_by_address_and_say_when() -> None:
    guard = Guard(Echo(), Settings(rate=0.1, burst=2))
    assert [ask(guard)[0] for _ in range(3)] == [200, 200, 429]
    status, headers, _ = ask(guard)
    assert status == 429
    assert 9 <= int(headers["retry-after"]) <= 11
    assert ask(guard, client="10.0.0.2")[0] == 200
    assert ask(guard, path="/static/page.css", method="GET")[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200)]
    + [(name, 421) for name in ("evil.example", "localhost.evil.example", "", "[::2]", "a:b")],
)
def test_only_this_machine_s_names_without_a_key(host: str, status: int) -> None:
    hosts = frozenset({"localhost", "127.0.0.1", "[::1]"})
    assert ask(Guard(Echo(), Settings(hosts=hosts)), host=host)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "same-origin", "origin": "null"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:8000"}, 200),
        ({}, 200),
    ],
)
def test_other_sites_pages_cannot_post(headers: dict[str, str], status: int) -> None:
    guard: Callable[..., Any] = Guard(Echo(), Settings())
    assert ask(guard, **headers)[0] == status
    assert ask(guard, method="GET", **headers)[0] == 200


def test_a_cookie_is_valid_until_its_time_is_over() -> None:
    value = issue_cookie(KEY, now=1000)
    assert cookie_is_valid(KEY, value, now=1000)
    assert cookie_is_valid(KEY, value, now=999 + COOKIE_LIFETIME)
    assert not cookie_is_valid(KEY, value, now=1000 + COOKIE_LIFETIME)
    assert cookie_is_valid(KEY, issue_cookie(KEY))
    assert KEY not in value


def test_another_key_makes_a_cookie_worthless() -> None:
    assert not cookie_is_valid("another key", issue_cookie(KEY))


@pytest.mark.parametrize("forged", ["", ".", "x", "9999999999", "9999999999.", "é.ü", ".." * 50])
def test_a_cookie_that_was_not_issued(forged: str) -> None:
    assert not cookie_is_valid(KEY, forged)


def test_a_longer_time_needs_the_key() -> None:
    expires, _, signature = issue_cookie(KEY, now=1000).partition(".")
    assert not cookie_is_valid(KEY, f"{int(expires) + 1}.{signature}", now=1000)
