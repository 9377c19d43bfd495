"""A fitted retriever on disk: `retriever.json` (kind, settings) beside `arrays.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from genrec import registry
from genrec.retrieve.base import Retriever

Arrays = Mapping[str, npt.NDArray[Any]]
_CSR = ("data", "indices", "indptr")


def settings_of(retriever: Any) -> dict[str, Any]:
    """Returns the constructor's arguments of a dataclass, without `device`: that is the machine's."""
    named = (f.name for f in fields(retriever) if f.init and f.name != "device")
    return {name: getattr(retriever, name) for name in named}


def csr_arrays(name: str, matrix: sparse.csr_array) -> dict[str, npt.NDArray[Any]]:
    """Returns the three arrays of a sparse matrix, to be saved as `name.data` and so on."""
    return {f"{name}.{part}": getattr(matrix, part) for part in _CSR}


def csr_matrix(name: str, arrays: Arrays, size: int) -> sparse.csr_array:
    """Returns the sparse matrix [size, size] that `csr_arrays` took apart."""
    parts = tuple(arrays[f"{name}.{part}"] for part in _CSR)
    return sparse.csr_array(parts, shape=(size, size))


def save_retriever(
    folder: str | Path, kind: str, *, settings: Mapping[str, Any], arrays: Arrays
) -> None:
    """Writes one retriever; the folder is made if need be.

    Args:
        folder: where to.
        kind: the retriever's name, checked again on loading.
        settings: its constructor's arguments, JSON values.
        arrays: what was learned, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(a) for name, a in arrays.items()},
        folder / "arrays.safetensors",
    )
    text = json.dumps({"kind": kind, "settings": dict(settings)}, indent=2, sort_keys=True)
    (folder / "retriever.json").write_text(text + "\n", encoding="utf-8")


def load_retriever(
    folder: str | Path, kind: str
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Reads the settings and arrays that `save_retriever` wrote.

    Raises:
        FileNotFoundError: `folder` holds no saved retriever.
        ValueError: it holds another kind of retriever, or a damaged file.
    """
    head, body = Path(folder) / "retriever.json", Path(folder) / "arrays.safetensors"
    for path in (head, body):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a folder written by save()")
    try:
        saved = json.loads(head.read_text(encoding="utf-8"))
        found, settings = saved["kind"], dict(saved["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{head}: damaged ({error!r}); fit and save again") from error
    if found != kind:
        raise ValueError(f"{head}: holds a '{found}' retriever, expected '{kind}'")
    try:
        return settings, load_file(body)
    except SafetensorError as error:
        raise ValueError(f"{body}: damaged ({error}); fit and save again") from error


def open_retriever(folder: str | Path) -> Retriever:
    """Loads a fitted retriever of whatever kind.

    Args:
        folder: what `save` wrote; the retrieve stage's `retriever/`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a kind that is not known.
    """
    head = Path(folder) / "retriever.json"
    if not head.is_file():
        raise FileNotFoundError(f"{head}: no such file; expected a folder written by save()")
    try:
        kind = json.loads(head.read_text(encoding="utf-8"))["kind"]
        settings = registry.parts("retrievers")[kind]
        retriever: Retriever = registry.implementation(settings).load(folder)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{head}: damaged ({error}); fit and save again") from error
    return retriever
