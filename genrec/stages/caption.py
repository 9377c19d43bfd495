"""Images to captions."""

from __future__ import annotations

from genrec import prompts, schema
from genrec.engines import opened
from genrec.enrich.annotate import summarise
from genrec.enrich.caption import caption_items
from genrec.stages import Context


def run(context: Context) -> None:
    """Images to captions, through the row cache."""
    section, prepared = context.section, context.inputs["prepare"]
    images = prepared.load("items.parquet")["image"].to_list()
    paths = [None if image is None else prepared.path / image for image in images]
    with opened(section.engine, lambda: context.device, store=context.store) as engine:
        table = caption_items(
            paths,
            engine,
            cache=context.cache,
            template=prompts.load_chat(section.prompt, placeholders=()),
            max_tokens=section.max_tokens,
            temperature=section.temperature,
            seed=section.seed,
            longest_side=section.longest_side,
            retries=section.retries,
            progress=context.progress,
        )
    schema.write(context.out / "captions.parquet", table, schema.CAPTIONS)
    with_image = [path is not None for path in paths]
    kept = table.filter(with_image)
    counts = summarise(kept["error"].to_list(), kept["attempts"].to_list())
    without = {"items": len(paths), "without_image": len(paths) - sum(with_image)}
    context.write_json("summary.json", without | counts)
