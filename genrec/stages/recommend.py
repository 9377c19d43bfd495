"""Every user's list, by exact constrained beam search."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec import schema
from genrec.config import Recipe
from genrec.processes import Processes
from genrec.recommender import Lists, Recommender, to_table
from genrec.retrieve.fusion import pooled
from genrec.stages.context import EVALUATED, Context, lists_of
from genrec.store import Artifact


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
    recommender = load(
        context.recipe,
        context.inputs["train"],
        context.inputs["quantize"].load(),
        device=processes.join(context.device),
    )
    exact = {}
    for split in EVALUATED:
        targets = context.inputs["prepare"].load(f"{split}.parquet")
        lists = _lists(context, recommender, split, targets, processes)
        if not processes.first:
            continue
        table = to_table(targets["user"].to_list(), lists)
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
        exact[split] = float(lists.exact.mean())
    if processes.first:
        context.write_json("stats.json", {"proven_exact": exact})


def _lists(
    context: Context,
    recommender: Recommender,
    split: str,
    targets: pl.DataFrame,
    processes: Processes,
) -> Lists:
    section = context.section
    examples = schema.read_examples(context.inputs["compose"] / f"{split}.parquet")
    return recommender.recommend(
        [example.prompt for example in examples],
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


def load(recipe: Recipe, trained: Artifact, sids: np.ndarray, *, device: str) -> Recommender:
    """Opens a trained model with the engine that the recipe names.

    Args:
        recipe: its `recommend` section names the engine.
        trained: the train stage's artifact.
        sids: the quantize stage's. int32 [N, L].
        device: where the `hf` engine runs.
    """
    engine = recipe.recommend.engine
    options: dict[str, Any]
    if engine.kind == "hf":
        options = engine.model_dump(include={"strategy", "head", "dtype"})
        options |= {"device": device}
        if engine.memory_gb is not None:
            options["memory_budget"] = int(engine.memory_gb * 1e9)
    elif engine.kind == "vllm":
        options = engine.model_dump(exclude={"kind", "options"}, exclude_none=True) | engine.options
    else:
        options = {**dict(engine), "model": engine.model or served_name(trained)}
        del options["kind"]
    return Recommender.load(
        trained / "merged",
        sids,
        max_length=recipe.train.max_length,
        batch_size=recipe.runtime.batch_size,
        engine=engine.kind,
        **options,
    )


def served_name(trained: Artifact) -> str:
    """Returns the name under which a server offers a trained model: it changes with its files."""
    return f"genrec-{trained.digest}"
