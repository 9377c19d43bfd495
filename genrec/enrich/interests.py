"""Items to latent interests (MDIM): an LLM reasons from an item's page to why it is chosen.

The paper gives chain of thought and the place in the pipeline; the prompt, the strict JSON and the
checks are ours. Interests belong to items: what describes a user's person is left out.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field as Bounds, ValidationError, create_model

from genrec import prompts
from genrec.engines import Engine, Message, Request
from genrec.enrich.annotate import BadReply, Cache, Row, annotate
from genrec.progress import Progress, silent
from genrec.schema import INTERESTS

TEMPLATE = "interests/motives"
PLACEHOLDERS = ("title", "description", "caption")
MAX_PHRASE = 100  # characters of an interest; one that is longer is a text, not a phrase

# Personal traits: interests that give one to people are left out ("users who are elderly", "pregnant
# women", "people with diabetes"). A short English list and no judge of meaning; what an item is for
# ("maternity wear", "knee support") stays. "black" and "white" count only after a form of "to be"
# ("shoppers who are black"), never before a noun ("black men's shoes").
_PEOPLE = (
    r"(?:users?|people|persons?|buyers?|shoppers?|customers?|consumers?|owners?|individuals?|"
    r"someone|anyone|those|they|men|women|adults?|readers?|viewers?)"
)
_TRAITS = (
    r"(?:male|female|gay|lesbian|bisexual|homosexual|heterosexual|transgender|pregnant|infertile|"
    r"young|old|elderly|middle-aged|teenaged?|christian|catholic|muslim|jewish|hindu|buddhist|"
    r"atheist|religious|asian|african|hispanic|latin[oax]|caucasian|arab|indigenous|immigrants?|"
    r"disabled|diabetic|depressed|autistic|obese|overweight|hiv[- ]positive|mentally ill|"
    r"poor|wealthy|rich|unemployed|republicans?|democrats?|conservatives?|liberals?)"
)
_ILLS = (
    r"(?:cancer|diabetes|depression|anxiety|autism|hiv|aids|dementia|obesity|infertility|"
    r"addiction|disabilities|an? disability|an? (?:\w+ )?(?:disease|disorder|illness))"
)
_PERSONAL = re.compile(
    rf"\b{_PEOPLE}(?: who| that)? (?:is|are|be|being|identify as)"
    rf"(?: an?| very| mostly| likely| usually)* (?:{_TRAITS}|black|white)\b"
    rf"|\b{_TRAITS} {_PEOPLE}\b(?!['’])"
    rf"|\b{_PEOPLE}(?: who)? (?:with|have|has|suffering from|living with) {_ILLS}\b"
    rf"|\b{_PEOPLE}(?: who are)? (?:aged|over|under|above|below) \d+",
    re.IGNORECASE,
)


class Mined(NamedTuple):
    """What a reply says, after the checks.

    Attributes:
        reasoning: the chain of thought.
        interests: distinct, strongest evidence first.
        evidence: one per interest.
        confidence: one per interest, 0 to 1.
        dropped: how many interests were left out: blank, too long, repeated, or personal traits.
    """

    reasoning: str
    interests: list[str]
    evidence: list[str]
    confidence: list[float]
    dropped: int


class InterestReader:
    """The schema of a reply, and its reading.

    The schema bounds no length of a text: a grammar that counts characters refuses escapes, and with
    them every quotation mark and inch sign; hosted APIs refuse such bounds. `max_tokens` ends a reply.

    Args:
        max_interests: in one reply.
    """

    def __init__(self, *, max_interests: int = 8) -> None:
        strict = ConfigDict(extra="forbid", strict=True)
        interest = create_model(
            "Interest",
            __config__=strict,
            interest=(str, ...),
            evidence=(str, ...),
            confidence=(Annotated[float, Bounds(ge=0, le=1)], ...),
        )
        entries = Annotated[
            list[interest],
            Bounds(min_length=1, max_length=max_interests),
        ]
        self._model: type[BaseModel] = create_model(
            "Reply",
            __config__=strict,
            reasoning=(str, ...),
            interests=(entries, ...),
        )
        self.schema = _plain(self._model.model_json_schema())

    def __call__(self, text: str) -> Mined:
        """Checks a reply and reads it.

        Raises:
            BadReply: it is not JSON, breaks the schema, or none of its interests may stay.
        """
        try:
            data = json.loads(text, strict=False, parse_constant=_refuse)
        except ValueError as error:
            raise BadReply(f"not JSON: {error}, found '{text[:60]}'") from error
        try:
            reply: Any = self._model.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the reply"
            raise BadReply(f"breaks the schema: {where}: {first['msg']}") from error
        if not _line(reply.reasoning):
            raise BadReply("breaks the schema: reasoning: is blank")
        kept = _usable(reply.interests)
        if not kept:
            raise BadReply("no usable interest: all of them are blank, too long or personal traits")
        return Mined(
            _line(reply.reasoning),
            [_line(entry.interest) for entry in kept],
            [_line(entry.evidence) for entry in kept],
            [float(entry.confidence) for entry in kept],
            len(reply.interests) - len(kept),
        )


def interest_request(
    title: str,
    description: str,
    caption: str | None,
    *,
    template: prompts.ChatTemplate | None = None,
    reader: InterestReader | None = None,
    max_tokens: int = 768,
    temperature: float = 0.0,
    seed: int = 0,
    max_text: int = 2000,
) -> Request:
    """Returns the request for one item's interests.

    Args:
        title: of the item.
        description: of the item; may be empty.
        caption: of its image, or None.
        template: the prompt; the shipped one by default.
        reader: holds the schema; with the default limits where None.
        max_tokens: the longest reply.
        temperature: 0 is greedy.
        seed: of the sampling.
        max_text: characters; longer texts are cut there.
    """
    chat = template or prompts.load_chat(TEMPLATE, placeholders=PLACEHOLDERS)
    user = chat.fill(
        title=title[:max_text],
        description=description[:max_text] or None,
        caption=caption[:max_text] if caption else None,
    )
    return Request(
        (Message("system", chat.system), Message("user", user)),
        schema=(reader or InterestReader()).schema,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )


def mine_items(
    titles: Sequence[str],
    descriptions: Sequence[str],
    captions: Sequence[str | None],
    engine: Engine,
    *,
    cache: Cache,
    template: prompts.ChatTemplate | None = None,
    max_tokens: int = 768,
    temperature: float = 0.0,
    seed: int = 0,
    max_text: int = 2000,
    max_interests: int = 8,
    retries: int = 2,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Mines the interests of every item; goes on where it was interrupted.

    Args:
        titles: one per item.
        descriptions: one per item; may be empty.
        captions: one per item; None where there is none.
        engine: of any instruction-tuned LLM.
        cache: finished rows, see `annotate`.
        template: the prompt; the shipped one by default.
        max_tokens: the longest reply.
        temperature: 0 is greedy.
        seed: of the sampling.
        max_text: characters of each text in the prompt.
        max_interests: in one reply.
        retries: further attempts where a reply cannot be used.
        progress: told "interests", in distinct items.

    Returns:
        A table of schema `INTERESTS`.

    Raises:
        EngineError: see `annotate`.
    """
    chat = template or prompts.load_chat(TEMPLATE, placeholders=PLACEHOLDERS)
    reader = InterestReader(max_interests=max_interests)
    requests = [
        interest_request(
            *texts,
            template=chat,
            reader=reader,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            max_text=max_text,
        )
        for texts in zip(titles, descriptions, captions, strict=True)
    ]
    rows = annotate(
        requests,
        engine,
        reader,
        cache=cache,
        retries=retries,
        step="interests",
        progress=progress,
    )
    return _table([row or Row(None, None, 0) for row in rows])


