"""Items to views: vectors of their texts, of their images, and of the behaviour around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from genrec import enrich
from genrec.bundle import read_items
from genrec.enrich.queries import joint_options
from genrec.enrich.settings import Joint, Late, TextFields
from genrec.retrieve import training_sequences
from genrec.stages import Context

Views = dict[str, tuple[np.ndarray, float | None]]  # name -> vectors [N, D], weight in the fusion


def run(context: Context) -> None:
    """Encodes every view of the items, each to a file of its own."""
    section, items = context.section, read_items(context.inputs)
    views = _late(context, items) if isinstance(section, Late) else _joint(context, items)
    if section.behaviour is not None:
        views["behaviour"] = _behaviour_view(context, len(items)), section.behaviour.weight
    enrich.save_views(
        context.out,
        {name: vectors for name, (vectors, _) in views.items()},
        {name: weight for name, (_, weight) in views.items()},
        item_ids=items["item_id"].to_list(),
    )


def _late(context: Context, items: pl.DataFrame) -> Views:
    section: Late = context.section
    views: Views = {}
    if section.text is not None:
        encode = enrich.text_encoder(
            section, device=context.device, cache=context.cache, progress=context.progress
        )
        views["text"] = encode(_texts(context, items, section.text)), section.text.weight
    if section.image.kind != "none":
        views["image"] = _image_view(context, items), section.image.weight
    return views


def _joint(context: Context, items: pl.DataFrame) -> Views:
    section: Joint = context.section
    texts = _texts(context, items, section.text)
    nothing: list[Path | None] = [None] * len(items)
    paths = _paths(context, items) if section.image else nothing
    views: Views = {"joint": (_joint_vectors(context, texts, paths), section.weight)}
    if section.separate and section.text is not None:
        views["text"] = _joint_vectors(context, texts, nothing), None
        if any(paths):
            views["image"] = _joint_vectors(context, [""] * len(items), paths), None
    return views


def _joint_vectors(context: Context, texts: list[str], paths: list[Path | None]) -> np.ndarray:
    return enrich.encode_joint(
        texts,
        paths,
        **joint_options(context.section),
        device=context.device,
        cache=context.cache,
        progress=context.progress,
    )


def _texts(context: Context, items: pl.DataFrame, text: TextFields | None) -> list[str]:
    if text is None:
        return [""] * len(items)
    fields = text.chosen(context.inputs)
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
