"""What every retriever's settings hold and declare, and the settings of those that are one file."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from genrec.settings import PartSettings

VIEWS = (
    "text",
    "image",
    "joint",
    "behaviour",
)  # that an embedding can have; the last is no content
TEXT_STAGES = {"title": None, "caption": "caption", "interest": "mine"}  # where texts come from
_RESERVED = ("generative", "fused")  # the systems that are no retrievers


class RetrieverSettings(PartSettings):
    """What every retriever has, and what one declares that it needs in addition to training sequences.

    Attributes:
        learns: it is trained by epochs, with a seed, on a device, and takes validation users.
    """

    learns: ClassVar[bool] = False

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

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns the views of the items that `fit` is to get as `features`.

        Args:
            available: those that the embedding has. A view that must be there is named all the same.
        """
        return ()

    def texts(self, stages: Collection[str] | None = None) -> tuple[str, ...]:
        """Returns the texts that `fit` is to get as `queries`: some of title, caption and interest.

        Args:
            stages: those that the recipe has; None takes all for there.
        """
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The items, the stages that its texts come from, and the embedding for its views."""
        embedding = ("embed",) if self.wanted_views(VIEWS) else ()
        return ("prepare", *self.optional_reads(), *embedding)

    @property
    def uses(self) -> tuple[str, ...]:
        """Chance, where it learns: weights, order, negatives."""
        return ("seed",) if self.learns else ()

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that its texts come from, each read if the recipe has it."""
        return {stage: None for name in self.texts() if (stage := TEXT_STAGES[name])}

    @model_validator(mode="after")
    def _free_name(self) -> RetrieverSettings:
        if self.label in _RESERVED:
            raise ValueError(f"name '{self.label}' is taken by a system that is no retriever")
        return self


class PopularSettings(RetrieverSettings):
    """The most popular items of the training interactions."""

    kind: Literal["popular"] = "popular"
    implementation: ClassVar[str] = "genrec.retrieve.popular:Popular"


class CooccurrenceSettings(RetrieverSettings):
    """Items that stand near the history's items in training sequences."""

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    kind: Literal["cooccurrence"] = "cooccurrence"
    implementation: ClassVar[str] = "genrec.retrieve.cooccurrence:Cooccurrence"
    window: int = Field(5, ge=1, description="the largest distance of a pair in a sequence")
    recent: int = Field(10, ge=1, description="how many of a history's newest items count")
    decay: float = Field(
        0.8, gt=0, le=1, description="weight of an item one step older than the next"
    )


class ItemKNNSettings(RetrieverSettings):
    """The neighbours of a history's items by shrunk cosine; sparse, for large catalogues."""

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    kind: Literal["itemknn"] = "itemknn"
    implementation: ClassVar[str] = "genrec.retrieve.itemknn:ItemKNN"
    neighbours: int = Field(100, ge=1, description="similar items kept per item")
    shrink: float = Field(10.0, ge=0, description="lowers similarities that few users support")


class EASESettings(RetrieverSettings):
    """A linear autoencoder over items in closed form; N x N numbers in memory."""

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    kind: Literal["ease"] = "ease"
    implementation: ClassVar[str] = "genrec.retrieve.ease:EASE"
    l2: float = Field(
        100.0, gt=0, description="the fewer interactions an item has, the more it takes"
    )
    max_items: int = Field(20_000, ge=1, description="the largest catalogue that is accepted")


class GraphSettings(RetrieverSettings):
    """Items a few steps on from the last ones in the graph of transitions, the most alike first."""

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    kind: Literal["graph"] = "graph"
    implementation: ClassVar[str] = "genrec.retrieve.graph:Graph"
    budgets: tuple[tuple[PositiveInt, ...], ...] = Field(
        ((5, 1), (3, 1)),
        min_length=1,
        description="for the last item, the one before it and so on: how many of every ten places (of "
        "their sum) go to items 1, 2, ... steps away; published: these (TGH-2) and [[7, 2, 1]] (TGH-1)",
    )
    count_weight: float = Field(
        0.5, ge=0, description="of the logarithm of a transition's count, beside the cosine"
    )
    views: tuple[str, ...] | None = Field(
        None,
        description="of the items, side by side; null: text, where there is none joint, else image. "
        "Without any, counts and popularity order the items",
    )

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns the views that are named, which must be there, or the first of content."""
        if self.views is not None:
            return self.views
        return tuple(name for name in ("text", "joint", "image") if name in available)[:1]

    @model_validator(mode="after")
    def _a_step_each(self) -> GraphSettings:
        if not all(self.budgets):
            raise ValueError(f"budgets={self.budgets}: expected a number or more for each item")
        return self


class LearnedSettings(RetrieverSettings):
    """What retrievers have that train by epochs and choose the best one on validation users."""

    packages: ClassVar[tuple[str, ...]] = ("torch",)
    learns: ClassVar[bool] = True
    epochs: int = Field(100, ge=1, description="at most")
    patience: int = Field(10, ge=1, description="epochs without a gain before stopping")
    batch_size: int = Field(2048, ge=1, description="interactions (sequences) per step")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    valid_users: int = Field(2000, ge=1, description="validation users measured after each epoch")


class SASRecSettings(LearnedSettings):
    """Causal self-attention over a history, cross-entropy over the whole catalogue."""

    kind: Literal["sasrec"] = "sasrec"
    implementation: ClassVar[str] = "genrec.retrieve.sasrec:SASRec"
    dim: int = Field(64, ge=1, description="width of embeddings and blocks")
    layers: int = Field(2, ge=1, description="blocks")
    heads: int = Field(2, ge=1, description="attention heads per block; divides dim")
    dropout: float = Field(0.4, ge=0, lt=1, description="on embeddings and inside blocks")
    max_length: int = Field(
        50,
        ge=1,
        description="newest items of a history that are read; longer training sequences are cut into "
        "windows of this length, so that every interaction is a target once",
    )
    patience: int = Field(8, ge=1)
    batch_size: int = Field(128, ge=1, description="sequences per step")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    valid_users: int = Field(5000, ge=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> SASRecSettings:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        return self
