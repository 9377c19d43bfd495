"""The REST API: the core's numbers in the owner's words."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from genrec.bundle import Bundle
from genrec.recommendations import ListRequest, influence, recommend
from genrec.serve.app import create_app
from genrec.serve.models import ModelRegistry
from genrec.serve.present import image_of
from genrec.serve.settings import Settings

URL = "/v1/recommendations"


def ids(bundle: Bundle, numbers: Sequence[int]) -> list[str]:
    return [bundle.items["item_id"][number] for number in numbers]


def listed(client: TestClient, **body: object) -> list[str]:
    answered = client.post(URL, json=body)
    assert answered.status_code == 200, answered.text
    return [one["item"]["id"] for one in answered.json()["recommendations"]]


def test_a_list_is_the_core_s(client: TestClient, bundle: Bundle) -> None:
    expected = recommend(bundle, [ListRequest((3, 17), 5)])[0]
    answered = client.post(URL, json={"history": ids(bundle, [3, 17]), "k": 5}).json()
    for rank, (entry, card) in enumerate(
        zip(expected, answered["recommendations"], strict=True), 1
    ):
        assert card["place"] == rank
        assert card["item"]["id"] == bundle.items["item_id"][entry.item]
        assert card["item"]["sid"] == bundle.sids_by_set[0][entry.item].tolist()  # type: ignore[index]
        assert card["score"] == pytest.approx(
            entry.score, rel=1e-4
        )  # a kept prompt rounds otherwise
        assert card["systems"] == dict(entry.ranks)
        assert card["reasons"] is None
    assert (answered["model"], answered["version"]) == (bundle.name, bundle.version)


def test_a_user_s_history_is_looked_up(client: TestClient, bundle: Bundle) -> None:
    user, history = next(iter(bundle.histories.items()))
    assert listed(client, user=user) == listed(client, history=ids(bundle, history))


def test_filters_excluded_items_and_seen_ones(client: TestClient, bundle: Bundle) -> None:
    history = ids(bundle, [3, 17])
    wanted = {"price": {"max": 100}, "category": {"none": ["umbrella"]}}
    rows = bundle.items.to_dicts()
    banned = [row["item_id"] for row in rows[:5]]
    found = listed(client, history=history, k=60, filters=wanted, exclude=banned)
    assert found
    assert not set(found) & {*history, *banned}
    by_id = {row["item_id"]: row for row in rows}
    assert all(float(by_id[one]["price"]) <= 100 for one in found)
    assert not any(by_id[one]["category"] == "umbrella" for one in found)
    assert set(history) <= set(listed(client, history=history, k=60, keep_seen=True))


def test_a_wish_and_a_single_system(client: TestClient, bundle: Bundle) -> None:
    assert listed(client, query="a warm jacket", k=3) == ids(
        bundle,
        [one.item for one in recommend(bundle, [ListRequest((), 3, text="a warm jacket")])[0]],
    )
    popular = recommend(bundle, [ListRequest((1,), 4, system="popular")])[0]
    found = listed(client, history=ids(bundle, [1]), k=4, system="popular")
    assert found == ids(bundle, [one.item for one in popular])


def test_reasons(client: TestClient, bundle: Bundle) -> None:
    body = {"history": ids(bundle, [3, 17, 29]), "k": 3, "explain": True}
    found = client.post(URL, json=body).json()["recommendations"]
    rows = [bundle.rows[one["item"]["id"]] for one in found]
    expected = influence(bundle, [3, 17, 29], rows)
    assert expected is not None
    for one, ratios in zip(found, expected, strict=True):
        told = {why["id"]: why["log_ratio"] for why in one["reasons"]["influence"]}
        assert told == pytest.approx({ids(bundle, [n])[0]: r for n, r in ratios.items()}, abs=1e-4)
        assert list(told.values()) == sorted(told.values(), reverse=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give a user, a history (may be empty) or a query"),
        ({"user": "u", "history": []}, "either user or history, not both"),
        ({"history": ["p0001", "zz"]}, "history[1]: no item has the id 'zz'"),
        ({"history": [], "exclude": ["zz"]}, "exclude[0]: no item has the id 'zz'"),
        ({"user": "nobody"}, "user: no user has the id 'nobody'"),
        ({"history": [], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"history": [], "k": 101}, "k: Input should be less than or equal to 100"),
        ({"history": ["a"] * 501}, "history: List should have at most 500 items"),
        ({"history": [], "kk": 1}, "kk: Extra inputs are not permitted"),
        ({"history": [1]}, "history[0]: no item has the id '1'"),
        ({"history": [True]}, "history[0]: Input should be a valid string"),
        ({"history": [], "system": "x"}, "system 'x' is unknown; expected one of ['generative'"),
        ({"history": [], "system": "search"}, "give a query"),
        ({"history": [], "filters": {"x": {}}}, "filters: no attribute 'x'; expected one of"),
        ({"history": [], "filters": {"price": {"over": 1}}}, "filters.price.over: Extra inputs"),
        ({"query": "\ud800"}, "query: Input should be a valid string"),
        ([], "expected a JSON object"),
    ],
)
def test_errors_name_the_field_and_the_mend(client: TestClient, body: object, words: str) -> None:
    headers = {"content-type": "application/json"}
    answered = client.post(URL, content=json.dumps(body), headers=headers)
    assert answered.status_code == 422
    error = answered.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request"


def test_bodies_that_are_no_json(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    for raw, status, words in (
        (b"{", 422, "no JSON, from character 1"),
        (b"\xff", 400, "parsing the body"),
        (b"[" * 100_000, 400, "parsing the body"),
        (b'{"k": ' + b"9" * 5000 + b"}", 400, "parsing the body"),
        (b'{"history": [], "k": 1e999}', 422, "k: Input should be a finite number"),
        (b'{"history": [], "k": NaN}', 422, "k: Input should be a finite number"),
    ):
        answered = client.post(URL, content=raw, headers=headers)
        assert (answered.status_code, words in answered.text) == (status, True), answered.text
    answered = client.post(URL, content=b'{"history": []}', headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in answered.json()["error"]["message"]


def test_the_model(client: TestClient, bundle: Bundle) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["version"]) == ("shop", "model", bundle.version)
    assert model["systems"] == ["generative", "popular", "cooccurrence", "magnitude"]
    assert (model["views"], model["items"]) == (["behaviour", "image", "text"], 60)


def test_an_item(client: TestClient, bundle: Bundle) -> None:
    row = bundle.items.row(7, named=True)
    found = client.get(f"/v1/items/{row['item_id']}").json()
    assert (found["id"], found["title"]) == (row["item_id"], row["title"])
    assert found["attributes"] == {n: row[n] for n in ("brand", "category", "material", "price")}
    assert client.get("/v1/items/nope").status_code == 404
    assert client.get("/v1/items/" + "x" * 201).status_code == 422


def test_an_image_and_that_it_is_asked_for_once(client: TestClient, bundle: Bundle) -> None:
    item_id, name = bundle.items["item_id"][7], bundle.items["image"][7]
    path = client.get(f"/v1/items/{item_id}").json()["image"]
    found = client.get(path)
    assert found.content == (bundle.images / name).read_bytes()
    assert Image.open(io.BytesIO(found.content)).size == (32, 32)
    assert found.headers["content-type"] == "image/png"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["cache-control"] == "private, max-age=3600"
    again = client.get(path, headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "wanted",
    ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "/etc/passwd", "images/p0001.png"],
)
def test_a_path_is_no_id(client: TestClient, wanted: str) -> None:
    for path in (f"/v1/items/{wanted}", f"/v1/items/{wanted}/image", f"/static/{wanted}"):
        assert client.get(path).status_code == 404


def test_only_images_are_shown(bundle: Bundle, tmp_path: Path) -> None:
    text, image = tmp_path / "a.png", tmp_path / "b"
    text.write_text("root:x:0:0")
    Image.new("RGB", (2, 2)).save(image, "WEBP")
    svg, riff = tmp_path / "c.svg", tmp_path / "d.webp"
    svg.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    riff.write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    names = [str(text), str(image), str(svg), str(riff), str(tmp_path / "gone.png"), "..", None]
    other = bundle.replace(
        items=bundle.items.head(len(names)).with_columns(image=pl.Series(names, dtype=pl.String)),
    )
    kinds = [image_of(other, n) for n in range(len(names))]
    assert [one and one.media_type for one in kinds] == [None, "image/webp", *[None] * 5]


@pytest.mark.parametrize("view", ["text", "image", "behaviour"])
def test_neighbours(client: TestClient, bundle: Bundle, view: str) -> None:
    vectors, number = bundle.views[view], 9
    cosine = vectors @ vectors[number]
    cosine[number] = -np.inf
    cosine[~vectors.any(axis=1)] = -np.inf
    best = np.lexsort((np.arange(len(bundle)), -cosine))[:5]
    item_id = bundle.items["item_id"][number]
    found = client.get(f"/v1/similar/{item_id}", params={"view": view, "k": 5}).json()
    assert (found["id"], found["view"]) == (item_id, view)
    assert [one["item"]["id"] for one in found["items"]] == ids(bundle, best.tolist())
    scores = [one["score"] for one in found["items"]]
    assert scores == pytest.approx(cosine[best].tolist(), abs=1e-6)
    assert [one["systems"] for one in found["items"]] == [{view: n} for n in range(1, 6)]


def test_neighbours_by_default_and_of_nobody(client: TestClient, bundle: Bundle) -> None:
    item_id = bundle.items["item_id"][0]
    assert client.get(f"/v1/similar/{item_id}").json()["view"] == "text"
    assert len(client.get(f"/v1/similar/{item_id}?k=100").json()["items"]) == 59
    assert client.get("/v1/similar/nope").status_code == 404
    wrong = client.get(f"/v1/similar/{item_id}?view=smell")
    assert wrong.status_code == 422
    assert "expected one of ['behaviour', 'image', 'text']" in wrong.text
    assert client.get(f"/v1/similar/{item_id}?k=0").status_code == 422


def test_ids_with_slashes(bundle: Bundle) -> None:
    rows = {f"a/{n}?#é": n for n in range(len(bundle))}
    items = bundle.items.with_columns(item_id=pl.Series(list(rows)))
    other = bundle.replace(items=items, rows=rows)
    with TestClient(create_app(ModelRegistry(lambda: other, Settings()), Settings())) as client:
        found = client.post(URL, json={"history": ["a/3?#é"], "k": 1}).json()["recommendations"][0]
        path = found["item"]["image"]
        assert client.get(path).headers["content-type"] == "image/png"
        assert client.get(path.removesuffix("/image")).json()["id"] == found["item"]["id"]
