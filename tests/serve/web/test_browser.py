"""The page in headless Chromium: by mouse, by keyboard, on a phone, without JavaScript, in trouble."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest, recommend
from genrec.serve.web import look

pytestmark = pytest.mark.browser

CHAT = "**/v1/chat/completions"
LISTS = "**/v1/recommendations"
Opens = Callable[..., Any]


@pytest.fixture
def opens(chromium: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """Opens a page in a fresh browser window; fails the test on an error of its scripts."""
    monkeypatch.setattr(look, "CODES", 2)  # the server is a thread of ours: its tree has pages
    contexts, errors = [], []

    def open_page(path: str = "/", **settings: Any) -> Any:
        contexts.append(chromium.new_context(base_url=address, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda m: errors.append(m.text) if "Content Security" in m.text else None
        )
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def cards(page: Any) -> list[str]:
    return page.eval_on_selector_all("#grid .card", "all => all.map(one => one.dataset.id)")


def history(page: Any) -> list[str]:
    return [value for name, value in parse_qsl(urlsplit(page.url).query) if name == "h"]


def listed(bundle: Bundle, ask: ListRequest) -> list[str]:
    return [bundle.items["item_id"][found.item] for found in recommend(bundle, [ask])[0]]


def stream(*words: str, found: list[Any] | None = None) -> dict[str, Any]:
    """An answer of the chat endpoint, for what the real one does not say."""
    chunks = [{"choices": [{"delta": {"content": word}}]} for word in words]
    chunks.append(
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "recommendations": found or []}
    )
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return {"status": 200, "content_type": "text/event-stream", "body": body}


def refused(status: int, message: str, **headers: str) -> dict[str, Any]:
    body = json.dumps({"error": {"message": message, "type": "x"}})
    return {"status": status, "content_type": "application/json", "body": body, "headers": headers}


def until(page: Any, condition: str, argument: Any = None) -> None:
    """Waits for an expression to hold; Playwright's own way is an `eval`, which the page forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition, argument):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def say(page: Any, words: str) -> Any:
    """Says something by keyboard; returns the shop's turn when it is whole."""
    turns = page.locator(".turn.assistant").count()
    page.locator("#wish").fill(words)
    page.keyboard.press("Enter")
    until(page, "n => document.querySelectorAll('.turn.assistant').length > n", turns)
    until(page, "document.getElementById('chat-send').textContent === 'Send'")
    return page.locator(".turn.assistant").last


def test_a_wish_and_its_refinement(opens: Opens, artifacts: Path) -> None:
    page = opens(viewport={"width": 1280, "height": 900})
    before = cards(page)
    reply = say(page, "something with stripes")
    assert reply.locator(".words").inner_text().strip()
    wished = cards(page)
    assert wished
    assert wished != before
    assert page.locator("#grid-title").inner_text() == "For “something with stripes”"
    assert reply.locator(".found li").count() == len(wished)
    say(page, "cheaper")
    refined = cards(page)
    assert refined != wished
    page.screenshot(path=artifacts / "page.png")
    page.reload()  # the conversation is the tab's
    assert page.locator(".turn").count() == 4
    until(page, "id => document.querySelector('#grid .card').dataset.id === id", refined[0])
    page.get_by_role("link", name="Leave this wish").click()
    until(page, "document.getElementById('grid-back').hidden")
    assert cards(page) == before
    page.get_by_role("button", name="Start over").click()
    assert page.locator(".turn").count() == 0


def test_clicks_edit_the_history_and_the_list_follows(opens: Opens, bundle: Bundle) -> None:
    page = opens()
    first = cards(page)[2]
    page.locator("#grid .add").nth(2).click()
    until(page, "document.getElementById('grid-title').textContent.includes('you')")
    assert history(page) == [first]
    own = bundle.rows[first]
    assert cards(page) == listed(bundle, ListRequest((own,), 24))
    assert (
        page.evaluate("document.activeElement.className") == "add"
    )  # and one can go on from there
    page.locator("#grid .add").nth(0).click()
    until(page, "document.querySelectorAll('.strip li').length === 2")
    until(page, "id => !document.querySelector(`#grid [data-id='${id}']`)", history(page)[1])
    links = page.eval_on_selector_all("#grid .open", "all => all.map(one => one.search)")
    assert {urlsplit(page.url).query} == {link.lstrip("?") for link in links}
    page.locator(".strip .drop").first.click()
    until(page, "document.querySelectorAll('.strip li').length === 1")
    kept = history(page)
    page.reload()  # the server draws what the script drew
    assert cards(page) == listed(bundle, ListRequest((bundle.rows[kept[0]],), 24))
    page.go_back()
    page.locator(".strip li").nth(1).wait_for()


