"""What a recipe may say: one frozen section per stage, every default typed and written here.

Components are tagged unions by `kind`; the union is the registry, so `genrec list` reads it and a
new kind is one class. Nothing here imports what it configures: the stage builds it when it runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrec.config.annotate import Caption, Mine
from genrec.config.base import ContentPath, Section
from genrec.config.compose import Compose, Tasks
from genrec.config.embed import Joint, Late
from genrec.config.engine import Engine, HFEngine
from genrec.config.probe import Probe
from genrec.config.retrieve import Candidates, Cooccurrence, Fuse, Popular, Retriever
from genrec.config.sources import Downloads, Source
from genrec.config.split import HashUsers, LastOut, Split
from genrec.config.train import Train

__all__ = [
    "Caption",
    "Compose",
    "ContentPath",
    "Joint",
    "Late",
    "Mine",
    "Probe",
    "Recipe",
    "Section",
    "Tasks",
    "Train",
]

# --- prepare ---------------------------------------------------------------------------------


class Prepare(Section):
    """Raw files to tables and the split."""

    source: Source
    core: int = Field(5, ge=0, description="k-core on users and items; 0 keeps all")
    repeats: Literal["drop", "last", "exact", "consecutive", "keep"] = "drop"
    split: Split = LastOut()
    hash_users: HashUsers | None = None
    on_bad: Literal["error", "drop"] = "error"

    @model_validator(mode="after")
    def _given(self) -> Prepare:
        if self.split.kind == "given":
            if self.source.kind != "exchange":
                raise ValueError(
                    f"split.kind=given: a source of kind {self.source.kind} brings no split; choose "
                    "another split, or source.kind=exchange"
                )
            if ignored := sorted({"core", "repeats"} & self.model_fields_set):
                raise ValueError(f"{ignored}: a given split is taken whole; leave them out")
        return self


# --- quantize --------------------------------------------------------------------------------


class RQVAE(Section):
    """MLP autoencoder around a residual vector quantiser."""

    kind: Literal["rqvae"] = "rqvae"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int = Field(32, ge=1)
    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    commitment: float = Field(0.25, ge=0)
    resolve: bool = True


class RKMeans(Section):
    """Residual k-means on the embeddings themselves."""

    kind: Literal["rkmeans"] = "rkmeans"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int | None = Field(32, ge=1, description="PCA before k-means; null keeps all of D")
    iterations: int = Field(50, ge=1)
    resolve: bool = True


class Published(Section):
    """The SIDs that came with the data (`prepare.source.index`); nothing is trained."""

    kind: Literal["published"] = "published"
    resolve: bool = Field(False, description="one more level where items share a SID")

    @property
    def reads(self) -> tuple[str, ...]:
        """The raw files' tables alone: no embedding."""
        return ("prepare",)


Quantize = Annotated[RQVAE | RKMeans | Published, Field(discriminator="kind")]


# --- recommend, evaluate ---------------------------------------------------------------------


class Recommend(Section):
    """Exact constrained beam search for every user of the split."""

    enabled: bool = Field(True, description="false: retrievers alone, no LLM is trained")
    num_beams: int = Field(50, ge=1)
    k: int = Field(20, ge=1)
    engine: Engine = HFEngine()
    candidates: Candidates = Candidates()

    @property
    def reads(self) -> tuple[str, ...]:
        """The model and its SIDs, and the retrievers whose items it is restricted to."""
        chosen = self.candidates.sources if self.candidates.mode == "restrict" else ()
        found = tuple(f"retrieve.{name}" for name in chosen)
        return ("prepare", "quantize", "compose", "train", *found)

    @model_validator(mode="after")
    def _widening(self) -> Recommend:
        widest = getattr(self.engine, "max_beams", None)
        if widest is not None and widest < self.num_beams:
            raise ValueError(f"engine.max_beams={widest} is below num_beams={self.num_beams}")
        return self


class Alignment(Section):
    """How much of a retriever's collaborative space can be read off the items' semantic one."""

    of: str = Field(description="the name of a retriever that has such a space: anchorrec, sasrec")
    view: str = "text"
    probes: tuple[Literal["linear", "mlp-1", "mlp-2", "mlp-3"], ...] = ("linear", "mlp-1")
    epochs: int = Field(400, ge=1)


class Evaluate(Section):
    """Metrics with intervals, what the systems know of each other, and the report."""

    ks: tuple[int, ...] = (5, 10, 20)
    baselines: tuple[str, ...] = ("popular", "cooccurrence")
    samples: int = Field(1000, ge=100, description="bootstrap resamples")
    report_users: int = Field(10, ge=1)
    alignment: Alignment | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Every system's lists; the embeddings where alignment is asked for."""
        found = ("prepare", "quantize", "retrieve", "recommend", "fuse", "probe")
        return (*found, "embed") if self.alignment else found


class Runtime(Section):
    """Where and how to run; never part of a fingerprint."""

    store: str = "store"
    device: str = Field(
        "auto", description="auto, cpu, cuda or mps; choose a GPU by CUDA_VISIBLE_DEVICES"
    )
    threads: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1, description="users decoded at once")
    save_every: int = Field(200, ge=1, description="steps between trainer checkpoints")
    attention: str | None = Field(
        None,
        description="transformers' attention for training: sdpa, flash_attention_2; null: its choice",
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


class Recipe(Section):
    """A whole experiment. A recipe file states only what differs from these defaults."""

    name: str
    seed: int = 0
    mask_seen: bool = Field(True, description="never recommend what is in the user's history")
    prepare: Prepare
    caption: Caption = Caption()
    mine: Mine = Mine()
    embed: Annotated[Late | Joint, Field(discriminator="kind")] = Late()
    quantize: Quantize = RQVAE()
    compose: Compose = Compose()
    train: Train = Train()
    retrieve: tuple[Retriever, ...] = (Popular(), Cooccurrence())
    recommend: Recommend = Recommend()
    fuse: Fuse = Fuse()
    probe: Probe = Probe()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        lengths = {r.label: r.k for r in self.retrieve}
        if len(lengths) < len(self.retrieve):
            labels = [r.label for r in self.retrieve]
            raise ValueError(
                f"retrieve: a name may stand once, found {labels}; give one of them a `name`"
            )
        named = {
            "evaluate.baselines": self.evaluate.baselines,
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
        if self.quantize.kind == "published" and self.train.model.sid_init == "codebook":
            raise ValueError(
                "train.model.sid_init=codebook: published SIDs come without a codebook; leave "
                "it out, or make the SIDs here (quantize.kind=rkmeans)"
            )
        source = self.prepare.source
        if self.quantize.kind == "published" and getattr(source, "index", None) is None:
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
            if task.rate is None
        ]
        raise ValueError(
            "compose.tasks: no task takes part, so there is nothing to train on: every rate is 0"
            + (f", or null without the words it is for ({', '.join(waiting)})" if waiting else "")
            + "; set a rate above 0, such as compose.tasks.history_to_sid.rate=1, or "
            "recommend.enabled=false for retrievers alone"
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

    def _check_lengths(self, lengths: dict[str, int]) -> None:
        """Checks that every list is as long as what draws on it."""
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
