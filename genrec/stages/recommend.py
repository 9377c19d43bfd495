"""Every user's list, by exact constrained beam search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genrec import schema
from genrec.config import Recipe
from genrec.processes import Processes
from genrec.recommender import Recommender, to_table
from genrec.retrieve.fusion import pooled
from genrec.stages.context import EVALUATED, Context


def run(context: Context) -> None:
    """Every user's list, by exact constrained beam search; processes share the users."""
    section, prepared = context.section, context.inputs["prepare"]
    processes = Processes.current()
    if section.engine.kind == "vllm" and processes.count > 1:
        raise ValueError(
            f"recommend.engine.kind=vllm under {processes.count} processes: vLLM spreads over GPUs "
            "itself, run `genrec recommend` alone with, for example, "
            "recommend.engine.options.tensor_parallel_size=2"
        )
    recommender = load(
        context.recipe,
        context.inputs["train"] / "merged",
        context.inputs["quantize"].load(),
        device=processes.join(context.device),
    )
    exact = {}
    for split in EVALUATED:
        targets = prepared.load(f"{split}.parquet")
        examples = schema.read_examples(context.inputs["compose"] / f"{split}.parquet")
        lists = recommender.recommend(
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
        if not processes.first:
            continue
        table = to_table(targets["user"].to_list(), lists)
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
        exact[split] = float(lists.exact.mean())
    if processes.first:
        context.write_json("stats.json", {"proven_exact": exact})


def _candidates(context: Context, split: str, users: list[int]) -> list[np.ndarray] | None:
    """The items that each user's list may hold; None where the recipe does not restrict it."""
    wanted = context.section.candidates
    if wanted.mode == "off":
        return None
    file = schema.recommendations_file(split)
    tables = {name: context.inputs[f"retrieve.{name}"].load(file) for name in wanted.sources}
    return pooled(tables, users, size=wanted.size)


def load(recipe: Recipe, folder: Path, sids: np.ndarray, *, device: str) -> Recommender:
    """Opens a trained model with the engine that the recipe names.

    Args:
        recipe: its `recommend` section names the engine.
        folder: the train stage's `merged/`.
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
    else:
        options = engine.model_dump(exclude={"kind", "options"}, exclude_none=True) | engine.options
    return Recommender.load(
        folder,
        sids,
        max_length=recipe.train.max_length,
        batch_size=recipe.runtime.batch_size,
        engine=engine.kind,
        **options,
    )
