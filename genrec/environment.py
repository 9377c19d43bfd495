"""The packages that decide a stage's result, and whether other versions are installed now.

Versions are read from the packages' metadata, so nothing heavy is imported. They are no part of a
fingerprint: an upgrade rebuilds nothing by itself. A warning says so, and `--strict` rebuilds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from genrec.extras import version_of
from genrec.gguf import SUFFIX
from genrec.recipe import content_paths
from genrec.settings import Section
from genrec.weights import gguf_files

UNKNOWN = "made before genrec recorded versions, so with unknown ones"

# Those of them that compute the rows of the cache: vectors, replies, scores.
_OF_ROWS = {
    *("torch", "transformers", "sentence-transformers"),
    *("pillow", "vllm", "xgrammar"),
}


@cache
def installed(package: str) -> str | None:
    """Returns the version of a package that is installed here, or None."""
    if package == "python":  # its patch releases change no results
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    if package == "genrec":  # of the code that runs, which need not be what was installed
        from genrec import __version__

        return __version__
    return version_of(package)


def packages(section: Section) -> tuple[str, ...]:
    """Returns the names of the packages that the result of a section comes from, sorted."""
    names = {"python", "genrec"}
    for part in _parts(section):
        names |= part.made_with()
    if any(model.endswith(SUFFIX) or gguf_files(model) for model in _paths(section)):
        names.add("gguf")
    return tuple(sorted(names | carriers(section)))


def carriers(section: Section) -> set[str]:
    """Returns those of `packages` that only carry weights: what else they need is not needed here."""
    return {
        model.removeprefix("package:").replace("_", "-")
        for model in _paths(section)
        if model.startswith("package:")
    }


def environment(section: Section) -> dict[str, str]:
    """Returns what the result of a section would be made with here: package to version."""
    return {name: number for name in packages(section) if (number := installed(name)) is not None}


def of_rows(made_with: Mapping[str, str]) -> dict[str, str]:
    """Returns the part of an environment that decides the rows of the cache."""
    return {name: number for name, number in made_with.items() if name in _OF_ROWS}


def changed(made_with: Mapping[str, str]) -> str:
    """Says what is another version here: `transformers 5.16.1, now 5.23.0`; empty if nothing is.

    A package that is not here cannot be compared. What vLLM made where there is none comes from
    another environment on purpose, and is not compared at all. Builds of one version (`+cpu`,
    `+cu130`) count as the same, as the device does.
    """
    if "vllm" in made_with and installed("vllm") is None:
        return ""
    now = {name: installed(name) for name in sorted(made_with)}
    return "; ".join(
        f"{name} {made_with[name]}, now {number}"
        for name, number in now.items()
        if number is not None and _public(number) != _public(made_with[name])
    )


def age(manifest: Mapping[str, Any]) -> str:
    """Says with which other versions an artifact was made; empty if with those that are here."""
    if (made_with := manifest.get("environment")) is None:
        return UNKNOWN
    parts = [f"made with {versions}"] if (versions := changed(made_with)) else []
    for part in manifest.get("older", ()):
        by = part["environment"]
        if versions := "unknown versions" if by is None else changed(by):
            parts.append(f"{part['what']} with {versions}")
    return "; ".join(parts)


def _parts(section: Section) -> Iterator[Section]:
    yield section
    for _, value in section:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Section):
                yield from _parts(part)


def _paths(section: Section) -> Iterator[str]:
    for part in _parts(section):
        yield from (value for _, value in content_paths(part))


def _public(number: str) -> str:
    return number.partition("+")[0]
