"""Items to one vector each: every view encoded, then fused."""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec import enrich
from genrec.retrieve import training_sequences
from genrec.stages.context import Context


def run(context: Context) -> None:
    """Items to one vector each: every view encoded, then fused."""
    section, prepared = context.section, context.inputs["prepare"]
    items = prepared.load("items.parquet")
    found: dict[str, np.ndarray] = {}
    weights: dict[str, float] = {}
    if section.text is not None:
        texts = [enrich.item_text(row, section.text.fields) for row in items.iter_rows(named=True)]
        found["text"] = enrich.encode_texts(
            texts,
            model=section.text.model,
            batch_size=section.text.batch_size,
            max_tokens=section.text.max_tokens,
            device=context.device,
            cache=context.cache,
            progress=context.progress,
        )
        weights["text"] = section.text.weight
    if section.image.kind != "none":
        found["image"] = _image_view(context, items)
        weights["image"] = section.image.weight
    if section.behaviour is not None:
        found["behaviour"] = enrich.behaviour_view(
            [s.tolist() for s in training_sequences(prepared.load("train.parquet"))],
            len(items),
            dim=section.behaviour.dim,
            window=section.behaviour.window,
            seed=context.recipe.seed,
        )
        weights["behaviour"] = section.behaviour.weight
    fused = enrich.late_fusion(found, weights)
    np.save(context.out / "embeddings.npy", fused)
    shapes = {name: {"dim": v.shape[1], "weight": weights[name]} for name, v in found.items()}
    context.write_json("views.json", shapes)


def _image_view(context: Context, items: pl.DataFrame) -> np.ndarray:
    section, root = context.section.image, context.inputs["prepare"].path
    paths = [None if image is None else root / image for image in items["image"]]
    options = section.model_dump(exclude={"kind", "weight"})
    if section.kind == "descriptors":
        return enrich.describe_images(paths, **options, progress=context.progress)
    return enrich.encode_images(
        paths, **options, device=context.device, cache=context.cache, progress=context.progress
    )
