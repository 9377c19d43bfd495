"""What the systems know of each other: the second half of the evaluate stage, diagnostics.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec.analysis.complementarity import diagnose as compare
from genrec.analysis.complementarity_plots import plot_complementarity
from genrec.evaluate import evaluate
from genrec.retrieve import histories_of
from genrec.retrieve.sequences import training_popularity
from genrec.stages.context import Context, system_of
from genrec.stages.views import item_views


def diagnose(
    context: Context, systems: dict[str, pl.DataFrame], targets: pl.DataFrame
) -> dict[str, Any]:
    """Returns what diagnostics.json holds, and draws the plots.

    Args:
        context: of the evaluate stage.
        systems: the test lists by system.
        targets: the test users.
    """
    found: dict[str, Any] = {}
    alone = {name: table for name, table in systems.items() if name != "fused"}
    if len(alone) > 1:
        found["complementarity"] = _complementarity(context, alone, targets)
        plot_complementarity(found["complementarity"], context.out)
    if "fuse" in context.inputs:
        found["fusion"] = _fusion(context, systems, targets)
    found["retrievers"] = {
        system_of(key): artifact.load("stats.json")
        for key, artifact in context.inputs.items()
        if key.startswith("retrieve.")
    }
    if context.section.alignment is not None:
        found["alignment"] = _alignment(context, targets)
    return found


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
    views = item_views(context)
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
    found = probe_alignment(
        views[section.view],
        items,
        users=Users(users, histories, [[t] for t in targets["target"]]),
        probes={name: PROBES[name] for name in section.probes},
        training=Training(epochs=section.epochs, seed=context.recipe.seed, device=context.device),
        progress=context.progress,
    )
    return {"of": section.of, "view": section.view, **found}
