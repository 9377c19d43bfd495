"""Everything that a request needs, opened once from a recipe's finished artifacts, read-only."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import TypeAdapter, ValidationError

from genrec import enrich
from genrec.decode.settings import DecoderSettings, VLLMDecoder
from genrec.enrich.settings import Joint
from genrec.lm.compose import prompt_for, words_prompt
from genrec.pipeline import Pipeline
from genrec.progress import silent
from genrec.recipe import Recipe
from genrec.recommender import Recommender
from genrec.retrieve import Retriever, open_retriever
from genrec.retrieve.fusion import Fusion
from genrec.sid import SIDTrie
from genrec.stages import recommend
from genrec.stages.context import Context
from genrec.stages.items import read_items
from genrec.stages.views import item_views
from genrec.store import Artifact, RowCache, Store, fingerprint

Floats = npt.NDArray[np.float32]
log = logging.getLogger("genrec.serve")
LLM = "generative"
PROMPTS = 2**28  # bytes of prompts that are kept computed, for histories that come again


@dataclass(frozen=True)
class Shop:
    """A catalogue, its people, and the systems that recommend from it.

    Attributes:
        name: the recipe's.
        version: changes with the artifacts that are served.
        items: the catalogue, row i is item i; with `caption` and `interests` where they were made.
        rows: item number by the owner's item id.
        histories: each known user's whole sequence, oldest first, by the owner's user id.
        retrievers: by the system's name.
        llm: the trained model with its decoder; None in a recipe without one.
        prompt: a history's item numbers to the model's prompt.
        wish: a wish's words to the model's prompt; None where no task taught it to read words.
        num_beams: of the decoder.
        depths: how many places of each system's list are used, by its name.
        sids: int32 [N, L], the items' SIDs; None without an LLM.
        fusion: joins the systems that it names; None where the recipe has none.
        views: unit vectors of the items, float32 [N, D] by name.
        encode: free text to vectors of the `text` view, float32 [n, D]; None without such a view.
        images: the folder in which the items' relative pictures lie.
    """

    name: str
    version: str
    items: pl.DataFrame
    rows: Mapping[str, int]
    histories: Mapping[str, Sequence[int]]
    retrievers: Mapping[str, Retriever[Any]]
    llm: Recommender | None
    prompt: Callable[[Sequence[int]], Any]
    wish: Callable[[str], Any] | None
    num_beams: int
    depths: Mapping[str, int]
    sids: npt.NDArray[np.int32] | None
    fusion: Fusion | None
    views: Mapping[str, Floats]
    encode: Callable[[Sequence[str]], Floats] | None
    images: Path

    def __len__(self) -> int:
        """N, the number of items."""
        return len(self.items)

    @property
    def systems(self) -> tuple[str, ...]:
        """The names of what can recommend for a history."""
        return (*((LLM,) if self.llm is not None else ()), *self.retrievers)

    @property
    def keeps_prompts(self) -> bool:
        """Whether the LLM's engine can keep what it computed of a prompt (vLLM does so by itself)."""
        return self.llm is not None and getattr(self.llm.engine, "strategy", None) == "tree"

    @cached_property
    def trie(self) -> SIDTrie | None:
        """All SIDs as a tree of codes; None without an LLM."""
        return None if self.sids is None else SIDTrie(self.sids)


def open_shop(
    pipeline: Pipeline, *, engine: str | None = None, options: Mapping[str, Any] | None = None
) -> Shop:
    """Opens what the recipe's stages made; nothing is built.

    Args:
        pipeline: of the recipe.
        engine: `hf`, `vllm` or `vllm-serve`, in place of the one that the recipe's `recommend` stage
            used; all return the same lists, so that no artifact is another's.
        options: of the engine.

    Raises:
        MissingArtifact: one is missing; names the command that builds it.
        DamagedArtifact: a file is not what was written.
        ValueError: an option that the engine does not have.
    """
    recipe, nodes = pipeline.recipe, pipeline.nodes
    wanted = ("prepare", "caption", "mine", "embed", "fuse", "quantize", "train")
    inputs = {key: pipeline[key] for key in wanted if key in nodes}
    ranked = {key.partition(".")[2]: pipeline[key] for key in nodes if key.startswith("retrieve.")}
    context = Context(recipe, None, inputs, Path(), {}, silent)  # type: ignore[arg-type]
    items, prepared = read_items(context), inputs["prepare"]
    llm = sids = None
    if "train" in inputs and recipe.recommend.enabled:
        sids = inputs["quantize"].load()
        changed = _with_engine(recipe, engine, options or {})
        llm = recommend.load(changed, inputs["train"], sids, device=context.device)
        if hasattr(llm.engine, "prompts"):
            llm.engine.prompts.budget = PROMPTS
    return Shop(
        name=recipe.name,
        version=_version({**inputs, **ranked}),
        items=items,
        rows={item_id: row for row, item_id in enumerate(items["item_id"])},
        histories=_histories(prepared.load("interactions.parquet"), prepared.load("users.parquet")),
        retrievers={name: open_retriever(made / "retriever") for name, made in ranked.items()},
        llm=llm,
        prompt=_prompter(recipe.compose, sids),
        wish=_wisher(recipe.compose, nodes) if llm is not None else None,
        num_beams=recipe.recommend.num_beams,
        depths={LLM: recipe.recommend.k} | {r.label: r.k for r in recipe.retrieve},
        sids=sids,
        fusion=Fusion.load(inputs["fuse"] / "fusion") if "fuse" in inputs else None,
        views=_views(context, pipeline.store) if "embed" in inputs else {},
        encode=_encoder(context) if "embed" in inputs else None,
        images=prepared.path,
    )


