"""The words of OpenAI's chat completions, as far as a shop can answer, and what ours adds to them.

Requests come from many clients, so what does not concern us is taken and left aside (`temperature`,
`seed`, ...); what would change the answer and cannot be done is an error that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from genrec.serve.schemas import (
    MAX_HISTORY,
    Filter,
    Id,
    Item,
    Recommendation,
    UserAttributes,
)

MAX_MESSAGES, MAX_CHARS, MAX_SHOWN, MAX_TOOLS = 200, 32_000, 50, 64
MAX_LISTED = 20  # items in a list
TOOLS = ("recommend", "show_recommendations")  # the tools that we call
Words = Annotated[str, StringConstraints(max_length=MAX_CHARS)]


class Part(BaseModel):
    """A part of a message's content; only text is read."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: Words = ""


class Called(BaseModel):
    """The function of a tool call, as an assistant message repeats it."""

    name: str = Field("", max_length=100)
    arguments: Words = ""


class ToolCall(BaseModel):
    """A tool call that an assistant message repeats."""

    id: str = Field("", max_length=200)
    function: Called = Called()


class Listed(BaseModel):
    """An item that an assistant message showed: what a client sends back with it."""

    id: str
    title: str = ""


class Message(BaseModel):
    """One message; nothing in it is believed.

    `recommendations` is ours: an answer's message has it, and sent back it tells what was shown. Where
    a client keeps only the text, the items are read from that.
    """

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Words | Annotated[list[Part], Field(max_length=100)] | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    recommendations: list[Any] | None = Field(None, max_length=500)

    @property
    def text(self) -> str:
        """What is said, the text parts joined."""
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def parts(self) -> list[Part]:
        """The parts of its content; none where it is plain text."""
        return self.content if isinstance(self.content, list) else []

    def listed(self) -> Iterator[str]:
        """Yields the ids that the message says it showed, untrusted."""
        named: list[Any] = list(self.recommendations or [])
        for call in self.tool_calls or []:
            if call.function.name in TOOLS:
                named += _items_in(call.function.arguments)
        for one in named[:MAX_SHOWN]:
            inner = one.get("item", one) if isinstance(one, dict) else one
            found = inner.get("id") if isinstance(inner, dict) else inner
            if isinstance(found, str):
                yield found