def test_what_is_liked_in_words_is_history(opens: Opens, bundle: Bundle) -> None:
    page = opens()
    say(page, "something with stripes")
    second = cards(page)[1]
    say(page, "I like the second")
    until(page, "document.querySelectorAll('.strip li').length === 1")
    assert history(page) == [second]
    assert f"h={second}" in page.url
    title = bundle.items["title"][5].split(",")[0]
    say(page, f"I have seen the {title}")
    until(page, "document.querySelectorAll('.strip li').length === 2")
    assert history(page) == [second, bundle.items["item_id"][5]]
    page.reload()
    assert len(history(page)) == 2


def test_it_works_without_javascript(opens: Opens, bundle: Bundle) -> None:
    page = opens(java_script_enabled=False)
    first = cards_of(page)[1]
    page.locator("#grid .add").nth(1).click()
    assert history(page) == [first]
    assert cards_of(page) == listed(bundle, ListRequest((bundle.rows[first],), 24))
    page.locator("#grid .why summary").first.click()
    page.locator("#grid .panel a").first.click()
    assert page.locator(".rows .number").count() == 1
    page.get_by_role("link", name="Back to the list").click()
    page.locator("#wish").fill("a warm hat")
    page.get_by_role("button", name="Send").click()
    assert cards_of(page) == listed(
        bundle, ListRequest((bundle.rows[first],), 24, text="a warm hat")
    )
    page.locator(".strip .drop").click()
    assert history(page) == []
    page.locator("form.theme button").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"


def cards_of(page: Any) -> list[str]:
    page.wait_for_load_state()  # a click has only begun to lead elsewhere
    return [one.get_attribute("data-id") for one in page.locator("#grid .card").all()]


def test_reasons_open_by_keyboard_and_while_a_mouse_rests(opens: Opens, bundle: Bundle) -> None:
    own = bundle.items["item_id"][5]
    page = opens(f"/?h={own}")
    why = page.locator("#grid .why").nth(1)
    why.locator("summary").focus()
    page.keyboard.press("Enter")
    why.locator(".number", has_text="×").wait_for()
    assert bundle.items["title"][5] in why.inner_text()
    assert "FOUND BY" in why.inner_text().upper()
    page.keyboard.press("Escape")
    assert why.get_attribute("open") is None
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.locator("#grid .why summary").nth(2).hover()
    other = page.locator("#grid .why").nth(2)
    other.locator(".number", has_text="×").wait_for()
    other.locator("summary").click()  # keeps it open
    page.mouse.move(0, 0)
    assert other.get_attribute("open") is not None
    page.locator("#grid .why summary").nth(3).hover()
    page.locator("#grid .why[open]").nth(0).wait_for()
    page.mouse.move(0, 0)
    until(page, "!document.querySelectorAll('#grid .why')[3].open")


def test_a_busy_server_is_told_kindly_and_asked_again(opens: Opens) -> None:
    page = opens()
    answers = [refused(429, "overloaded", **{"Retry-After": "1"}), stream("Here ", "you are.")]
    page.route(CHAT, lambda route: route.fulfill(**answers.pop(0)))
    page.locator("#wish").fill("a tent")
    page.keyboard.press("Enter")
    trouble = page.locator("#chat-trouble")
    trouble.get_by_text("The shop is busy.").wait_for()
    again = trouble.get_by_role("button")
    assert again.is_disabled()
    assert again.inner_text() == "Try again in 1 s"
    until(page, "!document.querySelector('#chat-trouble button').disabled")
    again.click()
    page.get_by_text("Here you are.").wait_for()
    assert trouble.is_hidden()
    assert page.locator(".turn").count() == 2


def test_a_server_that_is_gone(opens: Opens) -> None:
    page = opens()
    page.route(CHAT, lambda route: route.abort())
    page.locator("#wish").fill("a tent")
    page.keyboard.press("Enter")
    page.locator("#chat-trouble").get_by_text("The shop does not answer.").wait_for()
    page.unroute(CHAT)
    page.route(CHAT, lambda route: route.fulfill(status=200, body='data: {"choices": []}\n\n'))
    page.locator("#chat-trouble button").click()
    page.locator("#chat-trouble").get_by_text("The answer broke off.").wait_for()
    page.route(LISTS, lambda route: route.abort())
    page.locator("#grid .add").first.click()
    page.locator("#grid-trouble").get_by_text("does not answer").wait_for()
    assert len(history(page)) == 1  # and it is not lost
    page.unroute(LISTS)
    page.locator("#grid-trouble button").click()
    page.get_by_role("heading", name="Recommended for you").wait_for()


def test_other_refusals(opens: Opens) -> None:
    told = {401: "asks for its key", 500: "went wrong", 503: "restarting", 504: "too long",
            422: "<b>too many words</b>"}  # fmt: skip
    statuses = list(told)
    page = opens()
    page.route(CHAT, lambda route: route.fulfill(**refused(statuses.pop(0), told[422])))
    for status, words in told.items():
        page.locator("#wish").fill("a tent")
        page.keyboard.press("Enter")
        page.locator("#chat-trouble").get_by_text(words).wait_for()
        assert page.locator("#chat-trouble b").count() == 0
        assert page.get_by_role("link", name="Sign in").count() == (status == 401)


