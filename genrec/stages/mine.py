"""Items to latent interests."""

from __future__ import annotations

from genrec import prompts, schema
from genrec.engines import opened
from genrec.enrich.annotate import summarise
from genrec.enrich.interests import PLACEHOLDERS, mine_items, normalise
from genrec.stages import Context


def run(context: Context) -> None:
    """Items to latent interests, through the row cache."""
    section = context.section
    items = context.inputs["prepare"].load("items.parquet")
    captions: list[str | None] = [None] * len(items)
    if "caption" in context.inputs:
        captions = context.inputs["caption"].load()["caption"].to_list()
    with opened(section.engine, lambda: context.device, store=context.store) as engine:
        table = mine_items(
            items["title"].to_list(),
            items["description"].to_list(),
            captions,
            engine,
            cache=context.cache,
            template=prompts.load_chat(section.prompt, placeholders=PLACEHOLDERS),
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            seed=section.seed,
            max_text=section.max_text,
            max_interests=section.max_interests,
            retries=section.retries,
            progress=context.progress,
        )
    schema.write(context.out / "interests.parquet", table, schema.INTERESTS)
    counts = summarise(table["error"].to_list(), table["attempts"].to_list())
    distinct = {normalise(phrase) for phrases in table["interests"] for phrase in phrases}
    counts |= {
        "interests": int(table["interests"].list.len().sum()),
        "distinct_interests": len(distinct),
        "dropped_interests": int(table["dropped"].sum()),
    }
    context.write_json("summary.json", counts)
