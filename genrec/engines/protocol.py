"""What an engine is: requests in, replies out, in whatever order they are finished.

A reply depends on its request and on `Engine.identity` alone, never on its neighbours (up to the
last bits of floating point), so that each can be kept in a cache and none is asked for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from genrec import registry
from genrec.engines.settings import EngineSettings, NoEngine

Role = Literal["system", "user", "assistant"]
Finish = Literal["stop", "length", "error"]


class EngineError(RuntimeError):
    """The engine as a whole cannot go on (no such model, a refused key, no library): ask no more."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; an image stands before the text.

    Attributes:
        role: who speaks.
        text: what is said.
        image: an image file; each engine verifies and resizes it, see `data.images`.
    """

    role: Role
    text: str
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to go on with.

    Attributes:
        messages: the conversation, the last turn being the user's.
        schema: JSON schema that the reply is held to where the engine can; the asker checks it.
        max_tokens: the longest reply, in tokens of the model.
        temperature: 0 is greedy.
        seed: of the sampling; means nothing at temperature 0.
        longest_side: images are made no larger than this, in pixels.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    longest_side: int = 768

    @property
    def images(self) -> tuple[Path, ...]:
        """The images of all messages, in order."""
        return tuple(m.image for m in self.messages if m.image is not None)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        text: what the model wrote; empty at an error.
        finish: "stop" when the model ended by itself, "length" when cut at `max_tokens`, "error".
        error: what went wrong; set exactly when `finish` is "error".
        permanent: asking again with the same request cannot help (an image that is none).
    """

    text: str
    finish: Finish
    error: str | None = None
    permanent: bool = False

    @classmethod
    def failed(cls, error: str, *, permanent: bool = False) -> Reply:
        """Returns the reply that says what went wrong."""
        return cls("", "error", error, permanent)


class Engine(Protocol):
    """Answers requests."""

    @property
    def identity(self) -> str:
        """The model and all settings that change replies; enters cache keys. Loads no model."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Yields (index into `requests`, reply) once for each, in any order, as they are finished.

        Raises:
            EngineError: nothing further can be answered.
        """

    def close(self) -> None:
        """Frees what the model occupies."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of a request, as a number; exactly one of `value` and `error` is set.

    Attributes:
        value: in nats.
        error: why there is none.
        bound: the true value lies further from zero; the endpoint showed no more.
    """

    value: float | None
    error: str | None = None
    bound: bool = False


@runtime_checkable
class Judge(Protocol):
    """An engine that also tells how likely its next word is yes, or no."""

    def log_odds(
        self, requests: Sequence[Request], *, yes: str = "yes", no: str = "no"
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log of p(yes) / p(no) as the reply's first word), each once, in any order.

        All spellings of a word that are one token count ("yes", " Yes"). Nothing is generated.

        Raises:
            EngineError: as `Engine.generate`, or the model has no token for one of the words.
        """


@runtime_checkable
class Reader(Protocol):
    """An engine that also tells how likely it finds a given reply."""

    def log_likelihoods(
        self, requests: Sequence[Request], replies: Sequence[str]
    ) -> Iterator[tuple[int, Score]]:
        """Yields (index, log p(reply | request)), each once, in any order.

        A reply counts up to `Request.max_tokens` tokens, without what ends the turn.

        Raises:
            EngineError: as `Engine.generate`.
        """


@contextmanager
def opened(
    settings: EngineSettings, device: Callable[[], str], *, store: str | Path | None = None
) -> Iterator[Engine]:
    """Yields the engine that settings describe, and frees it at the end.

    Args:
        settings: a recipe's `engine`.
        device: asked only where the model runs in this process.
        store: where models are kept that were made of GGUF files; see `find_weights`.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: kind none, or the environment variable that should hold the key is not set.
    """
    engine = _build(settings, device, store)
    try:
        yield engine
    finally:
        engine.close()


def _build(settings: EngineSettings, device: Callable[[], str], store: str | Path | None) -> Engine:
    if isinstance(settings, NoEngine):
        raise ValueError("engine: kind none asks nobody; expected hf, vllm or openai")
    options = {name: value for name, value in settings if name != "kind"}
    if settings.in_process:
        options["device"] = device()
    if settings.loads:
        options["store"] = store
    engine: Engine = registry.implementation(settings)(**options)
    return engine


def one_line(text: str, *, most: int = 200) -> str:
    """Returns a text on one line, cut to `most` characters, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
