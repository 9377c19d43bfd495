"""The engine of OpenAI-compatible endpoints, against a small server that misbehaves on demand."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genrec.engines import EngineError, Message, OpenAIEngine, Reply, Request, Score
from genrec.engines.openai import _Pace

pytest.importorskip("openai")


def good(text: str, finish: str = "stop") -> tuple[int, dict[str, str], bytes]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"}}
    choice["message"]["content"] = text  # type: ignore[index]
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, json.dumps(body).encode()


def bad(status: int, message: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class Server:
    """Answers by `script(body, n)`: the request's body, and how often this text was asked before."""

    def __init__(self) -> None:
        self.script: Callable[[Any, int], tuple[int, dict[str, str], bytes]]
        self.script = lambda body, n: good(f"echo {text_of(body)}")
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        ThreadingHTTPServer.request_queue_size = 64  # five by default: more at once are refused
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    n = sum(text_of(b) == text_of(body) for b in outer.bodies)
                    outer.bodies.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer.times.append(time.monotonic())
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                status, headers, data = outer.script(body, n)
                with outer.lock:
                    outer.busy -= 1
                try:
                    self.send_response(status)
                    for name, value in ({"Content-Type": "application/json"} | headers).items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # a client that timed out is gone

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def text_of(body: Any) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def ask(server: Server, texts: list[str], **options: Any) -> list[Reply]:
    engine = OpenAIEngine(server.url, "m", **({"key": None} | options))
    found = dict(engine.generate([says(text) for text in texts]))
    return [found[row] for row in range(len(texts))]


def says(text: str, **options: Any) -> Request:
    return Request((Message("system", "be brief"), Message("user", text)), **options)


def test_replies_go_to_their_requests(server: Server) -> None:
    texts = [f"t{n}" for n in range(40)]
    assert [r.text for r in ask(server, texts)] == [f"echo {text}" for text in texts]


def test_what_is_sent(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
    request = says("x", schema=schema, max_tokens=7, temperature=0.5, seed=3)
    for strict in (False, True):
        engine = OpenAIEngine(
            server.url,
            "m",
            key=None,
            strict=strict,
            extra={"chat_template_kwargs": {"enable_thinking": False}},
            limit_name="max_completion_tokens" if strict else "max_tokens",
        )
        list(engine.generate([request]))
    plain, held = server.bodies
    assert plain["messages"][0] == {"role": "system", "content": "be brief"}
    assert (plain["model"], plain["max_tokens"], plain["seed"]) == ("m", 7, 3)
    assert plain["temperature"] == 0.5
    assert plain["chat_template_kwargs"] == {"enable_thinking": False}
    named = {"name": "reply", "schema": schema, "strict": False}
    assert plain["response_format"] == {"type": "json_schema", "json_schema": named}
    assert held["response_format"]["json_schema"]["schema"]["properties"] == {
        "a": {"type": "string"}
    }
    assert held["max_completion_tokens"] == 7


def test_images_travel_as_data(server: Server, red: Path, bomb: Path) -> None:
    requests = [Request((Message("user", "what?", path),), longest_side=20) for path in (red, bomb)]
    found = dict(OpenAIEngine(server.url, "m", key=None).generate(requests))
    assert found[0].text == "echo what?"
    assert found[1].permanent
    assert "bomb.png" in str(found[1].error)
    (body,) = server.bodies
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 10)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(server: Server, status: int) -> None:
    server.script = lambda body, n: (
        bad(status, "busy", **{"Retry-After-Ms": "5"}) if n < 2 else good("at last")
    )
    assert [r.text for r in ask(server, ["a", "b"])] == ["at last"] * 2
    assert len(server.bodies) == 6


def test_back_off_doubles_and_stays_within_its_tries(server: Server) -> None:
    server.script = lambda body, n: bad(500, "broken inside")
    (reply,) = ask(server, ["a"], max_retries=2)
    assert reply == Reply.failed("HTTP 500: broken inside")
    assert len(server.times) == 3
    assert server.times[2] - server.times[0] > 0.9  # about 0.5 and then 1 second


def test_one_slow_answer_costs_one_row(server: Server) -> None:
    def script(body: Any, n: int) -> tuple[int, dict[str, str], bytes]:
        if text_of(body) == "slow":
            time.sleep(3)
        return good("done")

    server.script = script
    slow, quick = ask(server, ["slow", "quick"], timeout=1, max_retries=0)
    assert "timeout: no answer in 1 s" in str(slow.error)
    assert not slow.permanent
    assert quick.text == "done"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>gateway</html>", "malformed answer"),
        (b'{"choices": [', "malformed answer"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": null}', "no choices"),
        (b"[1, 2]", "malformed answer"),
        (b'{"choices": [{"finish_reason": "stop"}]}', "no choices"),
    ],
)
def test_malformed_answers_are_errors_of_their_row(
    server: Server, body: bytes, reason: str
) -> None:
    server.script = lambda sent, n: (200, {}, body) if text_of(sent) == "a" else good("fine")
    broken, fine = ask(server, ["a", "b"])
    assert broken.finish == "error"
    assert reason in str(broken.error)
    assert fine.text == "fine"


