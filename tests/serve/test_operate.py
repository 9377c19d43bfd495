"""Logs, metrics, health and reload, as an operator sees them."""

import json
import logging
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.models import ModelRegistry
from genrec.serve.operate import JsonLines, log
from genrec.serve.settings import Settings

KEY = "correct-horse-battery"
SECRET = "a surprise for u0042"


class Lines(logging.Handler):
    def __init__(self, *, text: bool = False) -> None:
        super().__init__()
        self.setFormatter(JsonLines(text=text))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)


def serving(bundle: Bundle, settings: Settings) -> TestClient:
    return TestClient(create_app(ModelRegistry(lambda: bundle, settings), settings))


def value(metrics: str, line: str) -> float:
    (found,) = [float(one.split()[-1]) for one in metrics.splitlines() if one.startswith(line)]
    return found


def test_a_request_is_one_line_without_its_words(bundle: Bundle, lines: Lines) -> None:
    user = next(iter(bundle.histories))
    with serving(bundle, Settings()) as client:
        client.post("/v1/recommendations", json={"query": SECRET, "user": user})
        client.get(f"/v1/items/{user}?{user}", headers={"x-request-id": "r7"})
        client.get(f"/{user}")
    found = [json.loads(line) for line in lines.lines]
    assert [one["event"] for one in found] == ["request"] * 3
    assert [(one["route"], one["status"]) for one in found] == [
        ("/v1/recommendations", 200),
        ("/v1/items/{item_id:path}", 404),
        ("none", 404),
    ]
    assert found[1]["request_id"] == "r7"
    assert found[0]["ms"] > 0
    assert not any(user in line or "surprise" in line for line in lines.lines)


def test_words_are_logged_if_asked_for(bundle: Bundle, lines: Lines) -> None:
    user = next(iter(bundle.histories))
    with serving(bundle, Settings(log_text=True)) as client:
        client.post("/v1/recommendations", json={"query": SECRET, "user": user})
        said = [{"role": "user", "content": SECRET}]
        client.post("/v1/chat/completions", json={"messages": said, "user": user})
    for path in ("/v1/recommendations", "/v1/chat/completions"):
        found = json.loads(lines.lines.pop(0))
        assert (found["query"], found["user"], found["path"]) == (SECRET, user, path)


def test_a_bug_s_line_says_where_and_not_what(bundle: Bundle, lines: Lines) -> None:
    def broken(*said: object) -> None:
        raise RuntimeError(SECRET)

    with serving(bundle.replace(prompt=broken), Settings()) as client:
        client.post("/v1/recommendations", json={"history": [bundle.items["item_id"][0]]})
    error = json.loads(lines.lines[0])
    assert (error["level"], error["error"]) == ("error", "RuntimeError")
    assert any("broken" in place for place in error["trace"])
    assert "surprise" not in lines.lines[0]
    record = logging.LogRecord("x", logging.ERROR, "", 0, "e", (), None)
    record.exc_info = (ValueError, ValueError(SECRET), None)
    assert SECRET in JsonLines(text=True).format(record)


def test_metrics_count(bundle: Bundle) -> None:
    with serving(bundle, Settings(rate=0.01, burst=8)) as client:
        for _ in range(3):
            assert client.post("/v1/recommendations", json={"history": []}).status_code == 200
        client.post("/v1/recommendations", json={})
        client.get("/v1/items/one")
        client.get("/v1/items/two")
        client.get("/" + "x" * 50)
        client.get("/" + "y" * 50)
        assert client.get("/v1/models").status_code == 429
        text = client.get("/metrics").text
    ok = 'genrec_requests_total{route="/v1/recommendations",status="200"}'
    assert value(text, ok) == 3
    assert value(text, ok.replace("200", "422")) == 1
    assert value(text, 'genrec_requests_total{route="/v1/items/{item_id:path}",status="404"}') == 2
    assert value(text, 'genrec_requests_total{route="none",status="404"}') == 2
    assert value(text, 'genrec_rejected_total{reason="overload"}') == 1
    assert value(text, 'genrec_request_seconds_count{route="/v1/recommendations"}') == 4
    assert value(text, "genrec_batch_size_count") == 3
    assert value(text, "genrec_queue_depth") == 0
    assert value(text, "process_resident_memory_bytes") > 1e7
    assert "xxx" not in text


def test_health(bundle: Bundle) -> None:
    with serving(bundle, Settings(key=KEY)) as client:
        assert client.get("/healthz").json() == {
            "status": "ok",
            "model": bundle.name,
            "version": bundle.version,
            "waiting": 0,
        }


def test_reload(bundle: Bundle, lines: Lines) -> None:
    bundles: list[Bundle | Exception] = [
        bundle,
        bundle,
        bundle.replace(version="2"),
        ValueError("half"),
    ]

    def opened() -> Bundle:
        found = bundles.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    settings = Settings(key=KEY)
    with TestClient(create_app(ModelRegistry(opened, settings), settings)) as client:
        assert client.post("/admin/reload").status_code == 401
        client.headers["authorization"] = f"Bearer {KEY}"
        assert client.post("/admin/reload").json()["changed"] is False
        changed = client.post("/admin/reload").json()
        assert (changed["changed"], changed["version"]) == (True, "2")
        failed = client.post("/admin/reload")
        assert (failed.status_code, failed.json()["error"]["type"]) == (409, "conflict")
        assert "nothing was changed: half" in failed.json()["error"]["message"]
        assert client.get("/healthz").json()["version"] == "2"
        assert client.get("/admin/reload").status_code == 405
    assert [json.loads(line)["event"] for line in lines.lines if "reload" in line]


def test_no_reload_without_a_key(client: TestClient) -> None:
    assert client.post("/admin/reload").status_code == 403
