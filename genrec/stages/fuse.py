"""Several systems' lists to one, by what was fitted on validation users."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl

from genrec import schema
from genrec.data.card import NO_TIMES
from genrec.enrich import load_views
from genrec.evaluate import per_user
from genrec.retrieve.fusion import Fusion, NothingToFitError, kept
from genrec.retrieve.fusion.features import facts_of
from genrec.retrieve.sequences import training_popularity
from genrec.stages import EVALUATED, Context, lists_of, system_of

logger = logging.getLogger(__name__)
Tables = dict[str, pl.DataFrame]


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
    known = _known(context)
    fusion, fallback = _fitted(context, lists["valid"], targets["valid"], known)
    fusion.save(context.out / "fusion")
    context.progress("fuse", 1, 3)
    made = {"test": fusion.fuse(lists["test"], targets["test"], k=section.k)}
    context.progress("fuse", 2, 3)
    made["valid"], how = _of_validation(fusion, lists["valid"], targets["valid"], known)
    hits = {}
    for split, fused in made.items():
        file = context.out / schema.recommendations_file(split)
        schema.write(file, fused, schema.RECOMMENDATIONS)
        hits[split] = kept(lists[split], fused, targets[split], k=section.optimise_k)
    measured = per_user(
        made["valid"],
        targets["valid"],
        ks=(section.optimise_k,),
        num_items=len(known["popularity"]),
        where="fused",
    )
    ndcg = f"ndcg@{section.optimise_k}"
    validation = {"lists": how, ndcg: round(float(measured[ndcg].to_numpy().mean()), 6)}
    stats = fusion.summary() | {"kept": hits, "validation": validation}
    if fallback is not None:
        stats["fallback"] = fallback
    context.write_json("stats.json", stats)
    context.progress("fuse", 3, 3)


def _known(context: Context) -> dict[str, Any]:
    """What a fusion may look at beside the lists: arguments of `Fusion.fit`."""
    prepared = context.inputs["prepare"]
    train, num_items = prepared.load("train.parquet"), len(prepared.load("items.parquet"))
    known: dict[str, Any] = {"popularity": training_popularity(train, num_items=num_items)}
    if context.section.method == "lambdarank":
        timed = prepared.load("stats.json")["time"] != NO_TIMES
        known["facts"] = facts_of(
            train,
            num_items=num_items,
            interactions=prepared.load("interactions.parquet") if timed else None,
            views=load_views(context.inputs["embed"].path) if "embed" in context.inputs else None,
        )
    return known


def _fitted(
    context: Context, tables: Tables, targets: pl.DataFrame, known: dict[str, Any]
) -> tuple[Fusion, str | None]:
    """The fusion, and why its weights are equal where there was nothing to fit them to."""
    section, seed = context.section, context.recipe.seed
    try:
        return Fusion(section, seed=seed).fit(tables, targets, **known), None
    except NothingToFitError as error:
        method = "zscore" if section.method in section.learned else section.method
        equal = dict.fromkeys(tables, 1 / len(tables))
        fusion = Fusion(section, seed=seed, method=method, weights=equal)
        reason = (
            f"all sources have equal weights, by {method}, for nothing could be fitted: {error} "
            "(k in the retrieve and recommend sections)"
        )
        logger.warning("fuse: %s", reason)
        return fusion.fit(tables, targets, **known), reason


def _of_validation(
    fusion: Fusion,
    tables: Tables,
    targets: pl.DataFrame,
    known: dict[str, Any],
) -> tuple[pl.DataFrame, str]:
    """The validation users' lists, and how they were made: only those in sample flatter the fusion."""
    settings = fusion.settings
    if settings.weights is not None:
        return fusion.fuse(tables, targets, k=settings.k), "nothing was fitted"
    if settings.folds > 1:
        try:
            return fusion.fuse_held_out(tables, targets, k=settings.k, **known), "out of fold"
        except NothingToFitError as error:
            logger.warning(
                "fuse: validation users are fused by a fit to themselves, so their metrics flatter it: "
                "%s",
                error,
            )
    return fusion.fuse(tables, targets, k=settings.k), "in sample"
