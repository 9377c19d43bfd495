"""Tables and SIDs to training examples, and the prompts of validation and test users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from genrec import schema
from genrec.bundle import CONTEXT, PROFILE, USER_ATTRIBUTES, read_items
from genrec.data.card import times_in
from genrec.data.context import events_of
from genrec.data.settings import TIMED
from genrec.lm import compose
from genrec.lm.context import EventContext, UserProfile
from genrec.lm.tasks import Corpus
from genrec.sid import SIDSets
from genrec.sid.sets import file_of, in_set
from genrec.stages import Context


def run(context: Context) -> None:
    """Tables and SIDs to training examples, and the prompts of validation and test users."""
    section, prepared = context.section, context.inputs["prepare"]
    items = read_items(context.inputs)
    tables = {split: prepared.load(f"{split}.parquet") for split in schema.SPLITS}
    if section.context:
        tables = _with_context(context, tables)
    if section.user_attributes:
        tables = _with_profiles(context, tables)
    if section.context or section.user_attributes:
        tables["train"] = _some_without(context, tables["train"])
    first = Corpus(
        items=items,
        sids=(sets := SIDSets.load(context.inputs["quantize"].path))[0],
        train=tables["train"],
        valid=tables["valid"],
        captions=items["caption"].to_list() if "caption" in context.inputs else None,
        interests=[phrases or [] for phrases in items["interests"].to_list()]
        if "mine" in context.inputs
        else None,
    )
    corpora = [replace(first, sids=sids) for sids in sets]
    wording = {"style": section.style, "max_history": section.max_history}
    # One by one to disk: together they may be more than memory holds.
    schema.write_examples(context.out / "train.parquet", _train(context, corpora, wording))
    for number, corpus in enumerate(corpora):
        splits = {
            "valid": compose.valid_examples(corpus, **wording),
            "test": compose.examples_of(corpus.sids, tables["test"], **wording),
        }
        for split, examples in splits.items():
            schema.write_examples(context.out / file_of(number, split, "parquet"), examples)


def _with_context(context: Context, tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Adds to each history the context of its events in words, as training events settle them."""
    section, prepared = context.section, context.inputs["prepare"]
    timed = [name for name in section.context if name in TIMED]
    if timed and (times := times_in(prepared.load("stats.json"))) != "ns":
        raise ValueError(
            f"compose.context: {timed} are of times, and those of this data are '{times}': in no unit; "
            "take them out, or name a column of times in prepare.source"
        )
    log = prepared.load("interactions.parquet")
    events = {split: events_of(table, log) for split, table in tables.items()}
    wording = EventContext.fit(section.context, section.style, events["train"])
    context.write_json(CONTEXT, wording.levels)
    return {split: wording.added(table, events[split]) for split, table in tables.items()}


def _with_profiles(context: Context, tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Adds to each history who its user is in words, as the users that are learned from settle them."""
    section, users = context.section, context.inputs["prepare"].load(USER_ATTRIBUTES)
    known = users.filter(pl.col("user").is_in(tables["train"]["user"].implode()))
    profile = UserProfile.fit(section.user_attributes, section.style, known)
    context.write_json(PROFILE, profile.levels)
    return {split: profile.added(table, users) for split, table in tables.items()}


def _some_without(context: Context, train: pl.DataFrame) -> pl.DataFrame:
    """Leaves a share of the training users without context and profile."""
    drawn = np.random.default_rng(context.recipe.seed).random(len(train))
    without = pl.Series(drawn < context.section.without_context)
    nothing = {"context": pl.lit([], pl.List(pl.String)), "profile": pl.lit(None, pl.String)}
    return train.with_columns(
        pl.when(without).then(nothing[name]).otherwise(name).alias(name)
        for name in nothing
        if name in train.columns
    )


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
