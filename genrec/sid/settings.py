"""The settings of the quantizers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from genrec.settings import PartSettings, Section


class SetSettings(Section):
    """One of several sets of SIDs; what is null is as `quantize` says."""

    views: dict[str, float] | None = Field(
        None, description="weight of each view in it; null: as `embed` weighs them"
    )
    levels: int | None = Field(None, ge=1, le=8, description="codes of a SID")
    codes: int | None = Field(None, ge=2, description="of each level")
    seed: int | None = Field(None, description="null: that of the recipe, plus the set's place")

    @field_validator("views")
    @classmethod
    def _weights(cls, views: dict[str, float] | None) -> dict[str, float] | None:
        if views is not None and not (views and all(weight > 0 for weight in views.values())):
            raise ValueError("expected one view or more, each with a weight above 0")
        return views


class SIDSettings(PartSettings):
    """What every part that makes SIDs has.

    Attributes:
        learns: codebooks are fitted to embeddings; False where the SIDs came with the data.
        resolve: no two items keep one SID.
    """

    packages: ClassVar[tuple[str, ...]] = ("scipy",)
    learns: ClassVar[bool]
    resolve: bool

    @property
    def each_set(self) -> tuple[SetSettings, ...]:
        """What each set of SIDs is made of; one unless there are more."""
        return (SetSettings(),)


class QuantizerSettings(SIDSettings):
    """What every quantizer has."""

    learns: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = ("sets",)
    sets: (
        Annotated[int, Field(ge=1, le=8)]
        | Annotated[tuple[SetSettings, ...], Field(min_length=1, max_length=8)]
    ) = Field(
        1,
        description="sets of SIDs, each with its own codes: how many, alike but for the seed; or a list "
        "of what each is made of; at most 8",
    )
    levels: int = Field(4, ge=1, le=8, description="codes of a SID, L")
    codes: int = Field(256, ge=2, description="of each level, K")
    resolve: bool = Field(True, description="items that share a SID move to free codes nearby")

    @property
    def each_set(self) -> tuple[SetSettings, ...]:
        """What each set is made of."""
        return (SetSettings(),) * self.sets if isinstance(self.sets, int) else self.sets


class RQVAESettings(QuantizerSettings):
    """MLP autoencoder around a residual vector quantizer."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "vector-quantize-pytorch")
    kind: Literal["rqvae"] = "rqvae"
    implementation: ClassVar[str] = "genrec.sid.rqvae:RQVAE"
    code_dim: int = Field(32, ge=1, description="width of the vector that is quantized")
    hidden: tuple[int, ...] = Field(
        (512, 256, 128), description="widths of the encoder's layers; the decoder mirrors them"
    )
    epochs: int = Field(200, ge=1, description="passes over the items")
    batch_size: int = Field(
        1024, ge=1, description="items per step, about: an epoch's are divided evenly"
    )
    lr: float = Field(1e-3, gt=0, description="of AdamW")
    commitment: float = Field(
        0.25, ge=0, description="weight of the loss that draws a vector to its codes"
    )


class RKMeansSettings(QuantizerSettings):
    """Residual k-means on the embeddings themselves."""

    packages: ClassVar[tuple[str, ...]] = ("faiss-cpu", "scikit-learn")
    kind: Literal["rkmeans"] = "rkmeans"
    implementation: ClassVar[str] = "genrec.sid.rkmeans:RKMeans"
    code_dim: int | None = Field(32, ge=1, description="PCA before k-means; null keeps all of D")
    iterations: int = Field(50, ge=1, description="of k-means, per level")


class PublishedSettings(SIDSettings):
    """The SIDs that came with the data (`prepare.source.index`); nothing is trained."""

    kind: Literal["published"] = "published"
    implementation: ClassVar[str] = "genrec.sid.published:PublishedSIDs"
    learns: ClassVar[bool] = False
    resolve: bool = Field(False, description="one more level where items share a SID")

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        if isinstance(data, dict) and "sets" in data:
            raise ValueError(
                "sets: published SIDs have a set for each file of prepare.source.index; name several "
                "files there, and drop sets"
            )
        return data

    @property
    def reads(self) -> tuple[str, ...]:
        """The raw files' tables alone: no embedding."""
        return ("prepare",)
