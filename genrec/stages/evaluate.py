"""Every system's lists to metrics, and the report."""

from __future__ import annotations

from typing import Any

import polars as pl

from genrec import schema
from genrec.config import Recipe
from genrec.evaluate import evaluate, evaluate_groups, pick_users, user_examples, write_report
from genrec.stages.context import EVALUATED, Context


def run(context: Context) -> None:
    """Every system's lists to metrics, and the report."""
    section, prepared = context.section, context.inputs["prepare"]
    items = prepared.load("items.parquet")
    found = []
    for split in EVALUATED:
        targets = prepared.load(f"{split}.parquet")
        systems = {
            _system(key): artifact.load(schema.recommendations_file(split))
            for key, artifact in context.inputs.items()
            if _system(key)
        }
        found.append(
            evaluate(
                systems,
                targets,
                split=split,
                num_items=len(items),
                ks=section.ks,
                baselines=section.baselines,
                seen_items="masked" if context.recipe.mask_seen else "kept",
                samples=section.samples,
                seed=context.recipe.seed,
                progress=context.progress_of(split),
            )
        )
    measured = found[-1] | {
        part: [row for split in found for row in split[part]] for part in ("rows", "differences")
    }
    measured["groups"] = _groups(context, systems, targets)
    if "probe" in context.inputs:
        measured["probes"] = context.inputs["probe"].load()
        measured["rows"] += measured["probes"]["rows"]
    context.write_json("metrics.json", measured)
    users = pick_users(targets, count=section.report_users, seed=context.recipe.seed)
    write_report(
        context.out / "report.html",
        title=context.recipe.name,
        metrics=measured,
        sid_stats=context.inputs["quantize"].load("stats.json"),
        data_stats=prepared.load("stats.json"),
        facts=_facts(context.recipe),
        examples=user_examples(
            users, systems=systems, targets=targets, items=items, image_root=prepared.path
        ),
    )


def _system(key: str) -> str:
    """Returns the name under which a node's lists are measured; empty if it makes none."""
    stage, _, kind = key.partition(".")
    return "generative" if stage == "recommend" else kind


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


def _facts(recipe: Recipe) -> dict[str, str]:
    return {
        "source": recipe.prepare.source.kind,
        "quantizer": recipe.quantize.kind,
        "model": recipe.train.model.kind,
        "seed": str(recipe.seed),
    }
