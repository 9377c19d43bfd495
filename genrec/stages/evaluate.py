"""Every system's lists to metrics, and the report."""

from __future__ import annotations

from typing import Any

import polars as pl

from genrec.evaluate import evaluate, evaluate_groups, pick_users, user_examples, write_report
from genrec.stages.context import EVALUATED, Context, lists_of, system_of
from genrec.stages.diagnose import diagnose


def run(context: Context) -> None:
    """Every system's lists to metrics, and the report."""
    prepared = context.inputs["prepare"]
    items = prepared.load("items.parquet")
    found = [_metrics(context, split, len(items)) for split in EVALUATED]
    measured = found[-1] | {
        part: [row for split in found for row in split[part]] for part in ("rows", "differences")
    }
    targets, systems = prepared.load("test.parquet"), _lists(context, "test")
    measured["groups"] = _groups(context, systems, targets)
    if "probe" in context.inputs:
        measured["probes"] = context.inputs["probe"].load()
        measured["rows"] += measured["probes"]["rows"]
    context.write_json("metrics.json", measured)
    diagnostics = diagnose(context, systems, targets)
    context.write_json("diagnostics.json", diagnostics)
    users = pick_users(targets, count=context.section.report_users, seed=context.recipe.seed)
    write_report(
        context.out / "report.html",
        title=context.recipe.name,
        metrics=measured,
        sid_stats=_stats(context, "quantize"),
        data_stats=prepared.load("stats.json"),
        facts=_facts(context),
        diagnostics=diagnostics,
        examples=user_examples(
            users, systems=systems, targets=targets, items=items, image_root=prepared.path
        ),
    )


def _metrics(context: Context, split: str, num_items: int) -> dict[str, Any]:
    section = context.section
    return evaluate(
        _lists(context, split),
        context.inputs["prepare"].load(f"{split}.parquet"),
        split=split,
        num_items=num_items,
        ks=section.ks,
        baselines=section.baselines,
        seen_items="masked" if context.recipe.mask_seen else "kept",
        samples=section.samples,
        seed=context.recipe.seed,
        progress=context.progress_of(split),
    )


def _lists(context: Context, split: str) -> dict[str, pl.DataFrame]:
    """Every system's lists: the LLM's and the fusion first, then the retrievers."""
    named = {name: artifact for key, artifact in context.inputs.items() if (name := system_of(key))}
    first = [name for name in ("generative", "fused") if name in named]
    order = [*first, *(name for name in named if name not in first)]
    return {name: lists_of(named[name], split) for name in order}


def _groups(
    context: Context, systems: dict[str, pl.DataFrame], targets: pl.DataFrame
) -> list[dict[str, Any]]:
    """Returns the test users' metrics by group; none where the source knows no groups."""
    prepared = context.inputs["prepare"]
    if "groups.parquet" not in prepared.files():
        return []
    return evaluate_groups(
        systems,
        targets,
        prepared.load("groups.parquet"),
        split="test",
        num_items=len(prepared.load("items.parquet")),
        ks=context.section.ks,
        samples=context.section.samples,
        seed=context.recipe.seed,
    )


def _stats(context: Context, stage: str) -> dict[str, Any] | None:
    artifact = context.inputs.get(stage)
    return None if artifact is None else artifact.load("stats.json")


def _facts(context: Context) -> dict[str, str]:
    recipe = context.recipe
    facts = {"source": recipe.prepare.source.kind, "seed": str(recipe.seed)}
    if "recommend" in context.inputs:
        facts |= {"quantizer": recipe.quantize.kind, "model": recipe.train.model.kind}
    return facts
