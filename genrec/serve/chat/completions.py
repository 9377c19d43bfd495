"""`POST /v1/chat/completions`: OpenAI's protocol over the shop, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse

from genrec.bundle import Bundle
from genrec.recommendations import Unanswerable
from genrec.serve import present
from genrec.serve.chat.listing import Asker
from genrec.serve.chat.messages import (
    Answer,
    CalledFunction,
    ChatRequest,
    ChatResponse,
    Choice,
    Chunk,
    DeltaChoice,
    Finish,
    Function,
    Listed,
    MadeCall,
    Usage,
)
from genrec.serve.chat.reply import Reply, respond
from genrec.serve.columns import columns_of
from genrec.serve.http import TheRegistry, TheWording
from genrec.serve.models import ModelVersion
from genrec.serve.operate import note
from genrec.serve.resolve import history_of, profile_for
from genrec.serve.schemas import Recommendation

router = APIRouter(tags=["chat"])
_WORD = re.compile(r"\s*\S+")


@router.post(
    "/v1/chat/completions",
    response_model=ChatResponse,
    summary="Chat",
    responses={
        200: {
            "description": "The answer; with `stream` as server-sent events",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def create_chat_completion(
    body: ChatRequest, request: Request, registry: TheRegistry, wording: TheWording
) -> Any:
    """Goes on with a conversation about the shop's items.

    A message is a wish ("a light jacket for rainy rides, under 90"), a refinement of the last list
    ("cheaper", "not red", "more like the second"), a question about an item, or small talk. What was
    shown is read from the assistant's messages that the client sends back: from their field
    `recommendations`, the tool call, or the list in the text. Nothing is kept on the server.

    The items come as text, in `recommendations`, and, if a tool named `recommend` or
    `show_recommendations` is offered, as a call of it. `temperature` and its like change nothing.
    """
    check(body)
    note(request, user=body.user, query=body.messages[-1].text)
    async with registry.current() as served, asyncio.timeout(served.timeout):
        if body.model not in ("", served.bundle.name):
            raise HTTPException(404, f"no model of this name; there is {served.bundle.name!r}")
        asker = await asyncio.to_thread(_asker, served.bundle, body)
        try:
            reply = await respond(served, body.messages, asker, wording=wording)
        except Unanswerable as error:
            raise HTTPException(400, str(error)) from error
        found = await _recommendations(served, reply, asker, explain=body.explain)
        bundle = served.bundle
    answer = _Completion(bundle, body, reply, found)
    if body.stream:
        return StreamingResponse(answer.events(), media_type="text/event-stream")
    return answer.whole()


def check(body: ChatRequest) -> None:
    """Refuses what would change the answer and cannot be done.

    Raises:
        HTTPException: 400, which names the field and what to do instead.
    """
    for refused, why in body.refusals():
        if refused:
            raise HTTPException(400, why)


def _asker(bundle: Bundle, body: ChatRequest) -> Asker:
    # OpenAI's `user` is any word that tells callers apart, so one that we do not know is no error.
    user = body.user if body.history is None and body.user in bundle.histories else None
    if user is not None and body.user_attributes is not None:
        raise HTTPException(
            400,
            "user_attributes: those of a known user are in the table; leave them out, or give the "
            "history",
        )
    try:
        history = history_of(bundle, user=user, history=body.history)
        allowed = columns_of(bundle).mask(body.filters) if body.filters else None
        profile = profile_for(bundle, user=user, attributes=body.user_attributes)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return Asker(tuple(history), body.k, allowed, profile=profile)


async def _recommendations(
    served: ModelVersion, reply: Reply, asker: Asker, *, explain: bool
) -> list[Recommendation]:
    items = [one.item for one in reply.found]
    if not explain or not items:
        return present.recommendations(served.bundle, reply.found)
    history = (*asker.history, *reply.state.liked)
    influences = await served.influence(history, items, profile=asker.profile)
    reasons = present.reasons(served.bundle, items, influences)
    return present.recommendations(served.bundle, reply.found, reasons)


class _Completion:
    """One answer in the protocol's words."""

    def __init__(
        self, bundle: Bundle, body: ChatRequest, reply: Reply, found: Sequence[Recommendation]
    ) -> None:
        self._body, self._reply, self._found = body, reply, list(found)
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._name, self._version = bundle.name, bundle.version[:16]
        words = _WORD.findall(reply.text)
        self._calls: list[MadeCall] | None = None
        self._finish: Finish = "stop"
        if body.tool is not None and found and body.messages[-1].role != "tool":
            self._calls, self._finish = [_call(body.tool, self._found)], "tool_calls"
        if body.limit is not None and len(words) > body.limit:
            words = words[: body.limit]
            self._finish = "length" if self._calls is None else self._finish
        self._words = words
        self._liked = [present.item(bundle, number) for number in reply.liked]
        self._listed = [Listed(id=one.item.id, title=one.item.title) for one in self._found]

    @property
    def _usage(self) -> Usage:
        asked = sum(len(message.text.split()) for message in self._body.messages)
        said = len(self._words)
        return Usage(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said)

    def whole(self) -> ChatResponse:
        """The answer at once."""
        message = Answer(
            content="".join(self._words),
            tool_calls=self._calls,
            recommendations=self._listed or None,
        )
        return ChatResponse(
            id=self._id,
            created=self._created,
            model=self._name,
            choices=[Choice(message=message, finish_reason=self._finish)],
            usage=self._usage,
            system_fingerprint=self._version,
            recommendations=self._found,
            liked=self._liked,
            turn=self._reply.turn.value,
            worded_by=self._reply.worded_by,
        )

    async def events(self) -> AsyncIterator[str]:
        """The answer piece by piece: role, words, tool call, items, the end."""
        for chunk in self._chunks():
            yield f"data: {_event(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    def _chunks(self) -> Iterator[Chunk]:
        yield self._chunk(Answer(role="assistant", content=""))
        for word in self._words:
            yield self._chunk(Answer(role=None, content=word))
        if self._calls:
            calls = [call.model_copy(update={"index": n}) for n, call in enumerate(self._calls)]
            yield self._chunk(Answer(role=None, tool_calls=calls))
        if self._found:
            shown = self._chunk(Answer(role=None, recommendations=self._listed))
            yield shown.model_copy(update={"recommendations": self._found})
        last = self._chunk(Answer(role=None), self._finish)
        yield last.model_copy(
            update={
                "liked": self._liked or None,
                "turn": self._reply.turn.value,
                "worded_by": self._reply.worded_by,
            }
        )
        if self._body.stream_options is not None and self._body.stream_options.include_usage:
            yield last.model_copy(update={"choices": [], "usage": self._usage})

    def _chunk(self, delta: Answer, finish: Finish | None = None) -> Chunk:
        return Chunk(
            id=self._id,
            created=self._created,
            model=self._name,
            choices=[DeltaChoice(delta=delta, finish_reason=finish)],
            system_fingerprint=self._version,
        )


