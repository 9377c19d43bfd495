"""Several systems' lists to one; what is fitted is fitted on validation users."""

from __future__ import annotations

from genrec import schema
from genrec.retrieve.fusion import Fusion, kept
from genrec.retrieve.ranking import training_popularity
from genrec.stages.context import EVALUATED, Context, lists_of, system_of


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
    options = section.model_dump(exclude={"enabled", "sources", "k"})
    fusion = Fusion(**options, seed=context.recipe.seed)
    num_items = len(prepared.load("items.parquet"))
    counts = training_popularity(prepared.load("train.parquet"), num_items=num_items)
    fusion.fit(lists["valid"], targets["valid"], popularity=counts)
    fusion.save(context.out / "fusion")
    found = {}
    for done, (split, tables) in enumerate(lists.items(), start=1):
        fused = fusion.fuse(tables, targets[split], k=section.k)
        schema.write(
            context.out / schema.recommendations_file(split), fused, schema.RECOMMENDATIONS
        )
        found[split] = kept(tables, fused, targets[split], k=section.optimise_k)
        context.progress("fuse", done, len(lists))
    context.write_json("stats.json", fusion.told() | {"kept": found})
