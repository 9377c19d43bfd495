"""The settings of the magnitude-aware retriever."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from genrec.retrieve.index.settings import IndexSettings
from genrec.retrieve.settings import TEXT_STAGES, LearnedSettings


class MagnitudeSettings(LearnedSettings):
    """Two towers whose score keeps or drops the norm of each side; answers histories and free text."""

    kind: Literal["magnitude"] = "magnitude"
    implementation: ClassVar[str] = "genrec.retrieve.magnitude.retriever:Magnitude"
    variant: Literal["cosine", "dot", "qnorm", "dnorm", "learn"] = Field(
        "learn", description="which norms count; the paper calls learn a safe default"
    )
    views: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="views of the items; null: text and image, as far as there are",
    )
    queries: tuple[Literal["title", "caption", "interest"], ...] | None = Field(
        ("title",),
        description="texts that it learns to answer in addition to histories; null: all that the recipe "
        "has",
    )
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="share of each kind of text that chooses the epoch instead"
    )
    dim: int = Field(128, ge=1, description="width of the vectors")
    hidden: int = Field(0, ge=0, description="width of a view's hidden layer; 0: a linear map")
    item_table: bool = Field(
        False,
        description="a learned vector for each item too; one that training never saw keeps its views'",
    )
    recent: int = Field(20, ge=1, description="how many of a history's newest items count")
    decay: float = Field(
        0.8, gt=0, le=1, description="weight of an item one step older than the next"
    )
    epochs: int = Field(60, ge=1, description="passes over the pairs, at most")
    patience: int = Field(6, ge=1)
    batch_size: int = Field(
        512, ge=1, description="pairs per step, and documents that a query is set against"
    )
    lr: float = Field(3e-4, gt=0, description="ours; the paper's 2e-6 is for a whole encoder")
    gamma_lr: float = Field(1e-2, gt=0, description="learning rate of the exponents of `learn`")
    scale: float = Field(20.0, gt=0, description="one over the temperature; the paper's")
    popularity_correction: float = Field(
        1.0, ge=0, description="how far batches' bias to popular items is undone; the paper's: 0"
    )
    index: IndexSettings = IndexSettings()

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns the views that are named, which must be there, or text and image."""
        if self.views is not None:
            return self.views
        return tuple(name for name in ("text", "image") if name in available)

    def texts(self, stages: Collection[str] | None = None) -> tuple[str, ...]:
        """Returns the texts that it learns to answer; see `RetrieverSettings`."""
        if self.queries is not None:
            return self.queries
        known = (None, *TEXT_STAGES.values()) if stages is None else (None, *stages)
        return tuple(name for name, stage in TEXT_STAGES.items() if stage in known)

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that its texts come from; `queries`, where it names them, insists."""
        insists = None if self.queries is None else f"retrieve.{self.label}.queries"
        return dict.fromkeys(super().optional_reads(), insists)
