"""The settings of NormConcat."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genrec.retrieve.settings import LearnedSettings


class NormConcatSettings(LearnedSettings):
    """A collaborative and a semantic view side by side, each at unit length, never aligned."""

    kind: Literal["norm_concat"] = "norm_concat"
    implementation: ClassVar[str] = "genrec.retrieve.norm_concat.retriever:NormConcat"
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
