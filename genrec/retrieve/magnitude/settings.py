"""The settings of the magnitude-aware retriever and of its index."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from genrec.retrieve.settings import LearnedSettings
from genrec.settings import Section


class IndexSettings(Section):
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


class MagnitudeSettings(LearnedSettings):
    """Two towers whose score keeps or drops the norm of each side; answers histories and free text."""

    kind: Literal["magnitude"] = "magnitude"
    implementation: ClassVar[str] = "genrec.retrieve.magnitude.retriever:Magnitude"
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
    index: IndexSettings = IndexSettings()

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
