"""The pages as text: they show what the shop would answer, and nothing that they hold is markup."""

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest, recommend
from genrec.serve import web
from genrec.serve.batching import Closed, Overloaded
from genrec.serve.guard import COOKIE, issue_cookie
from genrec.serve.models import ModelVersion

FOLDER = Path(web.__file__).parent
HOSTILE = (
    """"><img src=x onerror=alert(1)>'<script>alert(2)</script>{{1234*4321}}${1234*4321}<a_3>"""
)
KEY = "the-key-of-the-owner"


class Page(HTMLParser):
    """Tags with their attributes, as a browser would read them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and attrs.items() <= a.items()]

    @property
    def cards(self) -> list[str]:
        return [str(a["data-id"]) for a in self.of("li", **{"class": "card"}) if a["data-id"]]


def page(client: TestClient, url: str, status: int = 200) -> Page:
    found = client.get(url)
    assert found.status_code == status, found.text
    assert found.headers["content-type"].startswith("text/html")
    return Page(found.text)


def ids(bundle: Bundle, *numbers: int) -> list[str]:
    return [bundle.items["item_id"][int(number)] for number in numbers]


def every_page(bundle: Bundle) -> list[str]:
    first = bundle.items["item_id"][0]
    code = int(bundle.sids_by_set[0][0][0])
    own = f"h={ids(bundle, 1)[0]}&h={ids(bundle, 2)[0]}"
    return ["/", f"/?{own}", "/?q=a+tent", f"/items/{first}?{own}", f"/why/{first}?{own}", "/sids",
            f"/sids?prefix={code}", "/items/none", "/?n=0"]  # fmt: skip


def test_the_grid_is_the_list_of_the_shop(asked: TestClient, bundle: Bundle) -> None:
    one, two = ids(bundle, 4, 9)
    for url, ask in (
        ("/", ListRequest((), 24, system="popular")),
        (f"/?h={one}&h={two}", ListRequest((4, 9), 24)),
        (f"/?h={two}&h={one}&n=5", ListRequest((9, 4), 5)),
        ("/?q=a+warm+jacket", ListRequest((), 24, text="a warm jacket")),
        (f"/?h={one}&q=%20a+warm+jacket", ListRequest((4,), 24, text="a warm jacket")),
    ):
        expected = ids(bundle, *(found.item for found in recommend(bundle, [ask])[0]))
        assert page(asked, url).cards == expected, url
        assert len(expected) > 3


def test_more_is_offered_while_there_may_be_more(asked: TestClient, bundle: Bundle) -> None:
    few = page(asked, "/?n=5")
    (more,) = few.of("a", id="grid-more")
    assert dict(parse_qsl(str(more["href"]).partition("?")[2])) == {"n": "29"}
    assert "hidden" not in more
    (end,) = page(asked, "/?n=100").of("a", id="grid-more")
    assert "hidden" in end


def test_a_change_of_the_history_leads_to_its_address(asked: TestClient, bundle: Bundle) -> None:
    a, b, c = ids(bundle, 0, 1, 2)
    for change, after in (
        (f"/?h={a}&add={b}", [a, b]),
        (f"/?h={a}&h={b}&add={a}", [b, a]),
        (f"/?h={a}&h={b}&h={c}&drop={b}", [a, c]),
        (f"/?h={a}&drop={a}", []),
    ):
        found = asked.get(change)
        assert found.status_code == 303
        query = parse_qsl(found.headers["location"].partition("?")[2])
        assert query == [("h", one) for one in after]
    kept = asked.get(f"/?h={a}&add={b}&q=tea+%26+more").headers["location"]
    assert parse_qsl(kept.partition("?")[2])[-1] == ("q", "tea & more")


def test_a_known_customer_is_their_newest_items(asked: TestClient, bundle: Bundle) -> None:
    user, history = next((u, h) for u, h in bundle.histories.items() if len(set(h)) > 2)
    location = asked.get(f"/?user={user}").headers["location"]
    assert [one for _, one in parse_qsl(location.partition("?")[2])] == ids(bundle, *history)[-20:]
    assert "no user has the id" in asked.get("/?user=nobody").text


def test_the_history_is_shown_and_what_is_lost_is_said(asked: TestClient, bundle: Bundle) -> None:
    one, two = ids(bundle, 3, 7)
    url = f"/?h={one}&h=gone&h={two}&h={one}"
    found = page(asked, url)
    kept = [a["value"] for a in found.of("input", name="h", type="hidden") if a.get("data-slot")]
    assert [value for value in kept if value] == [one, two]
    assert "1 item of this address is not in the shop" in asked.get(url).text


def test_the_tree_adds_up_to_all_items(asked: TestClient, bundle: Bundle) -> None:
    def counts(prefix: str) -> list[int]:
        found = page(asked, f"/sids?prefix={prefix}")
        return [int(str(a["data-count"])) for t, a in found.tags if "data-count" in a]

    codes, sizes = np.unique(bundle.sids_by_set[0][:, 0], return_counts=True)
    assert counts("") == sizes.tolist()
    assert sum(sizes) == len(bundle)
    code = int(codes[sizes.argmax()])
    assert sum(counts(str(code))) == sizes.max()
    below = page(asked, f"/sids?prefix={code}&n=100").cards
    assert below == ids(bundle, *np.flatnonzero(bundle.sids_by_set[0][:, 0] == code))
    whole = ",".join(str(c) for c in bundle.sids_by_set[0][5])
    assert counts(whole) == []
    same = (bundle.sids_by_set[0] == bundle.sids_by_set[0][5]).all(axis=1)
    assert page(asked, f"/sids?prefix={whole}").cards == ids(bundle, *np.flatnonzero(same))


def test_neighbours_are_those_of_the_view(asked: TestClient, bundle: Bundle) -> None:
    item = ids(bundle, 6)[0]
    for view, vectors in bundle.views.items():
        near = vectors @ vectors[6]
        near[6] = -np.inf
        found = page(asked, f"/items/{item}?view={view}").cards
        numbers = [bundle.rows[one] for one in found]
        np.testing.assert_allclose(near[numbers], np.sort(near)[::-1][:12], atol=1e-6)
    assert page(asked, f"/items/{item}?view=smell", 422)


def test_reasons_are_those_of_the_shop(asked: TestClient, bundle: Bundle) -> None:
    one, two, item = ids(bundle, 4, 9, 20)
    script = asked.get(f"/why/{item}?h={one}&h={two}", headers={"Accept": "application/json"})
    told = script.json()["influence"]
    assert {row["id"] for row in told} == {one, two}
    assert told[0]["log_ratio"] >= told[1]["log_ratio"]
    text = asked.get(f"/why/{item}?h={one}&h={two}").text
    for row in told:
        assert f"×{np.exp(row['log_ratio']):.1f}" in text
    assert "Your history is empty" in asked.get(f"/why/{item}").text


def hostile(bundle: Bundle) -> Bundle:
    """The shop, with words of an attacker wherever an item has words."""
    first = pl.col("item") == 0
    words = ["title", "description", "item_id", "brand"]
    items = bundle.items.with_columns(
        *(pl.when(first).then(pl.lit(HOSTILE)).otherwise(name).alias(name) for name in words),
        caption=pl.lit(HOSTILE),
        interests=pl.lit([HOSTILE, HOSTILE]),
    )
    rows = {item_id: row for row, item_id in enumerate(items["item_id"])}
    return bundle.replace(items=items, rows=rows)


def test_words_are_never_markup(bundle: Bundle, opened: Callable[..., TestClient]) -> None:
    with opened(hostile(bundle)) as client:
        item = next(
            str(a["href"])
            for a in page(client, f"/?n=60&{urlencode({'q': HOSTILE})}").of("a")
            if str(a["href"]).startswith("/items/%22")
        )
        why = item.replace("/items/", "/why/")
        places = ("/?h", "/?q", "/?user", "/login?next", "/items/x?view", "/sids?h", "/sids?prefix")
        urls = [item, why, *(f"{place}={quote(HOSTILE)}" for place in places)]
        for url in urls:
            text = client.get(url).text
            found = Page(text)
            assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)], url
            assert [a["src"] for a in found.of("script")] in ([], ["/static/page.js"]), url
            assert "<img src=x" not in text
            assert "alert(2)</script>" not in text
            assert str(1234 * 4321) not in text, url
        shown = html.unescape(client.get(item).text)
        assert shown.count(HOSTILE) > 4  # as it was written, brackets and braces included


def test_nothing_comes_from_elsewhere_or_stands_inline(asked: TestClient, bundle: Bundle) -> None:
    for url in every_page(bundle):
        found = Page(asked.get(url).text)
        for tag, attrs in found.tags:
            for name in ("src", "href", "action", "srcset", "poster", "data"):
                target = attrs.get(name) or "/"
                assert re.match(r"/(?!/)|#", target), (url, tag, target)
            assert "style" not in attrs, (url, tag)
            assert tag not in ("style", "iframe", "object", "embed", "base")
        policy = asked.get(url).headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "style-src 'self';" in policy
        assert "unsafe" not in policy


def test_the_packaged_files_know_no_other_host_and_write_no_markup() -> None:
    files = [*FOLDER.glob("static/*"), *FOLDER.glob("templates/*")]
    assert {path.suffix for path in files} == {".js", ".css", ".svg", ".j2"}
    for path in files:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?:)?//[\w-]+\.\w|@import|url\(", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\|\s*safe",
                             text), path.name  # fmt: skip


def test_no_address_is_a_path(asked: TestClient) -> None:
    for name in ("../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "/etc/passwd", "none.css"):
        found = asked.get(f"/static/{name}")
        assert found.status_code in (404, 405), name
        assert "router" not in found.text


def test_static_files_are_kept_and_asked_for_again(asked: TestClient) -> None:
    found = asked.get("/static/page.css")
    assert found.headers["cache-control"] == "no-cache"
    again = asked.get("/static/page.css", headers={"If-None-Match": found.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Overloaded(7), 429, "Try again in 7 s"),
        (TimeoutError(), 504, "took too long"),
        (Closed("closing"), 503, "restarting"),
        (ConnectionError("http://10.0.0.1:8000/v1: HTTP 500"), 503, "model cannot be reached"),
    ],
)
def test_trouble_is_told_kindly(
    asked: TestClient,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    words: str,
) -> None:
    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(ModelVersion, "recommend", fails)
    monkeypatch.setattr(ModelVersion, "influence", fails)
    found = asked.get("/?q=x%22y")
    assert found.status_code == status
    assert words in found.text
    assert found.headers.get("retry-after") == {429: "7", 503: "5"}.get(status)
    assert Page(found.text).of("a", href="/?q=x%22y")  # to try again
    why = f"/why/{ids(bundle, 0)[0]}"
    script = asked.get(why, headers={"Accept": "application/json"})
    assert script.status_code == status
    assert script.json()["error"]["message"]


def test_what_is_not_there_is_a_page(asked: TestClient) -> None:
    for url, status in (
        ("/items/none", 404),
        ("/why/none", 404),
        ("/sids?prefix=999", 404),
        ("/sids?prefix=0,0,0,0,0", 404),
        ("/sids?prefix=a", 422),
        ("/?n=1000", 422),
        (f"/?q={'x' * 2000}", 422),
    ):
        assert page(asked, url, status).of("a", href="/"), url


def test_without_an_llm_there_are_no_codes_and_no_influence(
    bundle: Bundle, opened: Callable[..., TestClient]
) -> None:
    with opened(bundle.replace(llm=None, sets=None, fusion=None)) as client:
        assert page(client, "/").cards
        assert page(client, "/sids", 404)
        one, two = ids(bundle, 0, 1)
        assert "no language model" in client.get(f"/why/{one}?h={two}").text


def test_the_theme_is_remembered(asked: TestClient) -> None:
    found = asked.post("/theme", data={"to": "dark", "next": "/sids?prefix=1"})
    assert (found.status_code, found.headers["location"]) == (303, "/sids?prefix=1")
    assert "theme=dark" in found.headers["set-cookie"]
    assert Page(asked.get("/").text).of("html", **{"data-theme": "dark"})
    asked.cookies.clear()
    asked.cookies.set("theme", '"><script>')
    assert not Page(asked.get("/").text).of("html")[0].get("data-theme")
    asked.cookies.clear()
    assert asked.post("/theme", data={"to": "red"}).status_code == 422


def test_the_login_opens_for_the_key_alone(
    bundle: Bundle, opened: Callable[..., TestClient]
) -> None:
    with opened(bundle, key=KEY) as client:
        browser = {"Accept": "text/html"}
        sent = client.get("/sids?prefix=1", headers=browser)
        assert (sent.status_code, sent.headers["location"]) == (
            303,
            "/login?next=%2Fsids%3Fprefix%3D1",
        )
        assert client.get("/v1/models").status_code == 401
        assert client.get("/static/page.css").status_code == 200
        assert Page(client.get("/login").text).of("input", type="password")
        wrong = client.post("/login", data={"key": "x" * 20, "next": "/"})
        assert wrong.status_code == 401
        assert "set-cookie" not in wrong.headers
        right = client.post("/login", data={"key": KEY, "next": "/sids"})
        assert right.headers["location"] == "/sids"
        words = right.headers["set-cookie"].lower()
        assert "httponly" in words
        assert "samesite=strict" in words
        assert page(client, "/").cards
        assert client.get("/v1/models").status_code == 200
        gone = client.post("/logout")
        assert gone.headers["location"] == "/login"
        assert gone.headers["clear-site-data"] == '"storage"'  # the tab's conversation
        assert client.get("/v1/models").status_code == 401
        client.cookies.clear()
        client.cookies.set(COOKIE, issue_cookie("another key"))
        assert client.get("/v1/models").status_code == 401
        client.cookies.clear()
        client.cookies.set(COOKIE, issue_cookie(KEY, now=0))
        assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "x",
                                    "javascript:alert(1)", "/a\r\nSet-Cookie: b=c", ""])  # fmt: skip
def test_the_login_leads_nowhere_else(asked: TestClient, target: str) -> None:
    for found in (
        asked.get("/login", params={"next": target}),
        asked.post("/theme", data={"to": "dark", "next": target}),
    ):
        assert found.headers["location"] == "/"
    asked.cookies.clear()
