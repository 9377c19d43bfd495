"""The `fuse` section, and `recommend.candidates`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, model_validator

from genrec.settings import Section


class Fuse(Section):
    """Several systems' lists to one; whatever is fitted is fitted on validation users."""

    packages: ClassVar[tuple[str, ...]] = ("numpy", "scikit-learn", "scipy")
    learned: ClassVar[tuple[str, ...]] = ("gate", "lambdarank")  # methods without weights
    former: ClassVar[Mapping[str, str]] = {"k0": "rrf_k", "strength": "C"}

    enabled: bool = Field(True, description="false leaves the stage out")
    method: Literal["reciprocal_rank", "minmax", "zscore", "gate", "lambdarank"] = Field(
        "zscore",
        description="one weight per source over ranks or scaled scores; gate: a logistic regression "
        "over scores, ranks, agreement, popularity and history length; lambdarank: LightGBM's trees "
        "over these, and how near each view and the training sequences bring an item to the history",
    )
    sources: tuple[str, ...] = Field(
        (), description="systems, retrievers' names and `generative`; empty: all"
    )
    weights: dict[str, NonNegativeFloat] | None = Field(
        None, description="by source; null: fitted on validation users"
    )
    k: int = Field(20, ge=1, description="length of the fused lists")
    rrf_k: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="reciprocal_rank: weight / (rrf_k + rank); the larger, the less the first count",
    )
    optimise_k: int = Field(10, ge=1, description="weights are fitted to NDCG at this cut-off")
    restarts: int = Field(2, ge=0, description="random starting points of the fit")
    C: float = Field(1.0, gt=0, description="gate: inverse of the L2 penalty, as scikit-learn's C")
    negatives: int = Field(100, ge=1, description="gate: candidates per user learned from")
    trees: int = Field(120, ge=1, description="lambdarank: how many")
    leaves: int = Field(8, ge=2, description="lambdarank: of a tree, at most")
    pool: int = Field(
        20,
        ge=1,
        description="lambdarank: ranks of each source whose items the trees order; others follow",
    )
    folds: int = Field(
        5,
        ge=1,
        description="validation users are fused by a fit to the others, in so many parts, so that their "
        "metrics are honest; 1: by the fit to all of them, which test users get",
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The users, and the systems that are fused; the items' views too where they are looked at."""
        views = ("embed",) if self.method == "lambdarank" else ()
        if not self.sources:
            return ("prepare", *views, "retrieve", "recommend")
        nodes = ("recommend" if s == "generative" else f"retrieve.{s}" for s in self.sources)
        return ("prepare", *views, *nodes)

    def made_with(self) -> set[str]:
        """Trees have a package of their own."""
        return super().made_with() | ({"lightgbm"} if self.method == "lambdarank" else set())

    @model_validator(mode="after")
    def _fits(self) -> Fuse:
        if self.method in self.learned and self.weights is not None:
            raise ValueError(
                f"weights: {self.method} learns its own; drop weights or take another method"
            )
        return self


class CandidateSettings(Section):
    """Items that the decoder may write for each user: those that retrievers list."""

    mode: Literal["off", "restrict"] = Field(
        "off", description="restrict: only items of `from`; off: the whole catalogue"
    )
    sources: tuple[str, ...] = Field((), alias="from", description="names of retrievers")
    size: int = Field(500, ge=1, description="items for each user, best ranks first")

    @model_validator(mode="after")
    def _named(self) -> CandidateSettings:
        if self.mode == "restrict" and not self.sources:
            raise ValueError("mode=restrict needs `from`, the names of one retriever or more")
        return self
