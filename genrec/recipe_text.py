"""Recipes as text: overrides of the command line, and the lines of a file."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

_WIDTH = 96  # of a recipe's lines
_OPENED = ("prepare", "source")  # sections with a line for each of their parts


def assign(data: dict[str, Any], override: str) -> None:
    """Carries out one override of the command line.

    Args:
        data: a recipe's file as it was read; changed in place.
        override: `key=value`, a dotted key and YAML. In a list a word of the key is a place, or the name
            (else the kind) of a part: `retrieve.ease.l2=300`.

    Raises:
        ValueError: it has no such form, or the key leads nowhere.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override '{override}': expected key=value, as quantize.levels=3")
    *parents, last = key.split(".")
    node: Any = data
    try:
        for part in parents:
            node = node[_place(node, part)] if isinstance(node, list) else node.setdefault(part, {})
        node[_place(node, last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (TypeError, AttributeError, IndexError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"override '{override}': cannot be set there ({error})") from error


def _place(parts: Sequence[Any], word: str) -> int:
    """The place in a list that a word of a dotted key means: a number, or the name or kind there."""
    if word.isdecimal():
        return int(word)
    names = [
        part.get("name", part.get("kind")) if isinstance(part, dict) else part for part in parts
    ]
    if names.count(word) != 1:
        raise ValueError(f"'{word}' names {names.count(word)} of {names}; expected one")
    return names.index(word)


def assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Returns values by dotted key as they stand on the command line, `key=value`."""
    return [f"{key}={inline(value)}" for key, value in overrides.items()]


def inline(value: Any) -> str:
    """Returns a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False)
    return text.removesuffix("...\n").strip()  # PyYAML ends a bare scalar's document


def lines(section: Mapping[str, Any]) -> list[str]:
    """Returns YAML as recipes are written: a part in a line, filled to the width of the page.

    Args:
        section: what to write.
    """
    written: list[str] = []
    for name, value in section.items():
        flow = inline(value)
        if len(flow) > _WIDTH and isinstance(value, dict) and name in _OPENED:
            written += [f"{name}:", *(f"  {line}" for line in lines(value))]
            continue
        # A line ends after a comma only, so that no `key: value` is torn.
        held = f"{name}: {flow}".replace(": ", ":\0")
        wrapped = textwrap.wrap(
            held, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        written += [line.replace(":\0", ": ") for line in wrapped]
    return written