def _event(chunk: Chunk) -> str:
    """A chunk as JSON, without the fields that this piece of the answer has nothing for."""
    whole = chunk.model_dump(mode="json")
    for choice in whole["choices"]:
        choice["delta"] = _present(choice["delta"])
    return json.dumps(_present(whole), ensure_ascii=False)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _call(tool: Function, found: Sequence[Recommendation]) -> MadeCall:
    """Returns a call of the client's tool with the items, in the form that its schema asks for.

    The first array among its parameters is filled: with ids where it is one of strings, else with
    objects that have the fields which the schema names. Without such a schema: `recommendations`.
    """
    properties = tool.parameters.get("properties")
    arrays = {
        name: schema.get("items") or {}
        for name, schema in (properties.items() if isinstance(properties, dict) else ())
        if isinstance(schema, dict) and schema.get("type") == "array"
    }
    name, items = next(iter(arrays.items()), ("recommendations", {}))
    rows: list[Any] = [_row(one) for one in found]
    wanted = items.get("properties") if isinstance(items, dict) else None
    if isinstance(items, dict) and items.get("type") == "string":
        rows = [row["id"] for row in rows]
    elif isinstance(wanted, dict) and wanted:
        rows = [{field: row[field] for field in wanted if field in row} for row in rows]
    arguments = json.dumps({name: rows}, ensure_ascii=False, default=_plain)
    return MadeCall(
        id=f"call_{uuid.uuid4().hex[:24]}",
        function=CalledFunction(name=tool.name, arguments=arguments),
    )


def _row(one: Recommendation) -> dict[str, Any]:
    """An item as a tool gets it: its id, title and attributes, caption and interests."""
    item = one.item
    known = {"caption": item.caption, "interests": item.interests, "image": item.image}
    return {**item.attributes, "place": one.place, "id": item.id, "title": item.title} | {
        name: value for name, value in known.items() if value
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
