"""Training sequences, and what the retriever needs beside them, to candidate lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from genrec import schema
from genrec.config import retrieve as sections
from genrec.retrieve import histories_of, to_recommendations, training_sequences
from genrec.retrieve.ranking import training_popularity
from genrec.retrieve.registry import retriever_class
from genrec.stages.context import EVALUATED, Context
from genrec.stages.items import read_items
from genrec.stages.views import Floats, item_views, text_encoder

Queries = dict[str, tuple[Any, Any]]  # by name, vectors [n, D] and items [n]
_STAGES_OWN = {"views", "queries", "held_out", "index"}  # settings of no retriever
_CONTENT = ("text", "image", "joint")  # views that are no behaviour


def run(context: Context) -> None:
    """Fits one retriever, writes its lists for both splits, itself, and what is to be told of it."""
    prepared, section = context.inputs["prepare"], context.section
    items, sequences = (
        prepared.load("items.parquet"),
        training_sequences(prepared.load("train.parquet")),
    )
    views = item_views(context) if "embed" in context.inputs else {}
    beside = _beside(context, views)
    with _named(section.label):
        retriever = _make(context).fit(
            sequences, num_items=len(items), progress=context.progress, **beside
        )
    for split in EVALUATED:
        targets = prepared.load(f"{split}.parquet")
        with _named(section.label):
            ranked = retriever.recommend(
                histories_of(targets),
                k=section.k,
                exclude_seen=context.recipe.mask_seen,
                progress=context.progress_of(split),
            )
        table = to_recommendations(targets["user"].to_numpy(), *ranked)
        schema.write(
            context.out / schema.recommendations_file(split), table, schema.RECOMMENDATIONS
        )
    retriever.save(context.out / "retriever")
    stats = {"epochs": log} if (log := getattr(retriever, "log_", [])) else {}
    if isinstance(section, sections.AnchorRec) and section.use_features:
        stats["collapse"] = _collapse(retriever, views)
    if isinstance(section, sections.Magnitude):
        stats |= _magnitudes(context, retriever, items)
    context.write_json("stats.json", stats)


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Puts the retriever's place in the recipe before what went wrong with it."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        kind = FloatingPointError if isinstance(error, FloatingPointError) else ValueError
        raise kind(f"retrieve.{label}: {error}") from error


def _make(context: Context) -> Any:
    """The retriever with its settings; what learns also has a seed and a device."""
    section = context.section
    options = section.model_dump(exclude={"kind", "name", "k", *_STAGES_OWN})
    if isinstance(section, sections.Learned):
        options |= {"seed": context.recipe.seed, "device": context.device}
    return retriever_class(section.kind)(**options)


def _beside(context: Context, views: dict[str, Floats]) -> dict[str, Any]:
    """Further arguments of `fit`: validation users, views of the items, texts to answer."""
    section, found = context.section, dict[str, Any]()
    if isinstance(section, sections.Learned):
        from genrec.retrieve.learning import Validation

        valid = context.inputs["prepare"].load("valid.parquet")
        found["valid"] = Validation(histories_of(valid), valid["target"].to_numpy())
    if isinstance(section, sections.AnchorRec) and section.use_features:
        found["features"] = {n: v for n, v in views.items() if n in _CONTENT}
    if isinstance(section, sections.NormConcat):
        found["features"] = views
    if isinstance(section, sections.Magnitude):
        found["features"] = _chosen(section, views)
        found["queries"], found["valid_queries"] = _queries(context)
    return found


def _chosen(section: sections.Magnitude, views: dict[str, Floats]) -> dict[str, Floats]:
    if section.views is None:
        return {n: v for n, v in views.items() if n in ("text", "image")}
    if missing := [name for name in section.views if name not in views]:
        raise ValueError(
            f"retrieve.{section.label}.views: {missing} not among the embedding's {sorted(views)}"
        )
    return {name: views[name] for name in section.views}


def _queries(context: Context) -> tuple[Queries, Queries]:
    """Texts and the items that they are about, encoded as the items' own words are.

    The first are to train on, the second to choose the epoch by.
    """
    from genrec.retrieve.magnitude.choice import hold_out

    names, share = context.section.texts(context.inputs), context.section.held_out
    found: Queries = {}
    held: Queries = {}
    if not names:
        return found, held
    items, encode = read_items(context), text_encoder(context)
    for name in names:
        if name == "interest":
            rows = items.select("item", text="interests").explode("text")
        else:
            rows = items.select("item", text=name)
        rows = rows.filter(pl.col("text").fill_null("") != "")
        if len(rows):
            texts = encode(rows["text"].to_list())
            about = rows["item"].to_numpy()
            found[name], held[name] = hold_out(texts, about, share, seed=context.recipe.seed)
    return found, held


def _collapse(retriever: Any, views: dict[str, Floats]) -> dict[str, Any]:
    """Positional collapse: raw views against learned ones."""
    from genrec.evaluate.collapse import collapse
    from genrec.retrieve.anchorrec.training import views_of

    content = {n: v for n, v in views.items() if n in _CONTENT}
    raw = {n: v.numpy() for n, v in views_of(content, len(retriever.degrees_)).items()}
    return collapse(raw, retriever.views_)


def _magnitudes(context: Context, retriever: Any, items: pl.DataFrame) -> dict[str, Any]:
    """What was learned of norms; also writes the index and the vectors for other databases."""
    from genrec.retrieve.index import ItemIndex, export_vectors
    from genrec.retrieve.magnitude import norm_report

    vectors = retriever.item_vectors()
    index = ItemIndex(vectors.shape[1], **context.section.index.model_dump())
    index.add(vectors, np.arange(len(vectors)))
    index.save(context.out / "index")
    export_vectors(context.out / "vectors", vectors, items["item_id"].to_list())
    valid = context.inputs["prepare"].load("valid.parquet")
    asked = retriever.query_vectors(histories_of(valid)[: context.section.valid_users])
    relevant = np.isin(np.arange(len(items)), valid["target"].to_numpy())
    train = context.inputs["prepare"].load("train.parquet")
    counts = training_popularity(train, num_items=len(items))
    found = norm_report(retriever.item_vectors(raw=True), relevant=relevant, popularity=counts)
    return {
        "gammas": dict(zip(("query", "document"), retriever.gammas_, strict=True)),
        "norms": {n: v if np.isfinite(v) else None for n, v in found._asdict().items()},
        "index_recall@10": index.recall_against_flat(asked, k=10, vectors=vectors),
    }
