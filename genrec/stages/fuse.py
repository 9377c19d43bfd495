"""Several systems' lists to one, by weights or a gate fitted on validation users."""

from __future__ import annotations

import logging

import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.retrieve.fusion import Fusion, NothingToFitError, kept
from genrec.retrieve.sequences import training_popularity
from genrec.stages import EVALUATED, Context, lists_of, system_of

logger = logging.getLogger(__name__)


def run(context: Context) -> None:
    """Fuses the lists of both splits, and counts what becomes of each source's own hits."""
    prepared, section = context.inputs["prepare"], context.section
    lists = {
        split: {
            name: lists_of(artifact, split)
            for key, artifact in context.inputs.items()
            if (name := system_of(key))
        }
        for split in EVALUATED
    }
    targets = {split: prepared.load(f"{split}.parquet") for split in EVALUATED}
    num_items = len(prepared.load("items.parquet"))
    counts = training_popularity(prepared.load("train.parquet"), num_items=num_items)
    fusion, fallback = _fitted(context, lists["valid"], targets["valid"], counts)
    fusion.save(context.out / "fusion")
    hits = {}
    for done, (split, tables) in enumerate(lists.items(), start=1):
        fused = fusion.fuse(tables, targets[split], k=section.k)
        schema.write(
            context.out / schema.recommendations_file(split), fused, schema.RECOMMENDATIONS
        )
        hits[split] = kept(tables, fused, targets[split], k=section.optimise_k)
        context.progress("fuse", done, len(lists))
    stats = fusion.summary() | {"kept": hits}
    if fallback is not None:
        stats["fallback"] = fallback
    context.write_json("stats.json", stats)


def _fitted(
    context: Context, tables: dict[str, pl.DataFrame], targets: pl.DataFrame, counts: npt.ArrayLike
) -> tuple[Fusion, str | None]:
    """The fusion, and why its weights are equal where there was nothing to fit them to."""
    section, seed = context.section, context.recipe.seed
    try:
        return Fusion(section, seed=seed).fit(tables, targets, popularity=counts), None
    except NothingToFitError as error:
        method = "zscore" if section.method == "gate" else section.method
        equal = dict.fromkeys(tables, 1 / len(tables))
        fusion = Fusion(section, seed=seed, method=method, weights=equal)
        reason = (
            f"all sources have equal weights, by {method}, for nothing could be fitted: {error} "
            "(k in the retrieve and recommend sections)"
        )
        logger.warning("fuse: %s", reason)
        return fusion.fit(tables, targets, popularity=counts), reason
