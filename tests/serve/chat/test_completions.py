"""OpenAI's protocol: by plain HTTP, and by the official client against a real server."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.models import ModelRegistry
from genrec.serve.settings import Settings

PATH = "/v1/chat/completions"
KEY = "a-key-of-the-tests"


def ask(client: TestClient, *said: str, **fields: Any) -> Any:
    messages = [{"role": "user", "content": text} for text in said]
    return client.post(PATH, json={"messages": messages, **fields})


@pytest.fixture(scope="module")
def endpoint(
    bundle: Bundle, listening: Callable[[FastAPI], AbstractContextManager[str]]
) -> Iterator[openai.OpenAI]:
    """The official client, and the application behind uvicorn on a free port."""
    settings = Settings(key=KEY)
    with (
        listening(create_app(ModelRegistry(lambda: bundle, settings), settings)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as found,
    ):
        yield found


def test_an_answer_of_the_official_client(endpoint: openai.OpenAI, bundle: Bundle) -> None:
    model = endpoint.models.list().data[0].id
    answer = endpoint.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a lamp, please"}]},
        ],
        temperature=0.7,
        top_p=0.9,
        seed=1,
        stop=["\n"],
        presence_penalty=0.1,
        extra_body={"k": 3},
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len((choice.message.content or "").split())
    found: Any = (answer.model_extra or {})["recommendations"]
    assert [one["place"] for one in found] == [1, 2, 3]
    assert {one["item"]["attributes"]["category"] for one in found} == {"lamp"}
    for one in found:
        assert one["item"]["id"] in bundle.rows
        assert one["item"]["title"] in (choice.message.content or "")


def test_the_message_sent_back_tells_what_was_shown(endpoint: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "a lamp"}]
    first = endpoint.chat.completions.create(model="", messages=messages)
    echoed = first.choices[0].message.model_dump(exclude_none=True)
    assert [one["id"] for one in echoed["recommendations"]]
    question = {"role": "user", "content": "how much is the second?"}
    text_only = {"role": "assistant", "content": first.choices[0].message.content}
    answers = [
        endpoint.chat.completions.create(model="", messages=[*messages, said, question])
        for said in (echoed, text_only, first.choices[0].message)
    ]
    extra: Any = first.model_extra
    price = extra["recommendations"][1]["item"]["attributes"]["price"]
    for answer in answers:
        assert (answer.choices[0].message.content or "").endswith(f": {price}.")
        assert (answer.model_extra or {})["turn"] == "question"


def test_a_stream_is_the_same_answer_in_pieces(endpoint: openai.OpenAI) -> None:
    asked: Any = {"model": "", "messages": [{"role": "user", "content": "a lamp under 100"}]}
    whole = endpoint.chat.completions.create(**asked)
    stream = endpoint.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    (found,) = [
        extra["recommendations"]
        for c in chunks
        if (extra := c.model_extra) and "recommendations" in extra
    ]
    assert found == (whole.model_extra or {})["recommendations"]


def test_what_is_liked_is_told_apart(endpoint: openai.OpenAI, bundle: Bundle) -> None:
    said = f"I have seen the {bundle.items['title'][7].split(',')[0]}"
    asked: Any = {"model": "", "messages": [{"role": "user", "content": said}]}
    liked = (endpoint.chat.completions.create(**asked).model_extra or {})["liked"]
    assert [one["id"] for one in liked] == [bundle.items["item_id"][7]]
    chunks = [c.model_extra or {} for c in endpoint.chat.completions.create(**asked, stream=True)]
    assert [extra["liked"] for extra in chunks if "liked" in extra] == [liked]


SCHEMAS: list[tuple[dict[str, Any], str, set[str]]] = [
    ({}, "recommendations", {"id", "title", "place", "price"}),
    (
        {
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                "products": {
                    "type": "array",
                    "items": {"properties": {"id": {}, "price": {}, "unheardof": {}}},
                },
            },
        },
        "products",
        {"id", "price"},
    ),
]


@pytest.mark.parametrize(("schema", "name", "fields"), SCHEMAS)
def test_the_tool_is_called(
    endpoint: openai.OpenAI, schema: dict[str, Any], name: str, fields: set[str]
) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": "weather", "parameters": {}}},
        {"type": "function", "function": {"name": "recommend", "parameters": schema}},
    ]
    messages: list[Any] = [{"role": "user", "content": "a lamp"}]
    answer = endpoint.chat.completions.create(model="", messages=messages, tools=tools)
    assert answer.choices[0].finish_reason == "tool_calls"
    calls: Any = answer.choices[0].message.tool_calls
    (call,) = calls
    rows = json.loads(call.function.arguments)[name]
    assert fields <= set(rows[0])
    found: Any = (answer.model_extra or {})["recommendations"]
    assert [row["id"] for row in rows] == [one["item"]["id"] for one in found]
    # The tool's result goes back: now the words, and no second call.
    messages += [
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "shown"},
    ]
    after = endpoint.chat.completions.create(model="", messages=messages, tools=tools)
    assert after.choices[0].finish_reason == "stop"
    assert after.choices[0].message.content == answer.choices[0].message.content
    streamed = endpoint.chat.completions.create(
        model="", messages=messages[:1], tools=tools, stream=True
    )
    deltas = [c.choices[0].delta for c in streamed if c.choices]
    (made,) = [d.tool_calls[0] for d in deltas if d.tool_calls]
    assert made.index == 0
    assert made.function is not None
    assert json.loads(made.function.arguments or "") == {name: rows}


def test_ids_alone_where_the_tool_takes_words(client: TestClient) -> None:
    parameters = {"properties": {"ids": {"type": "array", "items": {"type": "string"}}}}
    tool = {
        "type": "function",
        "function": {"name": "show_recommendations", "parameters": parameters},
    }
    answer = ask(client, "a lamp", tools=[tool]).json()
    arguments = answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    ids = [one["item"]["id"] for one in answer["recommendations"]]
    assert json.loads(arguments) == {"ids": ids}
    for choice in ("none", {"type": "function", "function": {"name": "weather"}}):
        answer = ask(client, "a lamp", tools=[tool], tool_choice=choice).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
    assert ask(client, "hello", tools=[tool]).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"n": 2}, 400, "n: only 1"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"functions": [{"name": "f"}]}, 400, "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"model": "gpt-unknown"}, 404, "there is 'shop'"),
        ({"history": ["nobody's"]}, 400, "history"),
        ({"filters": {"weight": {"min": 1}}}, 400, "no attribute 'weight'"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last one must be"),
        ({"messages": [{"role": "king", "content": "x"}]}, 422, "role"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, 422, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text"),
        ({"k": 0}, 422, "k"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: TestClient, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = ask(client, "a lamp", **fields)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_refusals_reach_the_official_client(endpoint: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only 1 answer"):
        endpoint.chat.completions.create(model="", messages=[{"role": "user", "content": "x"}], n=2)
    other = endpoint.with_options(api_key="wrong-key-entirely")
    with pytest.raises(openai.AuthenticationError):
        other.chat.completions.create(model="", messages=[{"role": "user", "content": "x"}])


def test_a_limit_of_words(client: TestClient) -> None:
    answer = ask(client, "a lamp", max_tokens=4).json()
    assert len(answer["choices"][0]["message"]["content"].split()) == 4
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["recommendations"]) == 5  # the items are not words


def test_who_asks(client: TestClient, bundle: Bundle) -> None:
    user, history = next((u, h) for u, h in bundle.histories.items() if len(h) > 3)
    ids = bundle.items["item_id"].gather(list(history)).to_list()

    def shown(**fields: Any) -> list[str]:
        answer = ask(client, "something for me", **fields).json()
        return [one["item"]["id"] for one in answer["recommendations"]]

    assert shown(user=user) == shown(history=ids)
    assert not set(shown(user=user)) & set(ids)
    assert shown(user="a caller's word") == shown()
    explained = ask(client, "something for me", user=user, explain=True).json()["recommendations"]
    assert [i["id"] for i in explained[0]["reasons"]["influence"]]
    filtered = ask(client, "something for me", filters={"category": {"any": ["mug"]}}).json()
    assert {o["item"]["attributes"]["category"] for o in filtered["recommendations"]} == {"mug"}