def test_what_the_chat_says_is_text(opens: Opens, bundle: Bundle) -> None:
    words = "<img src=x onerror=alert(1)><script>alert(2)</script>**{{7*7}}**"
    item = {"id": words, "title": words, "image": "https://evil.example/x.png", "caption": words,
            "interests": [words], "attributes": {"price": words}}  # fmt: skip
    found = [{"place": 1, "score": 1.0, "item": item, "systems": {words: 1}, "reasons": None}]
    page = opens()
    alerts: list[Any] = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    page.route(CHAT, lambda route: route.fulfill(**stream(words[:20], words[20:], found=found)))
    reply = say(page, words)
    assert reply.locator(".words").inner_text() == words
    assert page.locator(".turn.user .words").inner_text() == words
    assert page.locator("#grid .title").inner_text() == words
    assert page.locator("#grid img, .turn img, #grid script, .turn script").count() == 0
    assert page.locator("#grid-title").inner_text() == f"For “{words}”"
    page.locator("#grid .add").click()
    assert history(page) == [words]
    assert page.locator(".strip .hidden").first.text_content() == words
    assert not alerts


def test_an_answer_can_be_stopped(opens: Opens) -> None:
    page = opens()
    page.route(CHAT, lambda route: None)  # never answers
    page.locator("#wish").fill("a tent")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Send").wait_for()
    assert page.locator("#chat-trouble").is_hidden()
    assert page.locator(".turn.assistant").count() == 0


def test_the_theme_is_kept(opens: Opens) -> None:
    page = opens(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Switch between light and dark").click()
    light = page.evaluate(ground)
    assert light != dark
    page.goto("/sids")
    assert page.evaluate(ground) == light


def pages(bundle: Bundle) -> list[str]:
    one, two = bundle.items["item_id"][0], bundle.items["item_id"][1]
    code = int(bundle.sids_by_set[0][0][0])
    # A few cards are as good as many, and looked through sooner.
    return ["/?n=4", f"/?h={one}&h={two}&n=4", f"/items/{one}?h={two}", f"/why/{one}?h={two}",
            "/sids", f"/sids?prefix={code}&n=4", "/items/none"]  # fmt: skip


def test_a_narrow_phone_shows_all_of_it(opens: Opens, bundle: Bundle, artifacts: Path) -> None:
    page = opens(viewport={"width": 320, "height": 640}, has_touch=True)
    for path in pages(bundle):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path
    page.goto("/")
    page.screenshot(path=artifacts / "phone.png")
    small = page.eval_on_selector_all(
        "#grid button, #chat button, .why summary",
        "all => all.filter(one => one.offsetWidth && one.offsetHeight < 24).length",
    )
    assert not small


def test_the_code_tree_by_keyboard(opens: Opens, bundle: Bundle) -> None:
    codes = bundle.tries[0].children(()).tolist()
    page = opens("/sids")
    page.get_by_role("link", name="Next").first.focus()
    page.keyboard.press("Enter")
    page.get_by_text(f"<a_{codes[2]}> to <a_{codes[3]}>").wait_for()
    page.wait_for_load_state()  # until then the address's #place may take the focus
    page.get_by_label("Go to code").fill(str(codes[-1]))
    page.get_by_label("Go to code").press("Enter")
    page.get_by_role("navigation", name="Chosen codes").get_by_text(f"<a_{codes[-1]}>").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opens: Opens, bundle: Bundle, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="in the test extra")
    page = opens(color_scheme=scheme, reduced_motion="reduce")
    # What is said and in which order is the same in the dark; colours are not.
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else None
    for path in pages(bundle):
        page.goto(path)
        if path.startswith("/?h"):
            page.locator("#grid .why summary").first.click()
            page.locator("#grid .number", has_text="×").first.wait_for()
        found = axe.Axe().run(page, options=rules).response["violations"]
        assert not found, (path, [(one["id"], one["nodes"][0]["html"]) for one in found])


def test_the_keyboard_reaches_the_chat_then_the_cards(opens: Opens, bundle: Bundle) -> None:
    page = opens(f"/?h={bundle.items['item_id'][3]}")
    order = []
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(page.evaluate(
            "(e => e.id || e.className || e.name)(document.activeElement)"))  # fmt: skip
        outlined = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outlined != "none", order[-1]
    places = [order.index(n) for n in ("skip", "brand", "wish", "chat-send", "drop", "open", "add")]
    assert places == sorted(places)
    assert page.locator("#chat-log").get_attribute("aria-live") == "polite"
    names = {role: page.get_by_role(role).count() for role in ("banner", "main", "navigation")}
    assert names == {"banner": 1, "main": 1, "navigation": 1}


def test_nothing_moves_for_who_asked_so(opens: Opens) -> None:
    style = "getComputedStyle(document.querySelector('.card')).animationName"
    assert opens(reduced_motion="no-preference").evaluate(style) == "rise"
    still = opens(reduced_motion="reduce")
    assert still.evaluate(style) == "none"
    assert still.evaluate("document.querySelector('.card').getAnimations().length") == 0
