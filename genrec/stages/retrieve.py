"""Training sequences to candidate lists, by one retriever."""

from __future__ import annotations

from genrec import schema
from genrec.retrieve import (
    Cooccurrence,
    Popular,
    histories_of,
    to_recommendations,
    training_sequences,
)
from genrec.stages.context import EVALUATED, Context


def run(context: Context) -> None:
    """Training sequences to candidate lists, by one retriever."""
    prepared, section = context.inputs["prepare"], context.section
    make = {"popular": Popular, "cooccurrence": Cooccurrence}[section.kind]
    retriever = make(**section.model_dump(exclude={"kind"}))
    retriever.fit(
        training_sequences(prepared.load("train.parquet")),
        num_items=len(prepared.load("items.parquet")),
        progress=context.progress,
    )
    for split in EVALUATED:
        targets = prepared.load(f"{split}.parquet")
        ranked = retriever.recommend(
            histories_of(targets),
            k=context.recipe.recommend.k,
            exclude_seen=context.recipe.mask_seen,
            progress=context.progress_of(split),
        )
        table = to_recommendations(targets["user"].to_numpy(), *ranked)
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
    retriever.save(context.out / "retriever")
