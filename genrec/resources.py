"""Finds the recipes and prompts that ship with the package, in a checkout as in a wheel."""

from __future__ import annotations

import glob
from pathlib import Path

_HERE = Path(__file__).parent


def folder(kind: str) -> Path:
    """Returns the folder of shipped `recipes` or `prompts`.

    A wheel carries them inside the package; a checkout has them at its top, where people edit them.
    """
    packaged = _HERE / "_data" / kind
    return packaged if packaged.is_dir() else _HERE.parent / kind


def matching(pattern: str | Path) -> list[Path]:
    """Returns the file that a path names, or the files that a glob matches, sorted; perhaps none."""
    if (own := Path(pattern)).exists():
        return [own]
    paths = glob.glob(str(pattern), recursive=True)  # noqa: PTH207, Path takes no absolute pattern
    return sorted(Path(p) for p in paths if Path(p).is_file())


def find(kind: str, name: str | Path, *, suffix: str, room: str | None = None) -> Path:
    """Returns the file that `name` means: a path, or the name of a shipped file.

    Args:
        kind: `recipes` or `prompts`.
        name: a path to a file of one's own, or a shipped one with or without folder and suffix.
        suffix: such as `.yaml`.
        room: the shipped folder that a bare name is looked for in, such as `ablations`.

    Raises:
        FileNotFoundError: neither exists; names what ships.
    """
    own = Path(name)
    if own.is_file():
        return own
    if room is not None and len(own.parts) == 1:
        own = room / own
    shipped = folder(kind)
    relative = own.relative_to(kind) if own.parts[:1] == (kind,) else own
    for candidate in (shipped / relative, shipped / f"{relative}{suffix}"):
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(shipped)) for p in shipped.rglob(f"*{suffix}"))
    raise FileNotFoundError(f"{own}: no such file, nor among the shipped {kind}: {known}")
