"""The `retrieve`, `fuse` and `recommend.candidates` sections: candidates, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from genrec.config.base import Section

_RESERVED = ("generative", "fused")  # the systems that are no retrievers


class RetrieverSection(Section):
    """What every retriever has."""

    kind: str
    name: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_-]*$",
        description="of the system, where one kind stands twice; null: its kind",
    )
    k: int = Field(
        100, ge=1, description="length of each list; fusion and the decoder's candidates draw on it"
    )

    @property
    def label(self) -> str:
        """The name of the system that it makes."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _free_name(self) -> RetrieverSection:
        if self.label in _RESERVED:
            raise ValueError(f"name '{self.label}' is taken by a system that is no retriever")
        return self


class Popular(RetrieverSection):
    """The most popular items of the training interactions."""

    kind: Literal["popular"] = "popular"


class Cooccurrence(RetrieverSection):
    """Items that stand near the history's items in training sequences."""

    kind: Literal["cooccurrence"] = "cooccurrence"
    window: int = Field(5, ge=1)
    recent: int = Field(10, ge=1)
    decay: float = Field(0.8, gt=0, le=1)


class ItemKNN(RetrieverSection):
    """The neighbours of a history's items by shrunk cosine; sparse, for large catalogues."""

    kind: Literal["itemknn"] = "itemknn"
    neighbours: int = Field(100, ge=1)
    shrink: float = Field(10.0, ge=0)


class EASE(RetrieverSection):
    """A linear autoencoder over items in closed form; N x N numbers in memory."""

    kind: Literal["ease"] = "ease"
    l2: float = Field(100.0, gt=0)
    max_items: int = Field(20_000, ge=1)


class Learned(RetrieverSection):
    """What retrievers have that train by epochs and choose the best one on validation users."""

    epochs: int = Field(100, ge=1)
    patience: int = Field(10, ge=1, description="epochs without a gain before stopping")
    batch_size: int = Field(2048, ge=1)
    lr: float = Field(1e-3, gt=0)
    valid_users: int = Field(2000, ge=1, description="validation users measured after each epoch")

    @property
    def uses(self) -> tuple[str, ...]:
        """Chance: weights, order, negatives."""
        return ("seed",)


