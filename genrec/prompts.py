"""Prompt templates: all text around the data that a model gets is in a YAML file in `prompts/`.

A template's digest enters the fingerprint of what is made with it, so editing a prompt rebuilds
exactly what depended on it. The digest is of the content: comments and layout do not count.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from genrec.resources import find

Style = Literal["compact", "instruct"]
STYLES: tuple[Style, ...] = get_args(Style)

Piece = tuple[str, str | None]
_T = TypeVar("_T", bound=BaseModel)


class TemplateError(ValueError):
    """A template that cannot be used; the message names the file and the field."""


class Variant(BaseModel):
    """One way to say a task: the text before the answer, and the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    completion: str = Field(min_length=1)


class Template(BaseModel):
    """A task's prompt file, checked.

    Attributes:
        description: one line for people.
        compact: variants in as few tokens as possible, for models trained from scratch.
        instruct: natural-language paraphrases, for pretrained LLMs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    compact: tuple[Variant, ...] = Field(min_length=1)
    instruct: tuple[Variant, ...] = Field(min_length=1)

    def variants(self, style: Style) -> tuple[Variant, ...]:
        """Returns the variants of one style.

        Raises:
            ValueError: there is no such style.
        """
        if style not in STYLES:
            raise ValueError(f"style '{style}': expected one of {', '.join(STYLES)}")
        return self.compact if style == "compact" else self.instruct

    @property
    def digest(self) -> str:
        """The sha256 of the content, in hex; equal for files that say the same."""
        return _digest(self)


class ContextWording(BaseModel):
    """How one style writes a context or profile: each value, what joins them, and what is around."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str
    between: str
    context: str


class ProfileTemplate(BaseModel):
    """The file `prompts/profile.yaml`, checked: how who the user is is written.

    Attributes:
        description: one line for people.
        compact: for models trained from scratch.
        instruct: for pretrained LLMs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    compact: ContextWording
    instruct: ContextWording

    def of(self, style: Style) -> ContextWording:
        """Returns the wording of one style."""
        return self.compact if style == "compact" else self.instruct

    @property
    def digest(self) -> str:
        """The sha256 of the content, in hex; equal for files that say the same."""
        return _digest(self)


class ContextTemplate(ProfileTemplate):
    """The file `prompts/context.yaml`, checked: how the context of events is written, and numbers.

    Attributes:
        gap: words for the time since the event before, shortest first.
        weekday: Monday first.
        month: January first.
        number: words for the levels of a column of numbers, lowest first.
    """

    gap: tuple[str, ...] = Field(min_length=7, max_length=7)
    weekday: tuple[str, ...] = Field(min_length=7, max_length=7)
    month: tuple[str, ...] = Field(min_length=12, max_length=12)
    number: tuple[str, ...] = Field(min_length=2)


_P = TypeVar("_P", bound=ProfileTemplate)
_WORDINGS = "compact and instruct have value, between and context"


class ChatTemplate(BaseModel):
    """What an engine is asked about one item: a system message and a user message, checked.

    Attributes:
        description: one line for people.
        system: who the model is to be; no placeholders.
        user: the question; its placeholders are filled with JSON, see `fill`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    system: str = Field(min_length=1)
    user: str = Field(min_length=1)

    @property
    def digest(self) -> str:
        """The sha256 of the content, in hex; equal for files that say the same."""
        return _digest(self)

    def fill(self, **values: Any) -> str:
        """Returns the user message with each placeholder replaced by its value as JSON.

        Catalogue text is data. As a JSON string it cannot end its own quotes, and `<` and `>` are
        escaped, so that it can neither close a tag of the template nor spell a special token of a
        model (`<|im_end|>`, `<image>`).
        """
        return self.user.format(**{name: _as_data(value) for name, value in values.items()})


class Instruction(BaseModel):
    """Something to ask a language model, and how to tell that it did it.

    Attributes:
        ask: the user's message.
        accepts: a regular expression that a good reply holds, whatever the case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ask: str = Field(min_length=1)
    accepts: str = Field(min_length=1)

    @field_validator("accepts")
    @classmethod
    def _compiles(cls, accepts: str) -> str:
        try:
            re.compile(accepts)
        except re.error as error:
            raise ValueError(f"'{accepts}' is no regular expression: {error}") from error
        return accepts


class LanguageTemplate(BaseModel):
    """What a language model is measured by beside recommending, checked.

    Attributes:
        description: one line for people.
        texts: prose, for the perplexity.
        instructions: what it is asked; empty leaves them out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    texts: tuple[str, ...] = Field(min_length=1)
    instructions: tuple[Instruction, ...] = ()

    @property
    def digest(self) -> str:
        """The sha256 of the content, in hex; equal for files that say the same."""
        return _digest(self)


def load_language(name: str | Path) -> LanguageTemplate:
    """Loads texts and instructions to measure a language model by.

    Args:
        name: a shipped file such as `language/general`, or the path of one's own `.yaml`.

    Raises:
        FileNotFoundError: there is no such file; names what ships.
        TemplateError: it is not YAML, a field is missing or unknown, or an expression is none.
    """
    file = find("prompts", name, suffix=".yaml")
    shape = "it has texts and instructions, the last a list of {ask, accepts}"
    return _parsed(LanguageTemplate, file, shape)


def load_chat(name: str | Path, *, placeholders: Collection[str] | None = None) -> ChatTemplate:
    """Loads a chat template and checks that its user message has exactly these placeholders.

    Args:
        name: a shipped template such as `caption/product`, or the path of one's own `.yaml`.
        placeholders: those that the user message must hold, each once; None leaves them unchecked.

    Raises:
        FileNotFoundError: there is no such template; names what ships.
        TemplateError: it is not YAML, a field is missing or unknown, or a placeholder is wrong.
    """
    file = find("prompts", name, suffix=".yaml")
    template = _parsed(ChatTemplate, file, "a chat template has description, system and user")
    _check(template.system, (), f"{file}: system")
    _check(template.user, placeholders, f"{file}: user")
    return template


@cache
def load_context(name: str | Path = "context") -> ContextTemplate:
    """Loads the wording of the context of events; read once per process.

    Args:
        name: the shipped template, or the path of a `.yaml`.

    Raises:
        FileNotFoundError: there is no such template.
        TemplateError: it is not YAML, a field is missing or unknown, or a placeholder is wrong.
    """
    shape = f"{_WORDINGS}; gap, weekday, month and number are lists of words"
    return _with_wordings(ContextTemplate, name, shape)


@cache
def load_profile(name: str | Path = "profile") -> ProfileTemplate:
    """Loads the wording of who a user is; arguments and errors as of `load_context`."""
    return _with_wordings(ProfileTemplate, name, _WORDINGS)


def load_template(
    name: str | Path,
    *,
    prompt: Collection[str] | None = None,
    completion: Collection[str] | None = None,
) -> Template:
    """Loads a template and checks that every variant uses exactly the placeholders of its task.

    Args:
        name: a shipped template such as `tasks/title_to_sid`, or the path of one's own `.yaml`.
        prompt: placeholders that every prompt must hold, each once; None leaves them unchecked.
        completion: placeholders that every completion must hold, each once; or None.

    Raises:
        FileNotFoundError: there is no such template; names what ships.
        TemplateError: it is not YAML, a field is missing or unknown, or a placeholder is wrong.
    """
    file = find("prompts", name, suffix=".yaml")
    template = _parsed(
        Template,
        file,
        "a template has description, compact and instruct, the latter two lists of "
        "{prompt, completion}",
    )
    for style in STYLES:
        for number, variant in enumerate(template.variants(style)):
            where = f"{file}: {style}.{number}"
            _check(variant.prompt, prompt, f"{where}.prompt")
            _check(variant.completion, completion, f"{where}.completion")
    return template


def pieces(text: str) -> tuple[Piece, ...]:
    """Splits a template text into (literal text, placeholder that follows or None).

    `{{` and `}}` stand for plain braces, as in `str.format`.

    Raises:
        ValueError: the braces do not match.
    """
    return tuple((literal, name) for literal, name, _, _ in Formatter().parse(text))


def _with_wordings(kind: type[_P], name: str | Path, shape: str) -> _P:
    file = find("prompts", name, suffix=".yaml")
    template = _parsed(kind, file, shape)
    for style in STYLES:
        wording = template.of(style)
        _check(wording.value, ("name", "value"), f"{file}: {style}.value")
        _check(wording.context, ("values",), f"{file}: {style}.context")
    return template


def _parsed(kind: type[_T], file: Path, shape: str) -> _T:
    try:
        return kind.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TemplateError(f"{file}: not readable as YAML: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "(the whole file)"
        raise TemplateError(f"{file}: {field}: {problem['msg']}; {shape}") from error


def _digest(template: BaseModel) -> str:
    content = json.dumps(template.model_dump(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _as_data(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _check(text: str, expected: Collection[str] | None, where: str) -> None:
    if expected is None:
        return
    try:
        names = sorted(name for _, name in pieces(text) if name is not None)
    except ValueError as error:
        raise TemplateError(f"{where}: {error}; write {{{{ or }}}} for a plain brace") from error
    if expected is not None and names != sorted(expected):
        raise TemplateError(
            f"{where}: placeholders {_braced(names)} in '{text}', expected {_braced(expected)}"
        )


def _braced(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"
