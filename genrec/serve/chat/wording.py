"""A capable model introduces the items that were found; what it writes is checked before it is shown.

It names items by their places only, and the names are put in here, so that no item can be made up. Its
words are refused, and the template's stand in their place, if they were cut off, hold a number, a price,
a link, markup or a place that is not in the list, or name anything else (`Names.foreign`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from genrec.extras import install
from genrec.keys import api_key
from genrec.prompts import load_chat
from genrec.serve.chat.lexicon import clean, load_lexicon
from genrec.serve.chat.names import Names, words_of

logger = logging.getLogger(__name__)

_PLACE = re.compile(r"\[(\d{1,3})\]")
_FORBIDDEN = (
    ("a link", re.compile(r"\w://|www\.|@|\w\.\w")),
    ("markup", re.compile(r"[<>`*_#{}\[\]|\\]")),
)
_MAX = 700  # characters of an introduction
_TOKENS = 200  # of an introduction


@dataclass(frozen=True)
class Fact:
    """What a model is told of an item."""

    name: str
    price: str | None
    caption: str
    interests: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that a model's words may repeat."""
        return (self.name, self.caption, *self.interests)


@dataclass(frozen=True)
class Worded:
    """A model's words, or why they were refused."""

    text: str = ""
    refused: str | None = None


class Speechless(Exception):
    """A model gave no words; the message says why, in none of a customer's."""


class Model(Protocol):
    """What can write an introduction."""

    async def write(self, system: str, user: str) -> str:
        """Returns its words; raises `Speechless`."""

    async def close(self) -> None:
        """Lets go of connections."""


class Endpoint:
    """A model behind OpenAI's protocol; each question goes out once, and is dropped when cancelled.

    Args:
        base_url: such as http://localhost:8001/v1.
        model: as the endpoint names it.
        key: the environment variable that holds the key; None where the endpoint needs none.

    Raises:
        ValueError: the environment variable is not set, or `openai` is not installed.
    """

    def __init__(self, base_url: str, model: str, *, key: str | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise ValueError(f"--words-url needs openai: {install('openai')}") from error
        self._model = model
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=api_key(key, whose="--words-key"), max_retries=0
        )

    async def write(self, system: str, user: str) -> str:
        """Returns the model's words; see `Model.write`."""
        import openai

        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            answer = await self._client.chat.completions.create(
                model=self._model, messages=turns, max_tokens=_TOKENS, temperature=0, seed=0
            )
            said, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        except openai.APIStatusError as error:
            raise Speechless(f"no answer (HTTP {error.status_code})") from error
        except openai.APIConnectionError as error:
            raise Speechless("no answer (the connection failed)") from error
        except (openai.APIError, ValueError, AttributeError, LookupError, TypeError) as error:
            raise Speechless("no answer that could be read") from error  # JSON of another shape
        if finish != "stop":
            raise Speechless("an answer that was cut off")
        return str(said or "")

    async def close(self) -> None:
        """Lets go of connections."""
        await self._client.close()


class Wording:
    """Words by a model.

    Args:
        model: a capable one.
        timeout: seconds that an answer waits for it; then the template words it.
    """

    def __init__(self, model: Model, *, timeout: float = 10.0) -> None:
        self._model, self._timeout = model, timeout
        self._template = load_chat("chat/wording", placeholders=("said", "sought", "items"))

    async def introduce(
        self,
        said: str,
        sought: str,
        facts: Sequence[Fact],
        *,
        names: Names,
        within: float | None = None,
    ) -> Worded:
        """Returns an introduction to a list.

        Args:
            said: the customer's last message.
            sought: how it was understood.
            facts: of the items, in order.
            names: of the catalogue.
            within: seconds that are left, if fewer than the timeout.
        """
        items = [{"place": n, **asdict(fact)} for n, fact in enumerate(facts, 1)]
        asked = self._template.fill(said=said, sought=sought, items=items)
        wait = self._timeout if within is None else min(within, self._timeout)
        try:
            async with asyncio.timeout(wait):
                text = await self._model.write(self._template.system, asked)
        except TimeoutError:
            return _refused("no answer in time")
        except Speechless as error:
            return _refused(str(error))
        return checked(text, facts, names)

    async def close(self) -> None:
        """Lets go of the model's connections."""
        await self._model.close()


def by_endpoint(base_url: str, model: str, *, key: str | None = None) -> Wording:
    """Returns the wording of a model behind an endpoint; arguments and errors are `Endpoint`'s."""
    return Wording(Endpoint(base_url, model, key=key))


def checked(text: str, facts: Sequence[Fact], names: Names) -> Worded:
    """Returns a model's words with the items' names put in, or why they cannot be shown.

    Args:
        text: what a model wrote.
        facts: of the items, in order.
        names: of the catalogue.
    """
    line = unicodedata.normalize("NFKC", clean(text, 4 * _MAX))
    if not line or len(line) > _MAX:
        return _refused("no words" if not line else "too many words")
    places = [int(place) for place in _PLACE.findall(line)]
    if any(not 1 <= place <= len(facts) for place in places):
        return _refused("a place that is not in the list")
    bare = _PLACE.sub("·", line)
    if any(unicodedata.category(sign).startswith("N") for sign in bare):
        return _refused("a number")
    if _money(bare, facts):
        return _refused("a price")
    for what, pattern in _FORBIDDEN:
        if pattern.search(bare):
            return _refused(what)
    if names.foreign(bare, [one for fact in facts for one in fact.texts]):
        return _refused("a name that is not in the facts")
    return Worded(_PLACE.sub(lambda found: facts[int(found[1]) - 1].name, line))


def _money(text: str, facts: Sequence[Fact]) -> bool:
    """Whether a text speaks of money, as in "twelve euros", where the facts do not."""
    signs = [sign for sign in text if unicodedata.category(sign) == "Sc"]
    told = {word for fact in facts for one in fact.texts for word in words_of(one)}
    units = {unit for unit in load_lexicon().measures["price"].units if unit.isalpha()}
    return bool(signs or (units & set(words_of(text))) - told)


def _refused(why: str) -> Worded:
    logger.info("a template words the answer: the model gave %s", why)
    return Worded(refused=why)
