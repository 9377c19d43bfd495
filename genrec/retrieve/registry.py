"""Retrievers by kind. Nothing is imported before it is asked for, so that counting needs no torch."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from genrec.retrieve.base import Retriever

KINDS = {
    "popular": "genrec.retrieve.popular:Popular",
    "cooccurrence": "genrec.retrieve.cooccurrence:Cooccurrence",
    "itemknn": "genrec.retrieve.itemknn:ItemKNN",
    "ease": "genrec.retrieve.ease:EASE",
    "sasrec": "genrec.retrieve.sasrec:SASRec",
    "anchorrec": "genrec.retrieve.anchorrec:AnchorRec",
    "magnitude": "genrec.retrieve.magnitude:Magnitude",
    "norm_concat": "genrec.retrieve.norm_concat:NormConcat",
}


def retriever_class(kind: str) -> Any:
    """Returns the class of a kind.

    Raises:
        KeyError: no such kind; names those that there are.
    """
    if kind not in KINDS:
        raise KeyError(f"'{kind}': no such retriever; expected one of {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    return getattr(import_module(module), name)


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
        found: Retriever = retriever_class(kind).load(folder)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{head}: damaged ({error}); fit and save again") from error
    return found