def test_how_a_reply_ended(server: Server) -> None:
    server.script = lambda body, n: good("" if text_of(body) == "a" else "x", text_of(body))
    texts = ["stop", "length", "content_filter"]
    stop, length, filtered = ask(server, texts)
    assert (stop.finish, length.finish) == ("stop", "length")
    assert filtered.permanent
    assert "content_filter" in str(filtered.error)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_concerns_all_stops_at_once(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    server.script = lambda body, n: bad(status, "no")
    with pytest.raises(EngineError, match=rf"model m: HTTP {status}.*SHOP_KEY") as caught:
        ask(server, [str(n) for n in range(50)], key="SHOP_KEY", concurrency=2)
    assert len(server.bodies) <= 4
    assert "s3cret" not in str(caught.value)


def test_nobody_there() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "m", key=None, max_retries=1)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9/v1: cannot be reached.*tried 2 times"):
        list(engine.generate([says("a")]))


def test_the_key_comes_from_the_environment_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    ask(server, ["a"], key="SHOP_KEY")
    ask(server, ["a"], key=None)
    assert server.keys == ["Bearer s3cret", "Bearer none"]
    assert "s3cret" not in OpenAIEngine(server.url, "m", key="SHOP_KEY").identity
    monkeypatch.delenv("SHOP_KEY")
    with pytest.raises(ValueError, match=r"engine openai: .* SHOP_KEY is not set.*\(null\)"):
        OpenAIEngine(server.url, "m", key="SHOP_KEY")


def test_no_more_at_once_than_allowed(server: Server) -> None:
    def script(body: Any, n: int) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02)
        return good("x")

    server.script = script
    ask(server, [str(n) for n in range(20)], concurrency=3)
    assert 1 < server.most <= 3


def test_the_pace_counts_retries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[object] = []

    async def wait(self: _Pace, request: object) -> None:
        passed.append(request)

    monkeypatch.setattr(_Pace, "wait", wait)
    server.script = lambda body, n: (
        bad(429, "slow", **{"Retry-After-Ms": "1"}) if n == 0 else good("x")
    )
    ask(server, ["a", "b", "c"], per_minute=60)
    assert len(passed) == 6


def test_the_pace_spaces_evenly() -> None:
    async def run() -> float:
        pace, start = _Pace(60 / 0.02), time.monotonic()
        await asyncio.gather(*(pace.wait(None) for _ in range(6)))
        return time.monotonic() - start

    assert asyncio.run(run()) >= 5 * 0.02 * 0.99


def test_leaving_early_ends_the_work(server: Server) -> None:
    def script(body: Any, n: int) -> tuple[int, dict[str, str], bytes]:
        time.sleep(0.02)
        return good("x")

    server.script = script
    before = set(threading.enumerate())  # other tests of this process may have left loops behind
    engine = OpenAIEngine(server.url, "m", key=None, concurrency=2)
    replies = engine.generate([says(str(n)) for n in range(100)])
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    asked = len(server.bodies)
    time.sleep(0.1)
    assert len(server.bodies) <= asked + 2 < 20
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if thread.name.startswith("asyncio")]


def test_works_where_a_loop_already_runs(server: Server) -> None:
    async def notebook() -> list[Reply]:
        return ask(server, ["a"])

    assert asyncio.run(notebook())[0].text == "echo a"


def test_identity_is_the_model_not_the_place(server: Server) -> None:
    def of(url: str = "http://a", model: str = "m", **options: Any) -> str:
        return OpenAIEngine(url, model, key=None, **options).identity

    assert of() == of("http://b", concurrency=2, timeout=3, max_retries=0, per_minute=5)
    different = [of(), of(model="n"), of(revision="2"), of(strict=True), of(extra={"top_p": 0.9})]
    assert len(set(different)) == 5


def listing(top: dict[str, float] | None) -> tuple[int, dict[str, str], bytes]:
    status, headers, data = good("yes")
    body = json.loads(data)
    if top is not None:
        tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()]
        content = [{**tokens[0], "top_logprobs": tokens}]
        body["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    return status, headers, json.dumps(body).encode()


def test_odds_are_read_off_what_is_listed(server: Server) -> None:
    told: dict[str, dict[str, float] | None] = {
        "both": {"Yes": -0.5, " no": -2.0, "x": -3.0},
        "one": {"yes": -0.5, "x": -3.0},
        "none": {"maybe": -0.1, "x": -3.0},
        "silent": None,
    }
    server.script = lambda body, n: listing(told[text_of(body)])
    engine = OpenAIEngine(server.url, "m", key=None, limit_name="max_completion_tokens")
    found = dict(engine.log_odds([says(text, temperature=1.0) for text in told]))
    assert found[0] == Score(pytest.approx(1.5))
    assert found[1] == Score(pytest.approx(2.5), bound=True)
    assert "neither 'yes' nor 'no'" in str(found[2].error)
    assert found[3].error == "the endpoint gives no log-probabilities"
    for body in server.bodies:
        assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0)
        assert body["max_completion_tokens"] == 1


def test_odds_of_a_refused_request_say_so(server: Server) -> None:
    server.script = lambda body, n: bad(400, "too long")
    found = dict(OpenAIEngine(server.url, "m", key=None).log_odds([says("a")]))
    assert found == {0: Score(None, "HTTP 400: too long")}
