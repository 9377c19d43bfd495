"""The settings of NormConcat."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genrec.retrieve.settings import LearnedSettings


class NormConcatSettings(LearnedSettings):
    """A collaborative and a semantic view side by side, each at unit length, never aligned."""

    kind: Literal["norm_concat"] = "norm_concat"
    implementation: ClassVar[str] = "genrec.retrieve.norm_concat.retriever:NormConcat"
    view: str = Field("text", description="the view that the semantic part takes")
    dim: int = Field(64, ge=1, description="width of each of the two parts")
    layers: int = Field(2, ge=1, description="of LightGCN")
    temperature: float = Field(0.15, gt=0, description="of the softmax over positive and negatives")
    candidates: int = Field(512, ge=1, description="uniform negatives drawn per positive")
    hard: int = Field(256, ge=1, description="how many of them, the best scored, are used")
    user_vectors: Literal["history", "trained"] = Field(
        "history",
        description="history makes a user of the items' vectors in training as in `recommend`; trained "
        "also gives each training user a vector of its own, as published, which `recommend` has to "
        "leave out",
    )
    leave_out: bool = Field(
        True,
        description="takes the positive out of the history that a training user is made of, so that "
        "the user is not recognised by the answer; the published code keeps it",
    )
    epochs: int = Field(200, ge=1)
    patience: int = Field(25, ge=1)
    weight_decay: float = Field(1e-4, ge=0, description="of the optimizer")
    valid_users: int = Field(5000, ge=1)

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns its one view, which must be there."""
        return (self.view,)

    @model_validator(mode="after")
    def _negatives_fit(self) -> NormConcatSettings:
        if self.candidates < self.hard:
            raise ValueError(
                f"hard={self.hard} negatives of candidates={self.candidates}: too many"
            )
        return self
