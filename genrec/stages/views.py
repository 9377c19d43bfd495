"""The items' views one by one, as retrievers take them, and the encoder that made the text's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec import enrich
from genrec.enrich.settings import Late
from genrec.stages.context import Context
from genrec.stages.items import read_items

Floats = npt.NDArray[np.float32]


def item_views(context: Context) -> dict[str, Floats]:
    """Returns each view of the items, rows of length 1, or zeros where an item lacks it.

    With `embed.kind: late` they are the parts of the embedding; `behaviour`, which is no content, is
    among them. With `joint` the same model reads words and pictures together (`joint`), the words
    alone (`text`) and the pictures alone (`image`).
    """
    embedding = context.inputs["embed"]
    fused, shapes = embedding.load(), embedding.load("views.json")
    ends = np.cumsum([shapes[name]["dim"] for name in sorted(shapes)])
    parts = np.split(fused, ends[:-1], axis=1)
    views = {name: _unit(part) for name, part in zip(sorted(shapes), parts, strict=True)}
    if isinstance(context.recipe.embed, Late):
        return views
    section, items = context.recipe.embed, read_items(context)
    empty: list[Path | None] = [None] * len(items)
    if section.text is not None:
        fields = section.text.chosen(context.inputs)
        texts = [enrich.item_text(row, fields) for row in items.iter_rows(named=True)]
        views["text"] = joint_vectors(context, texts, empty)
        if section.image:
            root = context.inputs["prepare"].path
            paths = [None if image is None else root / image for image in items["image"]]
            if any(paths):
                views["image"] = joint_vectors(context, [""] * len(items), paths)
    return views


def text_encoder(context: Context) -> Callable[[Sequence[str]], Floats]:
    """Returns what makes vectors of free text that lie in the space of the view `text`.

    Raises:
        ValueError: the recipe's embedding reads no words.
    """
    section: Any = context.recipe.embed
    if section.text is None:
        raise ValueError(
            "embed.text is null, so nothing can read a text; give the recipe a text view, or set the "
            "retriever's queries to []"
        )
    if isinstance(section, Late):
        options = section.text.model_dump(include={"model", "batch_size", "max_tokens"})
        return lambda texts: enrich.encode_texts(
            texts, **options, device=context.device, cache=context.cache, progress=context.progress
        )
    return lambda texts: joint_vectors(context, texts, [None] * len(texts))


def joint_vectors(context: Context, texts: Sequence[str], paths: Sequence[Path | None]) -> Floats:
    """Returns what the recipe's joint model makes of n texts and pictures, float32 [n, D]."""
    section: Any = context.recipe.embed
    return enrich.encode_joint(
        texts,
        paths,
        **section.model_dump(exclude={"kind", "text", "image", "weight", "behaviour"}),
        max_tokens=section.text.max_tokens if section.text else None,
        device=context.device,
        cache=context.cache,
        progress=context.progress,
    )


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
