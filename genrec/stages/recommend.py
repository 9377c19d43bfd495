"""Every user's list, by exact constrained beam search."""

from __future__ import annotations

from genrec import schema
from genrec.recommender import Recommender, to_table
from genrec.stages.context import EVALUATED, Context


def run(context: Context) -> None:
    """Every user's list, by exact constrained beam search."""
    section, prepared = context.section, context.inputs["prepare"]
    recommender = Recommender.load(
        context.inputs["train"] / "merged",
        context.inputs["quantize"].load(),
        max_length=context.recipe.train.max_length,
        batch_size=context.recipe.runtime.batch_size,
        device=context.device,
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
            progress=context.progress_of(split),
        )
        table = to_table(targets["user"].to_list(), lists)
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
        exact[split] = float(lists.exact.mean())
    context.write_json("stats.json", {"proven_exact": exact})
