"""Training sequences, and what else the retriever needs, to candidate lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import registry, schema
from genrec.bundle import read_items
from genrec.enrich import load_views, text_encoder
from genrec.retrieve import Validation, histories_of, training_sequences
from genrec.retrieve.sequences import training_popularity
from genrec.stages import EVALUATED, Context

Floats = npt.NDArray[np.float32]

Queries = dict[str, tuple[Any, Any]]  # by name, vectors [n, D] and items [n]


def run(context: Context) -> None:
    """Fits and saves one retriever; writes its lists for both splits, and what a report tells of it."""
    prepared, section = context.inputs["prepare"], context.section
    items, train = prepared.load("items.parquet"), prepared.load("train.parquet")
    targets = {split: prepared.load(f"{split}.parquet") for split in EVALUATED}
    valid = Validation(histories_of(targets["valid"]), targets["valid"]["target"].to_numpy())
    extra = _extra(context)
    options: dict[str, Any] = {}
    if section.learns:
        extra["valid"] = valid
        options = {"seed": context.recipe.seed, "device": context.device}
    retriever = registry.implementation(section)(section, **options)
    with _named(section.label):
        retriever.fit(
            training_sequences(train), num_items=len(items), progress=context.progress, **extra
        )
    for split, users in targets.items():
        with _named(section.label):
            lists = retriever.recommend(
                histories_of(users),
                k=section.k,
                exclude_seen=context.recipe.mask_seen,
                progress=context.progress_of(split),
            )
        table = lists.to_table(users["user"].to_numpy())
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
    retriever.save(context.out / "retriever")
    stats: dict[str, Any] = {"epochs": retriever.log_} if retriever.log_ else {}
    if (views := retriever.learned_views(extra.get("features", {}))) is not None:
        from genrec.analysis.collapse import collapse

        stats["collapse"] = collapse(*views)
    stats |= retriever.export(
        context.out,
        item_ids=items["item_id"].to_list(),
        valid=valid,
        popularity=training_popularity(train, num_items=len(items)),
    )
    context.write_json("stats.json", stats)


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Names the retriever of the recipe in its errors."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        kind = FloatingPointError if isinstance(error, FloatingPointError) else ValueError
        raise kind(f"retrieve.{label}: {error}") from error


def _extra(context: Context) -> dict[str, Any]:
    """Further arguments of `fit`: the views and texts that the retriever's settings ask for."""
    section, extra = context.section, dict[str, Any]()
    if "embed" in context.inputs:
        extra["features"] = _features(context)
    if names := section.texts(context.inputs):
        extra["queries"] = _queries(context, names)
    return extra


def _features(context: Context) -> dict[str, Floats]:
    views, section = load_views(context.inputs["embed"].path), context.section
    wanted = section.wanted_views(tuple(views))
    if missing := [name for name in wanted if name not in views]:
        raise ValueError(
            f"retrieve.{section.label}: the views {missing} are not among the embedding's "
            f"{sorted(views)}; add them to embed, or name others"
        )
    return {name: views[name] for name in wanted}


def _queries(context: Context, names: tuple[str, ...]) -> Queries:
    """Texts and the items that they are about, encoded as the items' own text is."""
    items = read_items(context.inputs)
    encode = text_encoder(
        context.recipe.embed, device=context.device, cache=context.cache, progress=context.progress
    )
    queries: Queries = {}
    for name in names:
        if name == "interest":
            rows = items.select("item", text="interests").explode("text")
        else:
            rows = items.select("item", text=name)
        rows = rows.filter(pl.col("text").fill_null("") != "")
        if len(rows):
            queries[name] = (encode(rows["text"].to_list()), rows["item"].to_numpy())
    return queries