def _table(rows: Sequence[Row[Mined]]) -> pl.DataFrame:
    values = [row.value or Mined("", [], [], [], 0) for row in rows]
    return pl.DataFrame(
        {
            "item": range(len(rows)),
            "reasoning": [row.value.reasoning if row.value else None for row in rows],
            "interests": [mined.interests for mined in values],
            "evidence": [mined.evidence for mined in values],
            "confidence": [mined.confidence for mined in values],
            "error": [row.error for row in rows],
            "attempts": [row.attempts for row in rows],
            "dropped": [mined.dropped for mined in values],
        },
        schema=dict(INTERESTS),
    )


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema with its references put in place and its titles left out."""
    definitions = schema.pop("$defs", {})

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return walk(definitions[part["$ref"].rpartition("/")[2]])
        return {k: walk(v) for k, v in part.items() if not (k == "title" and isinstance(v, str))}

    return dict(walk(schema))


def _usable(entries: Sequence[Any]) -> list[Any]:
    """Leaves out what is no interest, and keeps the first of those that say the same."""
    first: dict[str, Any] = {}
    for entry in entries:
        phrase = _line(entry.interest)
        short = 0 < len(phrase) <= MAX_PHRASE
        if short and _line(entry.evidence) and not _PERSONAL.search(phrase):
            first.setdefault(normalise(phrase), entry)
    return list(first.values())


def normalise(text: str) -> str:
    """Returns the text by which two interests are told apart: NFKC, case folded, spaces single."""
    return _line(unicodedata.normalize("NFKC", text).casefold())


def _line(text: str) -> str:
    return " ".join(text.split())


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
