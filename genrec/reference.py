"""The reference of all settings, made from the sections themselves: `recipes/settings.md`."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from genrec import registry, resources
from genrec.lm.settings import Tasks
from genrec.recipe import Recipe
from genrec.settings import ContentPath, Section

_HEAD = """\
# All settings

Made by `genrec docs --write` from the settings classes; do not edit it by hand. A recipe states only
what differs from the defaults. A setting with a `°` says where or how fast something runs: it never
enters a fingerprint, so changing it builds nothing again. `runtime` never does either.
"""
_TABLE = "| setting | type | default | meaning |\n|---|---|---|---|"
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "pattern": "matches `{}`"}
_TYPES = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "text"}
_UNIONS = (Union, types.UnionType)


def write() -> Path:
    """Writes the reference and returns its file."""
    _file().write_text(reference(), encoding="utf-8")
    return _file()


def check() -> str:
    """Returns the lines in which the file differs from the settings; empty where it is up to date."""
    written = _file().read_text("utf-8") if _file().is_file() else ""
    texts = written.splitlines(), reference().splitlines()
    lines = difflib.unified_diff(*texts, "recipes/settings.md", "the settings", n=0, lineterm="")
    return "\n".join(lines)


def reference(section: str | None = None) -> str:
    """Returns the settings of genrec itself as Markdown; those of other packages are left out.

    Args:
        section: of a recipe, such as `train`; None takes all.

    Raises:
        KeyError: a recipe has no such section.
    """
    fields = Recipe.model_fields
    named = [name for name, field in fields.items() if _sections(field.annotation)]
    homes: dict[type[Section], str] = {}
    if section is not None:
        if section not in named:
            raise KeyError(f"'{section}': no section of a recipe; expected one of {named}")
        return "\n".join(_part(f"`{section}`", section, fields[section].annotation, homes, 1))
    plain = {name: field for name, field in fields.items() if name not in named}
    rows = [_row(name, field, "", field.description or "") for name, field in plain.items()]
    lines = [_HEAD, _TABLE, *rows, ""]
    for name in named:
        lines += _part(f"`{name}`", name, fields[name].annotation, homes, 2)
    return "\n".join(lines)


def _part(
    heading: str, path: str, annotation: Any, homes: dict[type[Section], str], depth: int
) -> list[str]:
    """One part of a recipe: its section, or each kind that may stand there, and what is in them.

    Args:
        heading: of the part.
        path: its dotted name in a recipe.
        annotation: the type of its field.
        homes: the heading under which each section has been described; a second place links to it.
        depth: of the heading.
    """
    lines = [f"{'#' * depth} {heading}", ""]
    sections = _sections(annotation)
    homes |= dict.fromkeys(sections, heading)
    if len(sections) == 1:
        return lines + _section(path, sections[0], homes, depth)
    for section in sections:
        kind = section.model_fields["kind"].default
        lines += [f"{'#' * (depth + 1)} `{path}`: {kind}", ""]
        lines += _section(path, section, homes, depth + 1, of=kind)
    return lines


def _section(
    path: str, section: type[Section], homes: dict[type[Section], str], depth: int, of: str = ""
) -> list[str]:
    """A section's description, its table, and the parts within it. `of`: its kind, one of several."""
    rows, parts = [], []
    for name, field in section.model_fields.items():
        if (of and name == "kind") or (section is Tasks and name not in registry.BUILT_IN["tasks"]):
            continue
        nested, link = _sections(field.annotation), ""
        if nested:
            heading = f"`{path}.{name}`" + (f" of {of}" if of else "")
            link = homes.get(nested[0], heading)
            if nested[0] not in homes:
                depth_there = min(depth + 1, 5)
                parts += _part(heading, f"{path}.{name}", field.annotation, homes, depth_there)
        rows.append(_row(field.alias or name, field, link, _meaning(section, name, nested)))
    lines = [_first_paragraphs(section), ""] if section.__doc__ else []
    return lines + ([_TABLE, *rows, ""] if rows else ["It has no settings.", ""]) + parts


def anchor(heading: str) -> str:
    """Returns the part after # of a link to a heading, as GitHub makes it."""
    kept = [c for c in heading.strip().lower() if c.isalnum() or c in " -_"]
    return "".join(kept).replace(" ", "-")


def _meaning(section: type[Section], name: str, nested: list[type[Section]]) -> str:
    """What a field says of itself or inherits, or what the section in it is."""
    described = (
        parent.model_fields[name].description
        for parent in section.__mro__
        if issubclass(parent, Section) and name in parent.model_fields
    )
    inner = (nested[0].__doc__ or "").splitlines()[:1] if len(nested) == 1 else []
    return next(filter(None, described), "".join(inner).strip().removesuffix("."))


def _row(name: str, field: FieldInfo, link: str, meaning: str) -> str:
    type_ = f"[{_type(field)}](#{anchor(link)})" if link else _type(field)
    mark = "°" if field.exclude else ""
    cells = (f"`{name}`{mark}", type_, _default(field), meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace(
        "  ", " "
    )


def _type(field: FieldInfo) -> str:
    if any(isinstance(mark, ContentPath) for mark in field.metadata):
        return "path or name"
    bounds = [
        text.format(value)
        for mark in field.metadata
        for name, text in _BOUNDS.items()
        if (value := getattr(mark, name, None)) is not None
    ]
    return ", ".join([_name(field.annotation), *bounds])


def _name(annotation: Any) -> str:
    """What a field may hold, in words."""
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        is_path = any(isinstance(mark, ContentPath) for mark in members[1:])
        return "path or name" if is_path else _name(members[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in members)
    if origin in _UNIONS:
        if len(_sections(annotation)) > 1:
            return "by `kind`" + (" or null" if type(None) in members else "")
        return " or ".join(dict.fromkeys(_name(member) for member in members))
    if origin is tuple and members[-1] is not Ellipsis:
        return f"[{', '.join(_name(member) for member in members)}]"
    if origin is tuple:
        return f"list of {_name(members[0])}"
    if origin is dict:
        return f"{_name(members[1])} by name" if members[1] is not Any else "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return _TYPES.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    text = yaml.safe_dump(_plain(field.default), default_flow_style=True, width=10_000)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _plain(value: Any) -> Any:
    """A default as a recipe would write it: of a section the kind, and what differs from its own."""
    if isinstance(value, BaseModel):
        changed = {
            n: v for n, v in value if v != type(value).model_fields[n].default or n == "kind"
        }
        return {name: _plain(part) for name, part in changed.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections within an annotation that genrec itself brings."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation] if annotation.__module__.split(".")[0] == "genrec" else []
    return list(_within(annotation))


def _within(annotation: Any) -> Iterator[type[Section]]:
    for member in get_args(annotation):
        yield from _sections(member)


def _first_paragraphs(section: type[Section]) -> str:
    text = (section.__doc__ or "").split("\n\n    Attributes:")[0]
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _file() -> Path:
    return resources.folder("recipes") / "settings.md"
