"""A recipe: the whole experiment as one frozen tree of settings, and the reader of recipe files.

Each part's settings are next to the part (`genrec/*/settings.py`); here they come together. Parts that
are named by `kind` come from the registry, so that other packages can add theirs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from genrec import registry
from genrec.analysis.settings import AlignmentSettings, Probe
from genrec.data.settings import (
    TIMED,
    Downloads,
    HashUsers,
    LastOutSettings,
    SourceSettings,
    Split,
    WithUsers,
)
from genrec.decode.settings import DecoderSettings, HFDecoder
from genrec.enrich.settings import Caption, Joint, Late, Mine
from genrec.lm.settings import Compose, Train
from genrec.recipe_text import assign
from genrec.resources import find
from genrec.retrieve.fusion.settings import CandidateSettings, Fuse
from genrec.retrieve.settings import CooccurrenceSettings, PopularSettings, RetrieverSettings
from genrec.settings import ContentPath, Section, explain, read_mapping
from genrec.sid.settings import RQVAESettings, SIDSettings

if TYPE_CHECKING:
    Source: TypeAlias = SourceSettings
    Quantize: TypeAlias = SIDSettings
    Retriever: TypeAlias = RetrieverSettings
else:

    def _union(group: str) -> Any:
        """Returns the tagged union of what is registered in a group."""
        return Annotated[reduce(or_, registry.parts(group).values()), Field(discriminator="kind")]

    Source, Quantize, Retriever = map(_union, ("sources", "quantizers", "retrievers"))

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


class Prepare(Section):
    """Raw files to tables and the split."""

    packages: ClassVar[tuple[str, ...]] = ("numpy", "pillow", "polars", "pyarrow")
    source: Source
    core: int = Field(5, ge=0, description="k-core on users and items; 0 keeps all")
    repeats: Literal["drop", "last", "exact", "consecutive", "keep"] = Field(
        "drop",
        description="of a user and an item. drop: keep the first; last: keep the last; exact: drop what "
        "has the same time; consecutive: a run of one item is one; keep: all",
    )
    split: Split = LastOutSettings()
    hash_users: HashUsers | None = None
    on_bad: Literal["error", "drop"] = Field(
        "error", description="stop at a bad row, or drop and count bad rows"
    )

    @model_validator(mode="after")
    def _given(self) -> Prepare:
        if self.split.kind == "given":
            if not self.source.brings_split:
                raise ValueError(
                    f"split.kind=given: a source of kind {self.source.kind} brings no split; choose "
                    "another split, or source.kind=exchange"
                )
            if ignored := sorted({"core", "repeats"} & self.model_fields_set):
                raise ValueError(f"{ignored}: a given split is taken whole; leave them out")
        return self


class Recommend(Section):
    """Exact constrained beam search for every user of the split."""

    enabled: bool = Field(True, description="false: retrievers alone, no LLM is trained")
    later: ClassVar[tuple[str, ...]] = ("set_weights",)
    num_beams: int = Field(50, ge=1, description="prefixes kept at each level")
    set_weights: Literal["fit", "equal"] | tuple[float, ...] = Field(
        "fit",
        description="of several sets of SIDs (quantize.sets) in an item's score: fitted on validation "
        "users, equal, or these numbers",
    )
    k: int = Field(20, ge=1, description="length of each list")
    engine: DecoderSettings = HFDecoder()
    candidates: CandidateSettings = CandidateSettings()

    @property
    def reads(self) -> tuple[str, ...]:
        """The model and its SIDs, and the retrievers whose items it is restricted to."""
        chosen = self.candidates.sources if self.candidates.mode == "restrict" else ()
        retrievers = tuple(f"retrieve.{name}" for name in chosen)
        return ("prepare", "quantize", "compose", "train", *retrievers)

    @model_validator(mode="after")
    def _widening(self) -> Recommend:
        widest = getattr(self.engine, "max_beams", None)
        if widest is not None and widest < self.num_beams:
            raise ValueError(f"engine.max_beams={widest} is below num_beams={self.num_beams}")
        return self


class Evaluate(Section):
    """Metrics with intervals, what the systems know of each other, and the report."""

    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    later: ClassVar[tuple[str, ...]] = ("purpose",)
    ks: tuple[int, ...] = Field((5, 10, 20), description="cut-offs of the metrics")
    baselines: tuple[str, ...] | None = Field(
        None,
        description="systems that every other one is compared with; null: popular, cooccurrence, and "
        "whatever else learns nothing (ease, graph, itemknn)",
    )
    samples: int = Field(1000, ge=100, description="bootstrap resamples")
    report_users: int = Field(10, ge=1, description="users whose lists the report shows")
    alignment: AlignmentSettings | None = None
    purpose: str | None = Field(
        None, description="what the run is for, in a sentence; the report begins with it"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """Every system's lists; the embeddings where alignment is asked for."""
        stages = ("prepare", "quantize", "retrieve", "recommend", "fuse", "probe")
        return (*stages, "embed") if self.alignment else stages


