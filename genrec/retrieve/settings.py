"""What every retriever can be told, and the settings of those that are one file."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genrec.settings import PartSettings

_RESERVED = ("generative", "fused")  # the systems that are no retrievers


class RetrieverSettings(PartSettings):
    """What every retriever has."""

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

    kind: Literal["cooccurrence"] = "cooccurrence"
    implementation: ClassVar[str] = "genrec.retrieve.cooccurrence:Cooccurrence"
    window: int = Field(5, ge=1)
    recent: int = Field(10, ge=1)
    decay: float = Field(0.8, gt=0, le=1)


class ItemKNNSettings(RetrieverSettings):
    """The neighbours of a history's items by shrunk cosine; sparse, for large catalogues."""

    kind: Literal["itemknn"] = "itemknn"
    implementation: ClassVar[str] = "genrec.retrieve.itemknn:ItemKNN"
    neighbours: int = Field(100, ge=1)
    shrink: float = Field(10.0, ge=0)


class EASESettings(RetrieverSettings):
    """A linear autoencoder over items in closed form; N x N numbers in memory."""

    kind: Literal["ease"] = "ease"
    implementation: ClassVar[str] = "genrec.retrieve.ease:EASE"
    l2: float = Field(100.0, gt=0)
    max_items: int = Field(20_000, ge=1)


class LearnedSettings(RetrieverSettings):
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


class SASRecSettings(LearnedSettings):
    """Causal self-attention over a history, cross-entropy over the whole catalogue."""

    kind: Literal["sasrec"] = "sasrec"
    implementation: ClassVar[str] = "genrec.retrieve.sasrec:SASRec"
    dim: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.4, ge=0, lt=1)
    max_length: int = Field(50, ge=1)
    patience: int = Field(8, ge=1)
    batch_size: int = Field(128, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    valid_users: int = Field(5000, ge=1)