def _items_in(arguments: str) -> list[Any]:
    """The list in a tool call's arguments."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        return []
    values = read.values() if isinstance(read, dict) else []
    return next((value for value in values if isinstance(value, list)), [])


class Function(BaseModel):
    """A function that the client offers."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=100)
    parameters: dict[str, Any] = {}

    @field_validator("parameters")
    @classmethod
    def _sayable(cls, schema: dict[str, Any]) -> dict[str, Any]:
        try:  # its names are repeated in a call, where half a character could not stand
            json.dumps(schema, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise ValueError("expected a JSON schema in Unicode, not too deep") from error
        return schema


class Tool(BaseModel):
    """A tool that the client offers; those named otherwise than ours are never called."""

    model_config = ConfigDict(extra="ignore")

    type: str = "function"
    function: Function | None = None


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """The form that the client wants the content in."""

    model_config = ConfigDict(extra="ignore")

    type: str = "text"


class ChatRequest(BaseModel):
    """A conversation to go on with: OpenAI's request, and what is marked as ours."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {
                    "model": "demo",
                    "messages": [
                        {"role": "user", "content": "a light jacket for rainy rides, under 90"}
                    ],
                },
                {
                    "model": "demo",
                    "messages": [
                        {"role": "user", "content": "a striped mug"},
                        {
                            "role": "assistant",
                            "content": "...",
                            "recommendations": [{"id": "p0007"}, {"id": "p0051"}],
                        },
                        {"role": "user", "content": "cheaper, and not red"},
                    ],
                    "history": ["p0001"],
                    "stream": True,
                },
            ]
        },
    )

    model: str = Field("", max_length=200, description="as `GET /v1/models` names it, or empty")
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(1, description="only 1")
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: str | Tool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(None, ge=1, description="words at most")
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    functions: list[Any] | None = Field(None, description="outdated: use `tools`")
    user: str | None = Field(
        None, max_length=200, description="who asks; if it is a known user, their history counts"
    )
    history: list[Id] | None = Field(
        None, max_length=MAX_HISTORY, description="ours: item ids, oldest first"
    )
    user_attributes: UserAttributes | None = Field(
        None, description="ours: who asks, as in recommendations; not beside a known `user`"
    )
    k: int = Field(5, ge=1, le=MAX_LISTED, description="ours: items in a list")
    filters: dict[str, Filter] = Field({}, max_length=20, description="ours: as in recommendations")
    explain: bool = Field(False, description="ours: also say what the history's items added")

    def refusals(self) -> Iterator[tuple[bool, str]]:
        """Yields what cannot be done: whether it is asked for, and what to do instead."""
        form = self.response_format.type if self.response_format is not None else "text"
        parts = [p for m in self.messages if m.role == "user" for p in m.parts if p.type != "text"]
        yield self.n not in (None, 1), "n: only 1 answer can be had; raise `k` for more items"
        yield bool(self.logprobs), "logprobs: the words of an answer have none; leave it out"
        yield bool(self.functions), "functions: offer them as `tools`"
        yield (
            form != "text",
            "response_format: only 'text'; the items are in the field `recommendations`, or in a "
            "tool call if a tool `recommend` is offered",
        )
        yield bool(parts), "messages: only parts of type 'text' are read"
        yield (
            self.messages[-1].role not in ("user", "tool"),
            "messages: the last one must be the user's, or a tool's result",
        )

    @property
    def limit(self) -> int | None:
        """The most words of an answer."""
        given = [n for n in (self.max_tokens, self.max_completion_tokens) if n is not None]
        return min(given, default=None)

    @property
    def tool(self) -> Function | None:
        """The offered tool that we call, if we may."""
        if self.tool_choice == "none":
            return None
        asked = self.tool_choice.function if isinstance(self.tool_choice, Tool) else None
        chosen = asked.name if asked is not None else None
        for tool in self.tools or []:
            name = tool.function.name if tool.function else None
            if name in TOOLS and chosen in (None, name):
                return tool.function
        return None


class CalledFunction(BaseModel):
    """The function of a tool call that we make."""

    name: str
    arguments: str


class MadeCall(BaseModel):
    """A tool call that we make."""

    index: int | None = None
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Answer(BaseModel):
    """A message of ours, or a piece of one in a stream."""

    role: Literal["assistant"] | None = "assistant"
    content: str | None = None
    refusal: None = None
    tool_calls: list[MadeCall] | None = None
    recommendations: list[Listed] | None = Field(
        None, description="ours: what was shown; send it back with the message"
    )


Finish = Literal["stop", "length", "tool_calls"]


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Answer
    logprobs: None = None
    finish_reason: Finish


class Usage(BaseModel):
    """Words, counted by the spaces between them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """An answer: OpenAI's, with the items beside the words."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str = Field(description="version of the artifacts that answered")
    recommendations: list[Recommendation] = Field(description="ours: the items in full")
    liked: list[Item] = Field(description="ours: what the last message said it likes")
    turn: str = Field(description="ours: how the last message was understood")
    worded_by: str = Field(description="ours: `template` or `model`; or why not by the model")


class DeltaChoice(BaseModel):
    """A piece of the one answer."""

    index: int = 0
    delta: Answer
    logprobs: None = None
    finish_reason: Finish | None = None


class Chunk(BaseModel):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: Usage | None = None
    system_fingerprint: str
    recommendations: list[Recommendation] | None = None
    liked: list[Item] | None = None
    turn: str | None = None
    worded_by: str | None = None
