"""A finished recipe, opened: its items, SIDs, model, retrievers, fusion and views, each read once.

Whoever uses what a recipe made goes through here: later stages, recommending, serving, publishing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import TypeAdapter, ValidationError

from genrec import enrich
from genrec.decode.settings import DecoderSettings, VLLMDecoder
from genrec.enrich.settings import MADE_FIELDS
from genrec.recipe import Recipe
from genrec.store import Artifact, fingerprint

if TYPE_CHECKING:
    from genrec.lm.context import EventContext, UserProfile
    from genrec.recommender import Recommender
    from genrec.retrieve import Retriever
    from genrec.retrieve.fusion import Fusion
    from genrec.sid import SIDSets, SIDTrie

Floats = npt.NDArray[np.float32]
Artifacts = Mapping[str, Artifact]
LLM = "generative"  # the name of the LLM among the systems
CONTEXT = "context.json"  # of the stage compose, where histories say what their events were like
USER_ATTRIBUTES = "user_attributes.parquet"  # of the stage prepare, where the source has any
PROFILE = "profile.json"  # of the stage compose, where prompts say who the user is
SET_WEIGHTS = "set_weights.json"  # of the stage recommend, where there are several sets of SIDs
PROMPTS = 2**28  # bytes of prompts that are kept computed, for histories that come again


def read_items(artifacts: Artifacts) -> pl.DataFrame:
    """Returns the items, with the columns `caption` and `interests` as far as there are.

    Both stages write a row per item; a caption that failed is null, and so is a list of interests.

    Raises:
        ValueError: an annotation does not have one row per item, in order.
    """
    items: pl.DataFrame = artifacts["prepare"].load("items.parquet")
    for column, stage in MADE_FIELDS.items():
        if stage not in artifacts:
            continue
        made = artifacts[stage].load()
        if not made["item"].equals(items["item"]):
            raise ValueError(
                f"{artifacts[stage].path}: {len(made)} rows that are not the {len(items)} "
                f"items in their order; build it again with --force {stage}"
            )
        items = items.with_columns(made[column].alias(column))
    return items


def served_name(trained: Artifact) -> str:
    """Returns the name under which a server offers a trained model: it changes with its files."""
    return f"genrec-{trained.digest}"


class Bundle:
    """What a recipe's finished stages made, read-only; a part is read when it is first used.

    Args:
        recipe: the recipe.
        artifacts: the finished stages by node; `Pipeline.bundle` gives all of a store. One that is
            missing raises what the mapping raises, `MissingArtifact` for a store.
        engine: `hf`, `vllm` or `vllm-serve`, in place of the one that the recipe's `recommend`
            section names; all return the same lists.
        options: of the engine; what vLLM's section lacks goes to `vllm.LLM`.

    Raises:
        ValueError: an option that the engine does not have.
    """

    def __init__(
        self,
        recipe: Recipe,
        artifacts: Artifacts,
        *,
        engine: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe, self.artifacts = recipe, artifacts
        self.decoder = _decoder(recipe, engine, options or {})

    def __len__(self) -> int:
        """N, the number of items."""
        return len(self.items)

    def replace(self, **parts: Any) -> Self:
        """Returns a copy in which some parts, by attribute, are others."""
        changed = copy.copy(self)
        for made_of_sets in ("sids_by_set", "tries"):
            changed.__dict__.pop(made_of_sets, None)
        changed.__dict__.update(parts)
        return changed

    def open(self) -> Self:
        """Reads every part now, as a server does before its first request."""
        for name, attribute in vars(type(self)).items():
            if isinstance(attribute, cached_property):
                getattr(self, name)
        return self

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe.name

    @cached_property
    def version(self) -> str:
        """Changes with the files of the artifacts: a stage that was built anew counts if they do."""
        opened = ("prepare", "caption", "mine", "embed", "fuse", "quantize", "train")
        keys = [key for key in self.artifacts if key in opened or key.startswith("retrieve.")]
        files = {key: self.artifacts[key].manifest["files"] for key in keys}
        if len(self.sids_by_set) > 1:  # `recommend` has the weights of the sets
            files["recommend"] = self.artifacts["recommend"].manifest["files"]
        return fingerprint({key.removeprefix("retrieve."): own for key, own in files.items()})

    # --- the catalogue and its users -----------------------------------------------------------

    @cached_property
    def items(self) -> pl.DataFrame:
        """The catalogue, row i is item i; with `caption` and `interests` where they were made."""
        return read_items(self.artifacts)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Item number by the owner's item id."""
        return {item_id: row for row, item_id in enumerate(self.items["item_id"])}

    @cached_property
    def histories(self) -> dict[str, list[int]]:
        """Each user's whole sequence, oldest first, by the owner's user id."""
        prepared = self.artifacts["prepare"]
        interactions = prepared.load("interactions.parquet")
        whole = interactions.group_by("user", maintain_order=True).agg("item")
        users = prepared.load("users.parquet")
        named = users.join(whole, on="user", how="inner", maintain_order="left")
        return dict(zip(named["user_id"], named["item"].to_list(), strict=True))

    @cached_property
    def event_context(self) -> EventContext | None:
        """How prompts say what events were like; None where they do not, or there is no LLM."""
        from genrec.lm.context import EventContext

        compose = self.recipe.compose
        if not compose.context or self.sets is None:
            return None
        levels = self.artifacts["compose"].load(CONTEXT)
        return EventContext(compose.context, compose.style, levels)

    @cached_property
    def contexts(self) -> dict[str, list[str | None]]:
        """What prompts say of each event of `histories`, by user id; empty where they say nothing."""
        if self.event_context is None:
            return {}
        prepared = self.artifacts["prepare"]
        log = prepared.load("interactions.parquet")
        texts = self.event_context.texts(log.with_columns(place="user"))
        said = log.select("user", context=pl.Series(texts, dtype=pl.String))
        whole = said.group_by("user", maintain_order=True).agg("context")
        named = prepared.load("users.parquet").join(whole, on="user", how="inner")
        return dict(zip(named["user_id"], named["context"].to_list(), strict=True))

    @cached_property
    def user_profile(self) -> UserProfile | None:
        """How prompts say who the user is; None where they do not, or there is no LLM."""
        from genrec.lm.context import UserProfile

        compose = self.recipe.compose
        if not compose.user_attributes or self.sets is None:
            return None
        levels = self.artifacts["compose"].load(PROFILE)
        return UserProfile(compose.user_attributes, compose.style, levels)

    @cached_property
    def profiles(self) -> dict[str, str]:
        """What prompts say of known users, by user id; of others nothing is known, or nothing said."""
        if self.user_profile is None:
            return {}
        prepared = self.artifacts["prepare"]
        users = prepared.load("users.parquet")
        named = self.user_profile.added(users, prepared.load(USER_ATTRIBUTES)).drop_nulls("profile")
        return dict(zip(named["user_id"], named["profile"], strict=True))

    @property
    def images(self) -> Path:
        """The folder in which the items' relative image paths lie."""
        return self.artifacts["prepare"].path

    @cached_property
    def views(self) -> dict[str, Floats]:
        """Unit vectors of the items by view, float32 [N, D_v]; rows of zeros where one has none."""
        return enrich.load_views(self.artifacts["embed"].path) if "embed" in self.artifacts else {}

    @cached_property
    def encode(self) -> Callable[[Sequence[str]], Floats] | None:
        """Free text to vectors of the `text` view, float32 [n, D]; None without such a view."""
        if "embed" not in self.artifacts:
            return None
        return enrich.query_encoder(self.recipe.embed, device=self.recipe.runtime.torch_device())

    # --- the systems ---------------------------------------------------------------------------

    @property
    def systems(self) -> tuple[str, ...]:
        """The names of what can recommend for a history."""
        return (*((LLM,) if self.llm is not None else ()), *self.retrievers)

    @property
    def depths(self) -> dict[str, int]:
        """How many ranks of each system's list are used, by its name."""
        return {LLM: self.recipe.recommend.k} | {r.label: r.k for r in self.recipe.retrieve}

    @cached_property
    def retrievers(self) -> dict[str, Retriever[Any]]:
        """The fitted retrievers, by the system's name."""
        from genrec.retrieve import open_retriever

        return {
            key.partition(".")[2]: open_retriever(self.artifacts[key] / "retriever")
            for key in self.artifacts
            if key.startswith("retrieve.")
        }

    @cached_property
    def fusion(self) -> Fusion | None:
        """Joins the systems that it names; None where the recipe has none."""
        from genrec.retrieve.fusion import Fusion

        if "fuse" not in self.artifacts:
            return None
        views = self.views if "embed" in self.recipe.fuse.reads else None
        return Fusion.load(self.artifacts["fuse"] / "fusion", views=views)

    @cached_property
    def sets(self) -> SIDSets | None:
        """The items' SIDs, in one set or several; None without an LLM."""
        from genrec.sid import SIDSets

        return SIDSets.load(self.artifacts["quantize"].path) if "train" in self.artifacts else None

    @cached_property
    def sids_by_set(self) -> tuple[npt.NDArray[np.int32], ...]:
        """The SIDs of each set in the codes of the model, int32 [N, L]; none without an LLM."""
        return () if self.sets is None else tuple(self.sets)

    @cached_property
    def tries(self) -> tuple[SIDTrie, ...]:
        """The SIDs of each set as a tree of codes; none without an LLM."""
        from genrec.sid import SIDTrie

        return tuple(SIDTrie(sids) for sids in self.sids_by_set)

    @cached_property
    def llm(self) -> Recommender | None:
        """The trained model with its decoder; None in a recipe without one."""
        if self.sets is None:
            return None
        weights = self.artifacts["recommend"].load(SET_WEIGHTS) if len(self.sets) > 1 else None
        llm = self.load_llm(device=self.recipe.runtime.torch_device(), weights=weights)
        engines = getattr(llm.engine, "engines", [llm.engine])
        for engine in engines:
            if hasattr(engine, "prompts"):
                engine.prompts.budget = PROMPTS // len(engines)
        return llm

    def load_llm(self, *, device: str, weights: Sequence[float] | None = None) -> Recommender:
        """Opens the trained model with its decoder.

        Args:
            device: where the `hf` engine runs.
            weights: of several sets of SIDs; None: equal ones.
        """
        from genrec.recommender import Recommender
        from genrec.sid import SIDSets

        decoder, trained, options = self.decoder, self.artifacts["train"], dict[str, Any]()
        if decoder.kind == "hf":
            options = decoder.model_dump(include={"strategy", "head", "dtype"})
            options |= {"device": device}
            if decoder.memory_gb is not None:
                options["memory_budget"] = int(decoder.memory_gb * 1e9)
        elif decoder.kind == "vllm":
            options = decoder.model_dump(exclude={"kind", "options"}, exclude_none=True)
            options |= decoder.options
        else:
            options = {**dict(decoder), "model": decoder.model or served_name(trained)}
            del options["kind"]
        return Recommender.load(
            trained / "merged",
            SIDSets.load(self.artifacts["quantize"].path),
            max_length=self.recipe.train.max_length,
            batch_size=self.recipe.runtime.batch_size,
            engine=decoder.kind,
            **({} if weights is None else {"weights": weights}),
            **options,
        )

    @property
    def num_beams(self) -> int:
        """Of the decoder."""
        return self.recipe.recommend.num_beams

    @property
    def keeps_prompts(self) -> bool:
        """Whether the LLM's engine can keep what it computed of a prompt (vLLM does so by itself)."""
        return self.llm is not None and getattr(self.llm.engine, "strategy", None) == "tree"

    @cached_property
    def prompt(self) -> Callable[..., Any]:
        """A history's item numbers to the model's prompt; with several sets of SIDs one in each.

        Further arguments are the context of its events, as `contexts` has it, and the user's profile, as
        of `profiles`; without them nothing is said.
        """
        from genrec.lm.compose import prompt_in_sets

        compose, sets = self.recipe.compose, self.sids_by_set
        wording: dict[str, Any] = {"style": compose.style, "max_history": compose.max_history}

        def prompt(
            history: Sequence[int],
            context: Sequence[str | None] = (),
            profile: str | None = None,
        ) -> Any:
            if not sets:
                raise ValueError("this recipe has no LLM, so there is no prompt")
            return prompt_in_sets(sets, history, context, profile, **wording)

        return prompt

    @cached_property
    def text_prompt(self) -> Callable[[str], Any] | None:
        """A query in words to the model's prompt; None where no task taught it to read text."""
        from genrec.lm.compose import words_prompt

        if self.llm is None:
            return None
        compose = self.recipe.compose
        tasks = compose.active([name for name in ("caption", "mine") if name in self.artifacts])
        to_prompt = partial(
            words_prompt, tasks=tasks, style=compose.style, max_text=compose.max_text
        )
        if to_prompt("") is None:
            return None
        sets = len(self.sids_by_set)
        return to_prompt if sets == 1 else lambda text: (to_prompt(text),) * sets


def _decoder(recipe: Recipe, kind: str | None, options: Mapping[str, Any]) -> DecoderSettings:
    """Returns the recipe's decoder, or another kind of it with these options."""
    used: Any = recipe.recommend.engine
    kind = kind or used.kind
    settings: dict[str, Any] = {}
    if kind == used.kind:
        settings = dict(used)
    elif kind != "vllm-serve":  # which has the dtype that it was started with
        settings = {"dtype": getattr(used, "dtype", "float32")}
    settings["kind"] = kind
    further = {}
    if kind == "vllm":
        further = {k: v for k, v in options.items() if k not in VLLMDecoder.model_fields}
        settings["options"] = {**settings.get("options", {}), **further}
    settings |= {k: v for k, v in options.items() if k not in further}
    try:
        decoder: DecoderSettings = TypeAdapter[Any](DecoderSettings).validate_python(settings)
    except ValidationError as error:
        problems = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        raise ValueError(f"--engine-option: {problems}") from error
    return decoder
