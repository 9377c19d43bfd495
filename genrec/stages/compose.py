"""Tables and SIDs to training examples, and the prompts of validation and test users."""

from __future__ import annotations

from genrec import schema
from genrec.bundle import read_items
from genrec.lm import compose
from genrec.lm.tasks import Corpus
from genrec.stages import Context


def run(context: Context) -> None:
    """Tables and SIDs to training examples, and the prompts of validation and test users."""
    section, prepared = context.section, context.inputs["prepare"]
    sids = context.inputs["quantize"].load()
    items = read_items(context.inputs)
    corpus = Corpus(
        items=items,
        sids=sids,
        train=prepared.load("train.parquet"),
        valid=prepared.load("valid.parquet"),
        captions=items["caption"].to_list() if "caption" in context.inputs else None,
        interests=[phrases or [] for phrases in items["interests"].to_list()]
        if "mine" in context.inputs
        else None,
    )
    wording = {"style": section.style, "max_history": section.max_history}
    train = compose.train_examples(
        corpus,
        section.active(context.inputs),
        seed=context.recipe.seed,
        max_text=section.max_text,
        **wording,
    )
    valid = compose.valid_examples(corpus, **wording)
    test = (
        schema.Example(
            "history_to_sid",
            compose.prompt_for(sids[history], style=section.style, max_history=section.max_history),
            (schema.Segment(sid=tuple(map(int, sids[target]))),),
        )
        for history, target in prepared.load("test.parquet").select("history", "target").rows()
    )
    # One by one to disk: together they may be more than memory holds.
    for split, examples in (("train", train), ("valid", valid), ("test", test)):
        schema.write_examples(context.out / f"{split}.parquet", examples)
