"""Datasets to and from the files of other toolkits: ids, order, splits and SIDs stay what they are.

A format is a module with `write(bundle, folder)` and, where its files say enough, `read(folder, name)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from genrec.data.formats import (
    id2sid,
    index_json,
    minionerec,
    recbole,
    rectools,
    sentence_pairs,
)
from genrec.data.formats.bundle import Bundle

__all__ = ["FORMATS", "Bundle", "Format", "read", "write"]


@dataclass(frozen=True)
class Format:
    """What `genrec export --format` can name.

    Attributes:
        about: one line.
        write: writes a bundle into a folder.
        read: reads it back by name; None where the files do not say enough.
        needs_sids: whether it is nothing without SIDs.
    """

    about: str
    write: Callable[[Bundle, Path], None]
    read: Callable[[Path, str], Bundle] | None
    needs_sids: bool


FORMATS: dict[str, Format] = {
    "index-json": Format("LC-Rec's three JSON files", index_json.write, index_json.read, True),
    "minionerec": Format(
        "MiniOneRec's CSV files, index and info", minionerec.write, minionerec.read, True
    ),
    "id2sid": Format(
        "MIMIGenRec's id2sid.json and what it trains on", id2sid.write, id2sid.read, True
    ),
    "recbole": Format("RecBole's atomic files, pre-split too", recbole.write, recbole.read, False),
    "rectools": Format("RecTools' tables, as parquet", rectools.write, rectools.read, False),
    "sentence-transformers": Format(
        "pairs of texts, and what to evaluate on", sentence_pairs.write, None, False
    ),
}


def write(bundle: Bundle, name: str, folder: str | Path) -> list[Path]:
    """Writes a bundle in a format.

    Args:
        bundle: what to write.
        name: of the format, see `FORMATS`.
        folder: a new or empty folder.

    Returns:
        The files, sorted.

    Raises:
        KeyError: no such format.
        FileExistsError: the folder holds something.
        ValueError: the bundle does not fit the format.
    """
    chosen, folder = _format(name), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: holds something already, and old files would mix with new ones; choose another "
            "--out, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        chosen.write(bundle, folder)
    except ValueError:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    return sorted(path for path in folder.rglob("*") if path.is_file())


def read(folder: str | Path, format_name: str, name: str) -> Bundle:
    """Reads a dataset in a format.

    Args:
        folder: where `write` put it, or another toolkit.
        format_name: see `FORMATS`.
        name: the files' name, such as "Industrial_and_Scientific".

    Raises:
        KeyError: no such format.
        ValueError: its files cannot be read back, or are not of its shape.
        FileNotFoundError: a file is missing.
    """
    chosen = _format(format_name)
    if chosen.read is None:
        raise ValueError(f"{format_name}: is not read; its texts do not say which items they were")
    return chosen.read(Path(folder), name)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise KeyError(f"'{name}': no such format; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]
