"""The application as a whole: its document, its headers, one shape for every error."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.chat.guide import guide_of
from genrec.serve.models import ModelRegistry
from genrec.serve.schemas import RecommendationsRequest
from genrec.serve.settings import Settings


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_catalogue_is_read_before_anybody_chats(bundle: Bundle) -> None:
    other, settings = bundle.replace(), Settings()
    with TestClient(create_app(ModelRegistry(lambda: other, settings), settings)):
        assert id(other) in guide_of._of


def test_every_operation_is_explained(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert {
        "post /v1/recommendations",
        "get /v1/models",
        "get /v1/items/{item_id}",
        "get /v1/items/{item_id}/image",
        "get /v1/similar/{item_id}",
        "get /healthz",
        "get /metrics",
        "post /admin/reload",
    } <= set(found)
    for name, operation in found.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
    names = [operation["operationId"] for operation in found.values()]
    assert len(set(names)) == len(names)


def test_errors_are_documented_as_they_come(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, answered in operation["responses"].items():
            if int(status) >= 400 and name.partition(" ")[2].startswith(("/v1/", "/admin")):
                schema = answered["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (name, status)


def test_the_examples_are_requests(document: dict[str, Any], client: TestClient) -> None:
    examples = document["components"]["schemas"]["RecommendationsRequest"]["examples"]
    assert len(examples) >= 3
    for example in examples:
        RecommendationsRequest.model_validate(example)


def test_nothing_is_loaded_from_elsewhere(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/redoc").status_code == 404
    assert "://" not in json.dumps(document).replace("http://json-schema.org", "")


@pytest.mark.parametrize("path", ["/healthz", "/nope", "/v1/items/nope"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_request_ids(client: TestClient) -> None:
    assert (
        client.get("/healthz", headers={"x-request-id": "a-1.B"}).headers["x-request-id"] == "a-1.B"
    )
    for odd in ("a b", "x" * 65, "é".encode(), '"}{"', ""):
        found = client.get("/healthz", headers={"x-request-id": odd}).headers["x-request-id"]
        assert len(found) == 32
    ids = {client.get("/healthz").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/v1/recommendations", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/items/nope", 404, "not_found"),
        ("POST", "/admin/reload", 403, "permission"),
    ],
)
def test_one_shape_for_errors(
    client: TestClient, method: str, path: str, status: int, kind: str
) -> None:
    answered = client.request(method, path)
    assert answered.status_code == status
    assert set(answered.json()) == {"error"}
    assert answered.json()["error"]["type"] == kind


def test_a_bug_is_a_500_that_tells_nothing(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(history: object) -> None:
        raise RuntimeError("the secret of u0042")

    settings, other = Settings(), bundle.replace(prompt=broken)
    with TestClient(create_app(ModelRegistry(lambda: other, settings), settings)) as client:
        body = {"history": [bundle.items["item_id"][0]]}
        found = client.post("/v1/recommendations", json=body, headers={"x-request-id": "r1"})
        assert client.get("/healthz").status_code == 200
        metrics = client.get("/metrics").text
    assert found.status_code == 500
    assert found.json()["error"]["message"] == "an error of the server's; its id is r1"
    assert found.headers["x-request-id"] == "r1"
    assert 'route="/v1/recommendations",status="500"} 1.0' in metrics
