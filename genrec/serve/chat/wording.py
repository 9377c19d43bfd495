"""A capable model introduces the items that were found; what it writes is checked before it is shown.

It names items by their places only, and the names are put in here, so that no item can be made up. Its
words are refused, and the template's stand in their place, if they hold a number, a link, markup, a
place that is not in the list, or the name of anything else in the catalogue.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from genrec.engines import Engine, EngineError, Message, OpenAIEngine, Request
from genrec.prompts import load_chat
from genrec.serve.chat.lexicon import clean

logger = logging.getLogger(__name__)

_PLACE = re.compile(r"\[(\d{1,3})\]")
_FORBIDDEN = (
    ("a number", re.compile(r"\d")),
    ("a link", re.compile(r"\b\w+://|www\.|@")),
    ("markup", re.compile(r"[<>`*_#{}\[\]|\\]")),
)
_MAX = 700  # characters of an introduction
_NAME = re.compile(r"(?<![.!?:]\s)(?<!^)\b[A-Z][\w&'-]+")


@dataclass(frozen=True)
class Fact:
    """What a model is told of an item."""

    name: str
    price: str | None
    caption: str
    interests: tuple[str, ...]


@dataclass(frozen=True)
class Worded:
    """A model's words, or why they were refused."""

    text: str = ""
    refused: str | None = None


class Wording:
    """Words by an engine.

    Args:
        engine: of a capable model.
        timeout: seconds that an answer waits for it; then the template words it.
        max_tokens: the longest introduction.
    """

    def __init__(self, engine: Engine, *, timeout: float = 20.0, max_tokens: int = 200) -> None:
        self._engine, self._timeout, self._max_tokens = engine, timeout, max_tokens
        self._template = load_chat("chat/wording", placeholders=("said", "sought", "items"))

    async def introduce(self, said: str, sought: str, facts: Sequence[Fact]) -> Worded:
        """Returns an introduction to a list.

        Args:
            said: the customer's last message.
            sought: how it was understood.
            facts: of the items, in order.
        """
        items = [{"place": n, **asdict(fact)} for n, fact in enumerate(facts, 1)]
        user = self._template.fill(said=said, sought=sought, items=items)
        request = Request(
            (Message("system", self._template.system), Message("user", user)),
            max_tokens=self._max_tokens,
        )
        try:
            asked = asyncio.to_thread(lambda: list(self._engine.generate([request])))
            ((_, reply),) = await asyncio.wait_for(asked, self._timeout)
        except (EngineError, TimeoutError) as error:
            return _refused(f"no answer ({type(error).__name__})")
        if reply.error is not None:
            return _refused("no answer")
        return checked(reply.text, facts)


def by_endpoint(
    base_url: str, model: str, *, key: str | None = None, timeout: float = 20.0
) -> Wording:
    """Returns the wording of a model behind an OpenAI-compatible endpoint.

    Args:
        base_url: such as http://localhost:8001/v1.
        model: as the endpoint names it.
        key: the environment variable that holds the key; None where the endpoint needs none.
        timeout: seconds that an answer waits for it.

    Raises:
        ValueError: the environment variable is not set.
    """
    engine = OpenAIEngine(base_url, model, key=key, timeout=timeout, max_retries=0)
    return Wording(engine, timeout=timeout)


def checked(text: str, facts: Sequence[Fact]) -> Worded:
    """Returns a model's words with the names put in, or why they cannot be shown.

    A capitalised word within a sentence must be one of the facts': so neither another item of the
    catalogue nor an invented one is named.
    """
    line = clean(text, 4 * _MAX)
    if not line or len(line) > _MAX:
        return _refused("empty" if not line else "too long")
    places = [int(place) for place in _PLACE.findall(line)]
    if any(not 1 <= place <= len(facts) for place in places):
        return _refused("a place that is not in the list")
    bare = _PLACE.sub("", line)
    for what, pattern in _FORBIDDEN:
        if pattern.search(bare):
            return _refused(what)
    known = _words([f"{fact.name} {fact.caption} {' '.join(fact.interests)}" for fact in facts])
    if odd := _words(_NAME.findall(bare)) - known - {"i"}:
        logger.debug("words of a model that no fact holds: %s", sorted(odd))
        return _refused("a name that is not in the facts")
    return Worded(_PLACE.sub(lambda found: facts[int(found[1]) - 1].name, line))


def _words(texts: Iterable[str]) -> set[str]:
    return {word.lower() for text in texts for word in re.findall(r"[\w&'-]+", text)}


def _refused(why: str) -> Worded:
    logger.info("a template words the answer: the model's words were refused: %s", why)
    return Worded(refused=why)