class Runtime(Section):
    """Where and how to run; never part of a fingerprint."""

    store: str = Field("store", description="the folder of all artifacts")
    device: str = Field(
        "auto", description="auto, cpu, cuda or mps; choose a GPU by CUDA_VISIBLE_DEVICES"
    )
    threads: int | None = Field(None, ge=1, description="of torch; null: its choice")
    batch_size: int = Field(64, ge=1, description="users decoded at once")
    save_every: int = Field(200, ge=1, description="steps between trainer checkpoints")
    attention: str | None = Field(
        None,
        description="transformers' attention for training: sdpa, eager, flash_attention_2; null: its "
        "choice",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of matrix products in training, beside float32 weights; auto: bfloat16 on a GPU "
        "that has it, and on a CPU for a pretrained model where it is seen to be faster",
    )
    max_logits: int = Field(
        2**27, ge=1, description="targets x vocabulary held at once in training; more go in blocks"
    )
    launcher: str | None = Field(
        None, description="an accelerate config, by path or name, for train and recommend: ddp8"
    )
    trackers: tuple[str, ...] = Field(
        (), description="transformers' names: tensorboard, wandb, trackio, mlflow"
    )
    downloads: Downloads = Downloads()

    def torch_device(self) -> str:
        """Returns torch's name of the device; also sets the number of threads."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


class Recipe(Section):
    """A whole experiment. A recipe file states only what differs from these defaults."""

    name: str = Field(description="of the experiment; the file's name where it is left out")
    seed: int = Field(0, description="of all that is random, but where a section has its own")
    mask_seen: bool = Field(True, description="never recommend what is in the user's history")
    prepare: Prepare
    caption: Caption = Caption()
    mine: Mine = Mine()
    embed: Annotated[Late | Joint, Field(discriminator="kind")] = Late()
    quantize: Quantize = RQVAESettings()
    compose: Compose = Compose()
    train: Train = Train()
    retrieve: tuple[Retriever, ...] = (PopularSettings(), CooccurrenceSettings())
    recommend: Recommend = Recommend()
    fuse: Fuse = Fuse()
    probe: Probe = Probe()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @property
    def baselines(self) -> tuple[str, ...]:
        """The systems that every other one is compared with: popular and cooccurrence at the least."""
        if self.evaluate.baselines is not None:
            return self.evaluate.baselines
        counted = (part.label for part in self.retrieve if not part.learns)
        return tuple(dict.fromkeys(("popular", "cooccurrence", *counted)))

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        lengths = {r.label: r.k for r in self.retrieve}
        if len(lengths) < len(self.retrieve):
            labels = [r.label for r in self.retrieve]
            raise ValueError(
                f"retrieve: a name may stand once, found {labels}; give one of them a `name`"
            )
        named = {
            "evaluate.baselines": self.baselines,
            "recommend.candidates.from": self.recommend.candidates.sources,
            "evaluate.alignment.of": (self.evaluate.alignment.of,)
            if self.evaluate.alignment
            else (),
        }
        llm = ("generative",) if self.recommend.enabled else ()
        for where, names in (named | {"fuse.sources": self.fuse.sources}).items():
            known = (*lengths, *llm) if where == "fuse.sources" else tuple(lengths)
            if missing := [name for name in names if name not in known]:
                raise ValueError(
                    f"{where}: {missing} not among the recipe's systems {list(known)}; add the "
                    "retriever, or take the name out"
                )
        self._check_weights((*lengths, *llm))
        self._check_lengths(lengths)
        self._check_tasks()
        self._check_context()
        self._check_user_attributes()
        if self.probe.enabled and not self.recommend.enabled:
            raise ValueError(
                "probe.enabled: there is no model to look into with recommend.enabled=false; set "
                "probe.enabled=false"
            )
        for section in (self.embed, self.compose, *self.retrieve):
            for stage, field in section.optional_reads().items():
                if field is not None and getattr(self, stage).engine.kind == "none":
                    raise ValueError(
                        f"{field} asks for what the stage {stage} makes, and this recipe leaves it out; "
                        f"set {stage}.engine, or change {field}"
                    )
        if not self.quantize.learns and self.train.model.sid_init == "codebook":
            raise ValueError(
                "train.model.sid_init=codebook: published SIDs come without a codebook; leave "
                "it out, or make the SIDs here (quantize.kind=rkmeans)"
            )
        self._check_sets()
        source = self.prepare.source
        if not self.quantize.learns and not source.brings_sids:
            raise ValueError("quantize.kind=published needs prepare.source.index, an *.index.json")
        return self

    def _check_tasks(self) -> None:
        """Checks that the LLM, if one is trained, has a task."""
        made = [name for name in ("caption", "mine") if getattr(self, name).engine.kind != "none"]
        if not self.recommend.enabled or self.compose.active(made):
            return
        waiting = [
            f"compose.tasks.{name} needs {task.needs}.engine"
            for name, task in self.compose.tasks
            if task.needs and task.rate != 0
        ]
        raise ValueError(
            "compose.tasks: no task takes part, so there is nothing to train on: every rate is 0"
            + (f", or null without the texts it is for ({', '.join(waiting)})" if waiting else "")
            + "; set a rate above 0, such as compose.tasks.history_to_sid.rate=1, or "
            "recommend.enabled=false for retrievers alone"
        )

    def _check_context(self) -> None:
        """Checks that the data have what prompts say of events."""
        source, wanted = self.prepare.source, self.compose.context
        there = (*source.kept, *(TIMED if source.timed else ()))
        if missing := [name for name in wanted if name not in there]:
            times = "" if source.timed else "; it has no times, which gap, weekday and month need"
            named = (
                f"name the column in prepare.source.{source.kept_by}"
                if source.kept_by
                else f"a source of kind {source.kind} keeps no columns"
            )
            raise ValueError(
                f"compose.context: {missing} not among what this source has, {list(there)}{times}; "
                f"{named}, or take it out"
            )

    def _check_user_attributes(self) -> None:
        """Checks that the data have what prompts say of users, under names of their own."""
        source, file = self.prepare.source, self.prepare.source.user_file
        there = file.attributes if file is not None else ()
        if both := [name for name in there if name in source.kept]:
            raise ValueError(
                f"prepare.source.users.attributes: {both} are names of prepare.source.{source.kept_by} "
                "too, and prompts could not tell them apart; rename the columns in one of the files"
            )
        if missing := [name for name in self.compose.user_attributes if name not in there]:
            named = (
                "name the column in prepare.source.users.attributes"
                if isinstance(source, WithUsers)
                else f"a source of kind {source.kind} has no table of users"
            )
            raise ValueError(
                f"compose.user_attributes: {missing} not among what is known of users, {list(there)}; "
                f"{named}, or take it out"
            )

    def _check_weights(self, systems: tuple[str, ...]) -> None:
        """Checks now what the fusion, after all the training, would refuse."""
        weights, fused = self.fuse.weights, self.fuse.sources or systems
        if not self.fuse.enabled or weights is None:
            return
        if set(weights) != set(fused) or not any(weights.values()):
            raise ValueError(
                f"fuse.weights: {weights}, and what is fused is {sorted(fused)}; expected one weight "
                "for each, and one above 0"
            )

    def _check_sets(self) -> None:
        """Checks now what decoding, after all the training, would refuse."""
        engine, weights = self.recommend.engine, self.recommend.set_weights
        if self.train.softmax == "codes" and getattr(engine, "head", None) == "full":
            raise ValueError(
                "recommend.engine.head=full: a model of train.softmax=codes has no probabilities over "
                "all tokens; leave head=auto"
            )
        index = getattr(self.prepare.source, "index", None)
        if self.quantize.learns:
            sets = len(self.quantize.each_set)
            for number, own in enumerate(self.quantize.each_set):
                unknown = sorted(set(own.views or ()) - set(self.embed.views))
                if unknown and self.recommend.enabled:
                    raise ValueError(
                        f"quantize.sets.{number}.views: the recipe embeds no view {unknown}; expected "
                        f"some of {list(self.embed.views)}, or set embed.{unknown[0]}"
                    )
        elif index is None:
            return  # how many the files of another toolkit hold is seen when they are read
        else:
            sets = len(index) if isinstance(index, tuple) else 1
        if sets == 1 and self.compose.sets == "random":
            raise ValueError("compose.sets=random: there is one set of SIDs; set quantize.sets")
        if isinstance(weights, str):
            return
        fits = len(weights) == sets and all(0 <= w < math.inf for w in weights) and any(weights)
        if not fits:
            raise ValueError(
                f"recommend.set_weights: {list(weights)}; expected {sets} number(s) of 0 or more, one "
                "for each set of SIDs (quantize.sets), and one of them above 0"
            )

    def _check_lengths(self, lengths: dict[str, int]) -> None:
        """Checks that every list is long enough for all that read it."""
        deepest = max(self.evaluate.ks)
        if self.recommend.enabled:
            lengths = lengths | {"generative": self.recommend.k}
        if self.fuse.enabled:
            lengths = lengths | {"fused": self.fuse.k}
        fields = {"generative": "recommend.k", "fused": "fuse.k"}
        for name, length in lengths.items():
            if deepest > length:
                raise ValueError(
                    f"evaluate.ks: {deepest} is beyond {fields.get(name, f'the k of retrieve.{name}')}"
                    f"={length}"
                )
        candidates = self.recommend.candidates
        most = sum(lengths[name] for name in candidates.sources)
        if candidates.mode == "restrict" and candidates.size > most:
            raise ValueError(
                f"recommend.candidates.size={candidates.size}: {list(candidates.sources)} list {most} "
                "items at most; raise their k, or lower size"
            )


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and the fix."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: a YAML file, or the name of a recipe that ships with the package
            (`recipes/demo.yaml`, `demo.yaml` or `demo`).
        overrides: dotted assignments such as `quantize.levels=3`; values are YAML.

    Raises:
        FileNotFoundError: there is no such recipe.
        RecipeError: it is not YAML, has an unknown key, or a value out of bounds.
    """
    file = find("recipes", path, suffix=".yaml")
    data = read_mapping(file, RecipeError, expected="of sections")
    data.setdefault("name", file.stem)
    for override in overrides:
        try:
            assign(data, override)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    try:
        return Recipe.model_validate(_expand(data, file))
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in _meant(error.errors()))
        raise RecipeError(f"{file}: this recipe cannot be used\n{problems}") from error