def _with_engine(recipe: Recipe, kind: str | None, options: Mapping[str, Any]) -> Recipe:
    """Returns the recipe with another engine for its LLM; what vLLM's section lacks goes to vLLM."""
    used: Any = recipe.recommend.engine
    kind = kind or used.kind
    wanted: dict[str, Any] = {}
    if kind == used.kind:
        wanted = dict(used)
    elif kind != "vllm-serve":  # which has the dtype that it was started with
        wanted = {"dtype": getattr(used, "dtype", "float32")}
    wanted["kind"] = kind
    further = {}
    if kind == "vllm":
        further = {k: v for k, v in options.items() if k not in VLLMDecoder.model_fields}
        wanted["options"] = {**wanted.get("options", {}), **further}
    wanted |= {k: v for k, v in options.items() if k not in further}
    try:
        engine = TypeAdapter[Any](DecoderSettings).validate_python(wanted)
    except ValidationError as error:
        told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        raise ValueError(f"--engine-option: {told}") from error
    changed = recipe.recommend.model_copy(update={"engine": engine})
    return recipe.model_copy(update={"recommend": changed})


def _version(opened: Mapping[str, Artifact]) -> str:
    """By what the artifacts hold: a stage that was built anew counts, if its files are others."""
    return fingerprint({key: made.manifest["files"] for key, made in opened.items()})


def _histories(interactions: pl.DataFrame, users: pl.DataFrame) -> dict[str, list[int]]:
    whole = interactions.group_by("user", maintain_order=True).agg("item")
    named = users.join(whole, on="user", how="inner", maintain_order="left")
    return dict(zip(named["user_id"], named["item"].to_list(), strict=True))


def _prompter(compose: Any, sids: npt.NDArray[np.int32] | None) -> Callable[[Sequence[int]], Any]:
    def prompt(history: Sequence[int]) -> Any:
        if sids is None:
            raise ValueError("this shop has no LLM, so there is no prompt")
        return prompt_for(sids[list(history)], style=compose.style, max_history=compose.max_history)

    return prompt


def _wisher(compose: Any, stages: Collection[str]) -> Callable[[str], Any] | None:
    known = compose.active([name for name in ("caption", "mine") if name in stages])
    options = {"style": compose.style, "max_text": compose.max_text}
    if words_prompt("", known, **options) is None:
        return None
    return lambda text: words_prompt(text, known, **options)


def _encoder(context: Context) -> Callable[[Sequence[str]], Floats] | None:
    """Loads the model that made the `text` view, once."""
    section: Any = context.recipe.embed
    if section.text is None:
        return None
    limit = section.text.max_tokens
    if isinstance(section, Joint):
        told = section.model_dump(include={"model", "mode", "instruction", "trust_remote_code"})
        return enrich.load_joint_encoder(**told, max_tokens=limit, device=context.device)
    encoder = enrich.load_encoder(section.text.model, device=context.device)
    return lambda texts: enrich.encode_queries(encoder, texts, max_tokens=limit)


def _views(context: Context, store: Store) -> dict[str, Floats]:
    """The items' views; with a joint model from the vectors that the stages left in the row cache."""
    if not isinstance(context.recipe.embed, Joint):
        return item_views(context)
    if context.recipe.embed.trust_remote_code:
        log.warning("embed.trust_remote_code: Python code that the model brings is run")
    rows = RowCache(store.root / "rows.sqlite")
    try:
        return item_views(replace(context, cache=ChainMap({}, rows)))  # type: ignore[arg-type]
    finally:
        rows.close()