class SASRec(Learned):
    """Causal self-attention over a history, cross-entropy over the whole catalogue."""

    kind: Literal["sasrec"] = "sasrec"
    dim: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    max_length: int = Field(50, ge=1)
    patience: int = Field(8, ge=1)
    batch_size: int = Field(128, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    valid_users: int = Field(5000, ge=1)


class AnchorRec(Learned):
    """LightGCN on ids beside gated text and image branches, aligned outside the scoring space."""

    kind: Literal["anchorrec"] = "anchorrec"
    patience: int = Field(30, ge=1, description="long: recall often falls before it rises")
    dim: int = Field(64, ge=1)
    id_layers: int = Field(2, ge=1)
    view_layers: int = Field(1, ge=0)
    neighbours: int = Field(10, ge=1)
    l2: float = Field(1e-3, ge=0)
    aal: float = Field(0.01, ge=0, description="weight of the alignment loss")
    amp: float = Field(0.01, ge=0, description="weight of the structure-preserving loss")
    temperature: float = Field(0.25, gt=0)
    alignment: Literal["anchor", "direct", "none"] = "anchor"
    anchor_gradient: bool = Field(
        False, description="the alignment of text and image reaches the scores; published: false"
    )
    user_vectors: Literal["trained", "history"] = "trained"
    use_features: bool = Field(True, description="false: ids only, which is LightGCN")

    @property
    def reads(self) -> tuple[str, ...]:
        """Embeddings only where views are used."""
        return ("prepare", "embed") if self.use_features else ("prepare",)


class Index(Section):
    """A faiss index of item vectors, by inner product."""

    kind: Literal["flat", "hnsw", "ivfpq"] = "flat"
    links: int = Field(32, ge=2)
    effort: int = Field(64, ge=1)
    lists: int | None = Field(None, ge=1)
    probes: int | None = Field(None, ge=1)
    subvectors: int | None = Field(None, ge=1)
    bits: int = Field(8, ge=1)


# Texts that a magnitude retriever may be trained to answer: the stage that each comes from.
_QUERY_STAGES = {"title": None, "caption": "caption", "interest": "mine"}


class Magnitude(Learned):
    """Two towers whose score keeps or drops the norm of each side; answers histories and free text."""

    kind: Literal["magnitude"] = "magnitude"
    variant: Literal["cosine", "dot", "qnorm", "dnorm", "learn"] = "learn"
    views: tuple[str, ...] | None = Field(
        None, description="views of the items; null: text and image, as far as there are"
    )
    queries: tuple[Literal["title", "caption", "interest"], ...] | None = Field(
        ("title",),
        description="texts that it learns to answer, beside histories; null: all that the recipe has",
    )
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="share of each kind of text that chooses the epoch instead"
    )
    dim: int = Field(128, ge=1)
    hidden: int = Field(0, ge=0, description="width of a view's hidden layer; 0: a linear map")
    item_table: bool = Field(False, description="a learned vector for each item too")
    recent: int = Field(20, ge=1)
    decay: float = Field(0.8, gt=0, le=1)
    epochs: int = Field(60, ge=1)
    patience: int = Field(6, ge=1)
    batch_size: int = Field(512, ge=1)
    lr: float = Field(3e-4, gt=0)
    gamma_lr: float = Field(1e-2, gt=0, description="learning rate of the exponents of `learn`")
    scale: float = Field(20.0, gt=0)
    popularity_correction: float = Field(
        1.0, ge=0, description="how far batches' bias to popular items is undone; the paper's: 0"
    )
    index: Index = Index()

    @property
    def reads(self) -> tuple[str, ...]:
        """The items, their embeddings, and the stages that its texts come from."""
        return ("prepare", *self.optional_reads(), "embed")

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that its texts come from, with the field that insists on each."""
        insists = None if self.queries is None else f"retrieve.{self.label}.queries"
        return {stage: insists for name in self.texts() if (stage := _QUERY_STAGES[name])}

    def texts(self, stages: Collection[str] | None = None) -> tuple[str, ...]:
        """Returns the texts that it learns to answer.

        Args:
            stages: those that the recipe has; None takes all for there.
        """
        if self.queries is not None:
            return self.queries
        needed = _QUERY_STAGES.items()
        return tuple(n for n, s in needed if s is None or stages is None or s in stages)


class NormConcat(Learned):
    """A collaborative and a semantic view side by side, each at unit length, never aligned."""

    kind: Literal["norm_concat"] = "norm_concat"
    view: str = "text"
    dim: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    temperature: float = Field(0.15, gt=0)
    candidates: int = Field(512, ge=1)
    hard: int = Field(256, ge=1)
    user_vectors: Literal["history", "trained"] = "history"
    leave_out: bool = True
    epochs: int = Field(200, ge=1)
    patience: int = Field(25, ge=1)
    weight_decay: float = Field(1e-4, ge=0)
    valid_users: int = Field(5000, ge=1)

    @property
    def reads(self) -> tuple[str, ...]:
        """The items and their embeddings."""
        return ("prepare", "embed")


Retriever = Annotated[
    Popular | Cooccurrence | ItemKNN | EASE | SASRec | AnchorRec | Magnitude | NormConcat,
    Field(discriminator="kind"),
]


class Fuse(Section):
    """Several systems' lists to one; whatever is fitted is fitted on validation users."""

    enabled: bool = Field(True, description="false leaves the stage out")
    method: Literal["reciprocal_rank", "minmax", "zscore", "gate"] = "zscore"
    sources: tuple[str, ...] = Field(
        (), description="systems, retrievers' names and `generative`; empty: all"
    )
    weights: dict[str, NonNegativeFloat] | None = Field(
        None, description="by source; null: fitted on validation users"
    )
    k: int = Field(20, ge=1, description="length of the fused lists")
    k0: float = Field(60.0, ge=0, description="reciprocal_rank: weight / (k0 + place)")
    optimise_k: int = Field(10, ge=1, description="weights are fitted to NDCG at this cut-off")
    restarts: int = Field(2, ge=0, description="random starting points of the fit")
    strength: float = Field(1.0, gt=0, description="gate: inverse of the L2 penalty")
    negatives: int = Field(100, ge=1, description="gate: candidates per user learned from")

    @property
    def reads(self) -> tuple[str, ...]:
        """The users, and the systems that are fused."""
        if not self.sources:
            return ("prepare", "retrieve", "recommend")
        nodes = ("recommend" if s == "generative" else f"retrieve.{s}" for s in self.sources)
        return ("prepare", *nodes)

    @model_validator(mode="after")
    def _fits(self) -> Fuse:
        if self.method == "gate" and self.weights is not None:
            raise ValueError(
                "weights: the gate learns its own; drop weights or take another method"
            )
        return self


class Candidates(Section):
    """Items that the decoder may write for each user: those that retrievers list."""

    mode: Literal["off", "restrict"] = "off"
    sources: tuple[str, ...] = Field((), alias="from", description="names of retrievers")
    size: int = Field(500, ge=1, description="items for each user, best places first")

    @model_validator(mode="after")
    def _named(self) -> Candidates:
        if self.mode == "restrict" and not self.sources:
            raise ValueError("mode=restrict needs `from`, the names of one retriever or more")
        return self
