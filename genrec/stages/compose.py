"""Tables and SIDs to training examples, and the prompts of validation and test users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genrec import schema
from genrec.bundle import read_items
from genrec.lm import compose
from genrec.lm.tasks import Corpus
from genrec.sid import SIDSets
from genrec.sid.sets import file_of, in_set
from genrec.stages import Context


def run(context: Context) -> None:
    """Tables and SIDs to training examples, and the prompts of validation and test users."""
    section, prepared = context.section, context.inputs["prepare"]
    items = read_items(context.inputs)
    first = Corpus(
        items=items,
        sids=(sets := SIDSets.load(context.inputs["quantize"].path))[0],
        train=prepared.load("train.parquet"),
        valid=prepared.load("valid.parquet"),
        captions=items["caption"].to_list() if "caption" in context.inputs else None,
        interests=[phrases or [] for phrases in items["interests"].to_list()]
        if "mine" in context.inputs
        else None,
    )
    corpora = [replace(first, sids=sids) for sids in sets]
    wording = {"style": section.style, "max_history": section.max_history}
    # One by one to disk: together they may be more than memory holds.
    schema.write_examples(context.out / "train.parquet", _train(context, corpora, wording))
    test = prepared.load("test.parquet").select("history", "target").rows()
    for number, corpus in enumerate(corpora):
        splits = {
            "valid": compose.valid_examples(corpus, **wording),
            "test": compose.examples_of(corpus.sids, test, **wording),
        }
        for split, examples in splits.items():
            schema.write_examples(context.out / file_of(number, split, "parquet"), examples)


def _train(
    context: Context, corpora: Sequence[Corpus], wording: dict[str, Any]
) -> Iterator[schema.Example]:
    """Every task in every set of SIDs, or each example in one; an example without SIDs once."""
    section, seed = context.section, context.recipe.seed
    options = {"seed": seed, "max_text": section.max_text, **wording}
    tasks = section.active(context.inputs)
    by_set = [compose.train_examples(corpus, tasks, **options) for corpus in corpora]
    if section.sets == "random":
        rng = np.random.default_rng(seed)
        for same in zip(*by_set, strict=True):  # of one unit, in each set
            number = int(rng.integers(len(same)))
            yield _in_set(same[number], number)
        return
    for number, examples in enumerate(by_set):
        yield from (_in_set(e, number) for e in examples if number == 0 or _has_sid(e))


def _in_set(example: schema.Example, number: int) -> schema.Example:
    """Names the set in the task, from the second set on."""
    if number == 0 or not _has_sid(example):
        return example
    return replace(example, task=in_set(example.task, number))


def _has_sid(example: schema.Example) -> bool:
    return any(part.sid is not None for part in (*example.prompt, *example.completion))
