"""The settings of AnchorRec."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from genrec.retrieve.settings import LearnedSettings


class AnchorRecSettings(LearnedSettings):
    """LightGCN on ids, plus gated text and image branches, aligned outside the scoring space."""

    kind: Literal["anchorrec"] = "anchorrec"
    implementation: ClassVar[str] = "genrec.retrieve.anchorrec.retriever:AnchorRec"
    patience: int = Field(30, ge=1, description="long: recall often falls before it rises")
    dim: int = Field(64, ge=1, description="width of every vector")
    id_layers: int = Field(2, ge=1, description="layers of LightGCN")
    view_layers: int = Field(1, ge=0, description="propagation steps over each item-item graph")
    neighbours: int = Field(
        10, ge=1, description="edges per item of these graphs, the item itself among them"
    )
    l2: float = Field(1e-3, ge=0, description="weight of the squares of a batch's final vectors")
    aal: float = Field(0.01, ge=0, description="weight of the alignment loss")
    amp: float = Field(
        0.01,
        ge=0,
        description="weight of the loss that keeps each view's inner products near its raw cosines",
    )
    temperature: float = Field(0.25, gt=0, description="of the alignment to the anchor")
    alignment: Literal["anchor", "direct", "none"] = Field(
        "anchor",
        description="direct aligns multimodal and id vectors themselves (AlignRec, temperature 0.2)",
    )
    anchor_gradient: bool = Field(
        False, description="the alignment of text and image reaches the scores; published: false"
    )
    user_vectors: Literal["trained", "history"] = Field(
        "trained",
        description="trained: a vector of each training user, as published, left out when "
        "recommending; history: made of the items' vectors, in training too",
    )
    use_features: bool = Field(True, description="false: ids only, which is LightGCN")

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        """Returns the views of content that there are."""
        content = ("text", "image", "joint") if self.use_features else ()
        return tuple(name for name in content if name in available)
