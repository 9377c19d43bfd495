"""Reads a recipe file: YAML, `${VARIABLE:-default}`, dotted overrides, and errors that help."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from genrec.config import ContentPath, Recipe, Section
from genrec.resources import find

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and the mend."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: a YAML file, or the name of a recipe that ships with the package
            (`recipes/demo.yaml`, `demo.yaml` or `demo`).
        overrides: dotted assignments such as `quantize.levels=3`; values are YAML.

    Raises:
        FileNotFoundError: there is no such recipe.
        RecipeError: it is not YAML, has an unknown key, or a value out of bounds.
    """
    file = find("recipes", path, suffix=".yaml")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: not readable as YAML: {error}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{file}: expected a mapping of sections, found {type(data).__name__}")
    data.setdefault("name", file.stem)
    for override in overrides:
        _assign(data, override)
    try:
        return Recipe.model_validate(_expand(data, file))
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise RecipeError(f"{file}: this recipe cannot be used\n{problems}") from error


def content_paths(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted field, value) of every file, folder or model name within a section."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from content_paths(value, f"{prefix}{name}.")
        elif value is not None and _is_path(field) and value not in _words(field.annotation):
            yield f"{prefix}{name}", value


def kinds(annotation: Any) -> dict[str, type[Section]]:
    """Returns the members of a tagged union, by `kind`: the registry that `genrec list` shows."""
    found: dict[str, type[Section]] = {}
    for member in get_args(annotation) or (annotation,):
        if isinstance(member, type) and issubclass(member, Section):
            if "kind" in member.model_fields:
                found[member.model_fields["kind"].default] = member
        elif get_args(member):
            found |= kinds(member)
    return found


def _is_path(field: FieldInfo) -> bool:
    def marked(annotation: Any) -> bool:
        metadata = getattr(annotation, "__metadata__", ())
        return any(isinstance(mark, ContentPath) for mark in metadata) or any(
            marked(part) for part in get_args(annotation)
        )

    return any(isinstance(m, ContentPath) for m in field.metadata) or marked(field.annotation)


def _words(annotation: Any) -> tuple[Any, ...]:
    """Returns the words that a field may hold beside a path, such as `download`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in _words(part))


def _assign(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"override '{override}': expected key=value, as quantize.levels=3")
    *parents, last = key.split(".")
    node: Any = data
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = yaml.safe_load(text)
        else:
            node[last] = yaml.safe_load(text)
    except (TypeError, AttributeError, IndexError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"override '{override}': cannot be set there ({error})") from error


def _expand(value: Any, file: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(part, file) for key, part in value.items()}
    if isinstance(value, list):
        return [_expand(part, file) for part in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise RecipeError(
                f"{file}: '{value}' needs the environment variable {match[1]}, which is not set"
            )
        return found

    return _VARIABLE.sub(replace, value)


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    name = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    if problem["type"] == "union_tag_invalid":
        tag = str(problem["ctx"]["tag"])
        expected = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
        near = difflib.get_close_matches(tag, expected, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"{name}: unknown kind '{tag}'; {hint}expected one of {', '.join(expected)}"
    if problem["type"] == "missing":
        return f"{name}: missing; a value is needed here"
    found = (
        "" if isinstance(problem["input"], dict | BaseModel) else f", found {problem['input']!r}"
    )
    return f"{name}: {problem['msg']}{found}"


def _fields_at(location: Sequence[str]) -> list[str]:
    """Returns the keys that the section at a pydantic error location may have."""
    here: Any = Recipe
    for part in location:
        members = kinds(here)
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
        elif part in members:
            here = members[part]
        elif part.isdigit():
            continue
        sections = [t for t in (here, *get_args(here)) if isinstance(t, type)]
        plain = [t for t in sections if issubclass(t, Section)]
        if len(plain) == 1:
            here = plain[0]
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []
