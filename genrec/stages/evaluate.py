"""Every system's lists to metrics, what the systems know of each other, and the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec.analysis.complementarity import diagnose as compare, plot_complementarity
from genrec.enrich import load_views
from genrec.evaluate import evaluate, evaluate_groups, pick_users, user_examples, write_report
from genrec.retrieve import histories_of
from genrec.retrieve.sequences import training_popularity
from genrec.stages import EVALUATED, Context, lists_of, system_of


def run(context: Context) -> None:
    """Every system's lists to metrics, and the report."""
    prepared = context.inputs["prepare"]
    items = prepared.load("items.parquet")
    splits = [_metrics(context, split, len(items)) for split in EVALUATED]
    measured = splits[-1] | {
        part: [row for split in splits for row in split[part]] for part in ("rows", "differences")
    }
    targets, systems = prepared.load("test.parquet"), _lists(context, "test")
    measured["groups"] = _groups(context, systems, targets)
    if "probe" in context.inputs:
        measured["probes"] = context.inputs["probe"].load()
        measured["rows"] += measured["probes"]["rows"]
    context.write_json("metrics.json", measured)
    diagnostics = _diagnostics(context, systems, targets)
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
        purpose=context.section.purpose,
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
        baselines=context.recipe.baselines,
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


def _diagnostics(
    context: Context, systems: dict[str, pl.DataFrame], targets: pl.DataFrame
) -> dict[str, Any]:
    """Returns what diagnostics.json holds, and draws the plots.

    Args:
        context: of the evaluate stage.
        systems: the test lists by system.
        targets: the test users.
    """
    diagnostics: dict[str, Any] = {}
    alone = {name: table for name, table in systems.items() if name != "fused"}
    if len(alone) > 1:
        diagnostics["complementarity"] = _complementarity(context, alone, targets)
        plot_complementarity(diagnostics["complementarity"], context.out)
    if "fuse" in context.inputs:
        diagnostics["fusion"] = _fusion(context, systems, targets)
    diagnostics["retrievers"] = {
        system_of(key): artifact.load("stats.json")
        for key, artifact in context.inputs.items()
        if key.startswith("retrieve.")
    }
    if context.section.alignment is not None:
        diagnostics["alignment"] = _alignment(context, targets)
    return diagnostics


def _complementarity(
    context: Context, systems: dict[str, pl.DataFrame], targets: pl.DataFrame
) -> dict[str, Any]:
    """Every two systems; the fusion, which is made of the others, is not one of them."""
    prepared = context.inputs["prepare"]
    train, num_items = prepared.load("train.parquet"), len(prepared.load("items.parquet"))
    counts = training_popularity(train, num_items=num_items)
    lengths = np.zeros(1 + max(targets["user"].max(), train["user"].max()), dtype=np.int64)
    lengths[train["user"].to_numpy()] = train["history"].list.len().to_numpy() + 1
    return compare(systems, targets, counts, lengths, k=max(context.section.ks))


def _fusion(
    context: Context, systems: dict[str, pl.DataFrame], targets: pl.DataFrame
) -> dict[str, Any]:
    """The fusion's own account, and its paired differences to each of its sources."""
    stats = context.inputs["fuse"].load("stats.json")
    sources = stats["sources"]
    measured = evaluate(
        {name: systems[name] for name in ("fused", *sources)},
        targets,
        split="test",
        num_items=len(context.inputs["prepare"].load("items.parquet")),
        ks=context.section.ks,
        baselines=sources,
        seen_items="masked" if context.recipe.mask_seen else "kept",
        samples=context.section.samples,
        seed=context.recipe.seed,
    )
    return stats | {"differences": [d for d in measured["differences"] if d["system"] == "fused"]}


def _alignment(context: Context, targets: pl.DataFrame) -> dict[str, Any]:
    """How much of a retriever's collaborative space a map of the semantic one reaches."""
    from genrec.analysis.alignment import PROBES, Training, Users, probe_alignment
    from genrec.retrieve import open_retriever

    section = context.section.alignment
    views = load_views(context.inputs["embed"].path)
    if section.view not in views:
        raise ValueError(
            f"evaluate.alignment.view: '{section.view}' not among the embedding's {sorted(views)}"
        )
    retriever: Any = open_retriever(context.inputs[f"retrieve.{section.of}"] / "retriever")
    if not hasattr(retriever, "collaborative"):
        raise ValueError(
            f"evaluate.alignment.of: {section.of} has no collaborative space; expected the name of an "
            "anchorrec, norm_concat or sasrec retriever"
        )
    histories = histories_of(targets)
    users, items = retriever.collaborative(histories)
    measured = probe_alignment(
        views[section.view],
        items,
        users=Users(users, histories, [[t] for t in targets["target"]]),
        probes={name: PROBES[name] for name in section.probes},
        training=Training(epochs=section.epochs, seed=context.recipe.seed, device=context.device),
        progress=context.progress,
    )
    return {"of": section.of, "view": section.view, **measured}
