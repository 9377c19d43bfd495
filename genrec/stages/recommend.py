"""Every user's list, by exact constrained beam search."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec import schema
from genrec.bundle import SET_WEIGHTS, Bundle
from genrec.decode import MixtureEngine
from genrec.processes import Processes
from genrec.recommender import RecommendedLists, Recommender
from genrec.retrieve.fusion import pooled
from genrec.sid.stats import prefix_recall
from genrec.stages import EVALUATED, Context, lists_of, read_prompts

_WEIGHING = 2000  # validation users who settle the weights of the sets: a handful of numbers


def run(context: Context) -> None:
    """Every user's list, by exact constrained beam search; processes share the users."""
    section = context.section
    processes = Processes.current()
    if section.engine.kind != "hf" and processes.count > 1:
        raise ValueError(
            f"recommend.engine.kind={section.engine.kind} under {processes.count} processes: vLLM "
            "spreads over GPUs itself (for example engine.options.tensor_parallel_size=2); run "
            "`genrec recommend` alone"
        )
    bundle = Bundle(context.recipe, context.inputs)
    recommender = bundle.load_llm(device=processes.join(context.device))
    stats: dict[str, Any] = {}
    if len(recommender.sets) > 1:
        stats["sets"] = _weigh(context, recommender)
        if processes.first:
            context.write_json(SET_WEIGHTS, stats["sets"]["weights"])
    exact, first = {}, {}
    for split in EVALUATED:
        targets = context.inputs["prepare"].load(f"{split}.parquet")
        lists = _lists(context, recommender, split, targets, processes)
        if not processes.first:
            continue
        table = lists.to_table(targets["user"])
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
        exact[split] = float(lists.exact.mean())
        first[split] = float(lists.proven(10).mean())
        if split == "valid":
            wanted = targets["target"].to_numpy()
            stats["prefix_recall@10"] = {
                f"set {number}": prefix_recall(own, lists.items, wanted)
                for number, own in enumerate(recommender.sets, 1)
            }
    if processes.first:
        context.write_json("stats.json", {"proven_exact": exact, "proven_top_10": first, **stats})


def _weigh(context: Context, recommender: Recommender) -> dict[str, Any]:
    """Settles how much each set of SIDs counts; the recommender decodes with it from then on."""
    wanted, targets = context.section.set_weights, context.inputs["prepare"].load("valid.parquet")
    if wanted == "fit":
        chosen = np.random.default_rng(context.recipe.seed).permutation(len(targets))[:_WEIGHING]
        rows = sorted(chosen.tolist())
        composed, targets = context.inputs["compose"].path, targets[rows]
        return recommender.fit_weights(
            read_prompts(composed, "valid", len(recommender.sets), rows=rows),
            targets["target"].to_numpy(),
            num_beams=context.section.num_beams,
            exclude=targets["history"].to_list() if context.recipe.mask_seen else None,
            progress=context.progress,
        )
    given = [1.0] * len(recommender.sets) if wanted == "equal" else list(wanted)
    recommender.engine = MixtureEngine(recommender.engine.all_engines, given)
    return {"weights": recommender.engine.weights.tolist()}


def _lists(
    context: Context,
    recommender: Recommender,
    split: str,
    targets: pl.DataFrame,
    processes: Processes,
) -> RecommendedLists:
    section = context.section
    return recommender.recommend(
        read_prompts(context.inputs["compose"].path, split, len(recommender.sets)),
        k=section.k,
        num_beams=section.num_beams,
        exclude=targets["history"].to_list() if context.recipe.mask_seen else None,
        allowed=_candidates(context, split, targets["user"].to_list()),
        certify=getattr(section.engine, "certify", False),
        max_beams=getattr(section.engine, "max_beams", None),
        processes=processes,
        progress=context.progress_of(split),
    )


def _candidates(context: Context, split: str, users: list[int]) -> list[np.ndarray] | None:
    """The items that each user's list may hold; None where the recipe does not restrict it."""
    wanted = context.section.candidates
    if wanted.mode == "off":
        return None
    tables = {name: lists_of(context.inputs[f"retrieve.{name}"], split) for name in wanted.sources}
    return pooled(tables, users, size=wanted.size)
