"""The settings of AnchorRec."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genrec.retrieve.settings import LearnedSettings


class AnchorRecSettings(LearnedSettings):
    """LightGCN on ids beside gated text and image branches, aligned outside the scoring space."""

    kind: Literal["anchorrec"] = "anchorrec"
    implementation: ClassVar[str] = "genrec.retrieve.anchorrec.retriever:AnchorRec"
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