def content_paths(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted field, value) of every file, folder or model name within a section."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from content_paths(value, f"{prefix}{name}.")
        elif value is not None and _is_path(field) and value not in _literals(field.annotation):
            if isinstance(value, tuple):
                yield from ((f"{prefix}{name}.{place}", part) for place, part in enumerate(value))
            else:
                yield f"{prefix}{name}", value


def kinds(annotation: Any) -> dict[str, type[Section]]:
    """Returns the members of a tagged union, by `kind`: the registry that `genrec list` shows."""
    members: dict[str, type[Section]] = {}
    for member in get_args(annotation) or (annotation,):
        if isinstance(member, type) and issubclass(member, Section):
            if "kind" in member.model_fields:
                members[member.model_fields["kind"].default] = member
        elif get_args(member):
            members |= kinds(member)
    return members


def _is_path(field: FieldInfo) -> bool:
    def marked(annotation: Any) -> bool:
        metadata = getattr(annotation, "__metadata__", ())
        return any(isinstance(mark, ContentPath) for mark in metadata) or any(
            marked(part) for part in get_args(annotation)
        )

    return any(isinstance(m, ContentPath) for m in field.metadata) or marked(field.annotation)


def _literals(annotation: Any) -> tuple[Any, ...]:
    """Returns the values that a field may hold instead of a path, such as `download`."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in _literals(part))


def _expand(value: Any, file: Path) -> Any:
    if isinstance(value, dict):
        return {key: _expand(part, file) for key, part in value.items()}
    if isinstance(value, list):
        return [_expand(part, file) for part in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        text = os.environ.get(match[1], match[2])
        if text is None:
            raise RecipeError(
                f"{file}: '{value}' needs the environment variable {match[1]}, which is not set"
            )
        return text

    return _VARIABLE.sub(replace, value)


# What pydantic names in a location for the form of a value that it tried, such as a list.
_FORM = re.compile(
    r"(constrained-|function-|nullable|(tuple|list|literal|dict)\[|(int|str|float)$)"
)


def _meant(problems: Sequence[Any]) -> list[Any]:
    """Leaves out what is said of the other forms of a value, where one form fits but for its inside."""
    inside = set()
    for problem in problems:
        form = next((n for n, part in enumerate(problem["loc"]) if _FORM.match(str(part))), None)
        if form is not None and form + 1 < len(problem["loc"]):
            inside.add(problem["loc"][:form])
    return [
        problem
        for problem in problems
        if not (problem["loc"][:-1] in inside and _FORM.match(str(problem["loc"][-1])))
    ]


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not _FORM.match(str(part))]
    unknown = problem["type"] == "extra_forbidden"
    known = _fields_at(location[:-1]) if unknown else ()
    return explain(problem, ".".join(location) or "recipe", known)


def _types(annotation: Any) -> list[type]:
    """Returns the classes within an annotation."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [found for part in get_args(annotation) for found in _types(part)]


def _fields_at(location: Sequence[str]) -> list[str]:
    """Returns the keys that the section at a pydantic error location may have."""
    here: Any = Recipe
    for part in location:
        members = kinds(here)
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
        elif part in members:
            here = members[part]
        elif part.isdigit():
            continue
        plain = [t for t in _types(here) if issubclass(t, Section)]
        if len(plain) == 1:
            here = plain[0]
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []
