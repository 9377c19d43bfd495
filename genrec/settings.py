"""What every part of a recipe is: a frozen section, in which an unknown key is an error."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)


class ContentPath:
    """Marks a field that names a file or folder: its fingerprint is the content, not the name."""


Path_ = Annotated[str, ContentPath()]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and an unknown key is an error.

    Attributes:
        former: names that fields had until the last release, and the ones that they have now.
        later: fields that were added when recipes were in use. A fingerprint has them only where they
            are set, so that the artifacts of those recipes stay valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    former: ClassVar[Mapping[str, str]] = {}
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unset = self.unset()
        return {name: value for name, value in handler(self).items() if name not in unset}

    def unset(self) -> set[str]:
        """Returns the fields that a fingerprint lacks: those of `later` with their default."""
        fields = type(self).model_fields
        return {n for n in self.later if n in fields and getattr(self, n) == fields[n].default}

    @classmethod
    def from_options(cls, settings: Self | None = None, **options: Any) -> Self:
        """Returns settings with these options changed; the defaults where there are none.

        Raises:
            TypeError: `settings` are another part's.
            ValueError: an unknown option, or a value out of bounds; names each.
        """
        if settings is not None and not isinstance(settings, cls):
            raise TypeError(f"settings are {type(settings).__name__}; expected {cls.__name__}")
        try:
            return cls(**((dict(settings) if settings is not None else {}) | options))
        except ValidationError as error:
            problems = "; ".join(_explain(problem, cls) for problem in error.errors())
            raise ValueError(f"{cls.__name__}: {problems}") from error

    def made_with(self) -> set[str]:
        """Returns the packages whose versions decide the result of this section alone."""
        return {name for kind in type(self).__mro__ for name in vars(kind).get("packages", ())}

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The stages that this section reads, where it differs from the table in `graph.STAGES`."""
        return None

    @property
    def uses(self) -> tuple[str, ...]:
        """Recipe-wide fields that its result depends on, in addition to those of `graph.STAGES`."""
        return ()

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the optional stages (caption, mine) that this section reads.

        Each with the dotted field that demands it, or None where the stage is read only if the
        recipe has it.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, data: Any) -> Any:
        """Takes fields by the names that they had before, with a warning."""
        if not isinstance(data, dict) or not (old := cls.former.keys() & data.keys()):
            return data
        for name in sorted(old):
            warnings.warn(
                f"{cls.__name__}: '{name}' is now called '{cls.former[name]}'",
                DeprecationWarning,
                stacklevel=2,
            )
            if cls.former[name] in data:
                raise ValueError(f"'{name}' and '{cls.former[name]}' are one field; drop '{name}'")
        return {cls.former.get(name, name): value for name, value in data.items()}

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, data: Any) -> Any:
        """Lets `quantize.levels=3` mean the default quantizer, without naming its kind."""
        if not isinstance(data, dict):
            return data
        defaults = {name: getattr(f.default, "kind", None) for name, f in cls.model_fields.items()}
        return {
            name: {"kind": defaults[name]} | part
            if isinstance(part, dict) and defaults.get(name)
            else part
            for name, part in data.items()
        }


class PartSettings(Section):
    """The settings of a part that a recipe names by `kind`; `genrec.registry` knows them all.

    Attributes:
        implementation: `module:name` of the class or function that they configure.
        kind: the part's name in recipes.
    """

    implementation: ClassVar[str]
    kind: str


def _explain(problem: Any, owner: type[Section]) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or owner.__name__
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, owner.model_fields, n=1, cutoff=0.5)
        known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(owner.model_fields)}"
        return f"there is no '{name}'; {known}"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict | BaseModel):
        return str(message)
    return f"{name} is {problem['input']!r}: {message}"


def read_mapping(file: Path, error: type[ValueError], *, expected: str) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Args:
        file: what to read.
        error: raised, with the file named, where it cannot be read or holds something else.
        expected: what it should hold, for the message.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"{file}: not readable as YAML: {problem}") from problem
    if not isinstance(data, dict):
        raise error(f"{file}: expected a mapping {expected}, found {type(data).__name__}")
    return data


def explain(problem: Any, name: str, known: Sequence[str] = ()) -> str:
    """Says what pydantic found wrong with a value, and how to fix it.

    Args:
        problem: one of the `errors()` of a ValidationError.
        name: of the field.
        known: the keys that there are where an unknown one stands.
    """
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    if problem["type"] == "union_tag_invalid":
        tag = str(problem["ctx"]["tag"])
        kinds = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
        near = difflib.get_close_matches(tag, kinds, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{name}: unknown kind '{tag}'; {hint}expected one of {', '.join(kinds)}"
    if problem["type"] == "missing":
        return f"{name}: missing; a value is needed here"
    given = problem["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f", found {given!r}"
    return f"{name}: {problem['msg']}{shown}"
