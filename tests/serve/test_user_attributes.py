"""Who asks, as REST, the chat and the terminal tell the model: what its prompts begin with."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from genrec import Pipeline
from genrec.bundle import Bundle
from genrec.recommender import Recommender
from genrec.serve.app import create_app
from genrec.serve.chat import terminal
from genrec.serve.models import ModelRegistry
from genrec.serve.settings import Settings
from tests.stages.test_user_attributes import finished, made

LISTS, CHAT = "/v1/recommendations", "/v1/chat/completions"
ANYTHING: dict[str, Any] = {"messages": [{"role": "user", "content": "surprise me"}]}


@pytest.fixture(scope="session")
def told(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    return finished(shared_folder)


@pytest.fixture(scope="module")
def shop(told: Pipeline) -> Bundle:
    return told.bundle().open()


@pytest.fixture(scope="module")
def http(shop: Bundle) -> Iterator[TestClient]:
    settings = Settings()
    with TestClient(create_app(ModelRegistry(lambda: shop, settings), settings)) as client:
        yield client


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What stands before the first item in each prompt that the model gets from now on."""
    found: list[str | None] = []
    recommend = Recommender.recommend

    def recorded(self: Recommender, prompts: Any, **options: Any) -> Any:
        found.extend(p[0].text if p and p[0].sid is None else None for p in prompts)
        return recommend(self, prompts, **options)

    monkeypatch.setattr(Recommender, "recommend", recorded)
    return found


@pytest.fixture(scope="module")
def known(shop: Bundle) -> tuple[str, dict[str, Any], str]:
    """A user with both attributes: id, attributes, and how prompts say them."""
    row = next(r for r in made()[1].to_dicts() if r["age"] and r["land"])
    name = row.pop("user_id")
    return name, row, shop.profiles[name]


@pytest.mark.parametrize(("path", "body"), [(LISTS, {}), (CHAT, ANYTHING)])
def test_the_prompt_begins_with_who_asks(path, body, http, shop, known, begun) -> None:
    name, row, profile = known
    ids = shop.items["item_id"].gather(shop.histories[name]).to_list()
    lists = []
    for asks, expected in (
        ({"user": name}, profile),
        ({"history": ids, "user_attributes": row}, profile),
        ({"history": [], "user_attributes": row}, profile),
        ({"history": ids, "user_attributes": {"land": 10115}}, " land10115"),
        ({"history": ids}, None),
    ):
        begun.clear()
        answer = http.post(path, json=body | asks | {"explain": True, "k": 3})
        assert answer.status_code == 200, answer.text
        lists.append([(r["item"]["id"], r["score"]) for r in answer.json()["recommendations"]])
        assert set(begun) == {expected}  # the list's, and those of its reasons
        assert len(begun) > 1 or not asks.get("history", ids)
    assert lists[0] == lists[1]
    assert lists[1] != lists[-1]


@pytest.mark.parametrize(("path", "body"), [(LISTS, {}), (CHAT, ANYTHING)])
def test_what_does_not_fit_is_refused(path, body, http, client, known, begun) -> None:
    name, row, _ = known
    for server, asks, message in (
        (http, {"history": [], "user_attributes": {"age": "old"}}, "age 'old'; expected a number"),
        (http, {"history": [], "user_attributes": {"sex": "f"}}, "no ['sex'] in prompts; expected"),
        (http, {"user": name, "user_attributes": row}, "give the history"),
        (client, {"history": [], "user_attributes": row}, "compose.user_attributes"),
    ):
        answer = server.post(path, json=body | asks)
        assert answer.status_code in (400, 422)
        said = answer.json()["error"]["message"]
        assert "user_attributes" in said
        assert message in said
    assert begun == []


def test_the_terminal_says_it_until_the_user_is_forgotten(told, known, begun) -> None:
    def heard(*lines: str, **options: Any) -> set[str | None]:
        begun.clear()
        console = Console(file=io.StringIO(), width=100)
        terminal.run(told, lines=lines, console=console, **options)
        return set(begun)

    name, _, profile = known
    item = told.bundle().items["item_id"][0]
    assert heard("surprise me", "why the first?", user=name) == {profile}
    assert heard("surprise me", "/like 1", "/forget", "surprise me", user=name) == {profile, None}
    assert heard("surprise me", history=[item]) == {None}
