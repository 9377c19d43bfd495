"""The settings of the quantizers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from genrec.settings import PartSettings


class RQVAESettings(PartSettings):
    """MLP autoencoder around a residual vector quantiser."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "vector-quantize-pytorch", "scipy")
    kind: Literal["rqvae"] = "rqvae"
    implementation: ClassVar[str] = "genrec.sid.rqvae:RQVAE"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int = Field(32, ge=1)
    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    commitment: float = Field(0.25, ge=0)
    resolve: bool = True


class RKMeansSettings(PartSettings):
    """Residual k-means on the embeddings themselves."""

    packages: ClassVar[tuple[str, ...]] = ("faiss-cpu", "scikit-learn", "scipy")
    kind: Literal["rkmeans"] = "rkmeans"
    implementation: ClassVar[str] = "genrec.sid.rkmeans:RKMeans"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int | None = Field(32, ge=1, description="PCA before k-means; null keeps all of D")
    iterations: int = Field(50, ge=1)
    resolve: bool = True


class PublishedSettings(PartSettings):
    """The SIDs that came with the data (`prepare.source.index`); nothing is trained."""

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    kind: Literal["published"] = "published"
    resolve: bool = Field(False, description="one more level where items share a SID")

    @property
    def reads(self) -> tuple[str, ...]:
        """The raw files' tables alone: no embedding."""
        return ("prepare",)
