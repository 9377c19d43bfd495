"""Items to one vector each: every view encoded, then fused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from genrec import enrich
from genrec.config import Joint, Late
from genrec.config.embed import Words
from genrec.retrieve import training_sequences
from genrec.stages.context import Context
from genrec.stages.items import read_items
from genrec.stages.views import joint_vectors

Views = dict[str, tuple[np.ndarray, float]]  # name -> vectors [N, D], weight


def run(context: Context) -> None:
    """Items to one vector each: every view encoded, then fused."""
    section, items = context.section, read_items(context)
    encode: dict[type, Callable[[Context, pl.DataFrame], Views]] = {Late: _late, Joint: _joint}
    found = encode[type(section)](context, items)
    if section.behaviour is not None:
        found["behaviour"] = _behaviour_view(context, len(items)), section.behaviour.weight
    weights = {name: weight for name, (_, weight) in found.items()}
    fused = enrich.late_fusion(
        {name: view for name, (view, _) in found.items()},
        weights,
        item_ids=items["item_id"].to_list(),
    )
    np.save(context.out / "embeddings.npy", fused)
    shapes = {name: {"dim": v.shape[1], "weight": weights[name]} for name, (v, _) in found.items()}
    context.write_json("views.json", shapes)


def _late(context: Context, items: pl.DataFrame) -> Views:
    section, found = context.section, {}
    if section.text is not None:
        vectors = enrich.encode_texts(
            _texts(context, items, section.text),
            model=section.text.model,
            batch_size=section.text.batch_size,
            max_tokens=section.text.max_tokens,
            device=context.device,
            cache=context.cache,
            progress=context.progress,
        )
        found["text"] = vectors, section.text.weight
    if section.image.kind != "none":
        found["image"] = _image_view(context, items), section.image.weight
    return found


def _joint(context: Context, items: pl.DataFrame) -> Views:
    section = context.section
    vectors = joint_vectors(
        context,
        _texts(context, items, section.text) if section.text else [""] * len(items),
        _paths(context, items) if section.image else [None] * len(items),
    )
    return {"joint": (vectors, section.weight)}


def _texts(context: Context, items: pl.DataFrame, words: Words) -> list[str]:
    fields = words.chosen(context.inputs)
    return [enrich.item_text(row, fields) for row in items.iter_rows(named=True)]


def _paths(context: Context, items: pl.DataFrame) -> list[Path | None]:
    root = context.inputs["prepare"].path
    return [None if image is None else root / image for image in items["image"]]


def _image_view(context: Context, items: pl.DataFrame) -> np.ndarray:
    section, paths = context.section.image, _paths(context, items)
    options = section.model_dump(exclude={"kind", "weight"})
    if section.kind == "descriptors":
        return enrich.describe_images(paths, **options, progress=context.progress)
    return enrich.encode_images(
        paths, **options, device=context.device, cache=context.cache, progress=context.progress
    )


def _behaviour_view(context: Context, items: int) -> np.ndarray:
    section = context.section.behaviour
    return enrich.behaviour_view(
        [s.tolist() for s in training_sequences(context.inputs["prepare"].load("train.parquet"))],
        items,
        dim=section.dim,
        window=section.window,
        seed=context.recipe.seed,
    )
