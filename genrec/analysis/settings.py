"""The `probe` section, and what `evaluate` diagnoses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from genrec.decode.settings import Dtype
from genrec.engines.settings import EngineSettings, NoEngine
from genrec.settings import Section


class JudgeSettings(Section):
    """A vision-language model that says how well a text goes with an image.

    `question` asks it whether the text describes the image. `likelihood` asks nothing: how much
    likelier it finds the text as this image's caption than as that of other images; for small
    captioners, which cannot answer questions about a text.
    """

    engine: EngineSettings = NoEngine()
    method: Literal["question", "likelihood"] = Field(
        "question", description="ask it, or compare how likely it finds the text"
    )
    prompt: str | None = Field(
        None,
        exclude=True,
        description="null: judge/describes for a question, caption/product for a likelihood; its "
        "content is what counts",
    )
    others: int = Field(4, ge=1, description="likelihood: other images that each is held against")
    longest_side: int = Field(768, ge=16, description="images are made no larger, pixels")

    @model_validator(mode="after")
    def _measurable(self) -> JudgeSettings:
        if self.method == "likelihood" and self.engine.kind not in ("hf", "none"):
            raise ValueError(
                f"method=likelihood needs engine.kind=hf, found {self.engine.kind}: the others do "
                "not tell the probability of a given text; use method=question"
            )
        return self

    @property
    def template(self) -> str:
        """The name of the prompt."""
        default = {"question": "judge/describes", "likelihood": "caption/product"}
        return self.prompt or default[self.method]


class Probe(Section):
    """What the SIDs keep of the embeddings, and what the model knows of the SIDs."""

    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "transformers",
        "sentence-transformers",
        "scikit-learn",
    )
    enabled: bool = Field(True, description="false leaves the stage out")
    items: int = Field(200, ge=2, description="items that are asked about")
    users: int = Field(200, ge=1, description="test users decoded without the trie")
    num_beams: int = Field(10, ge=1, description="of decoding without the trie")
    neighbours: int = Field(10, ge=1, description="k of the neighbourhood overlap")
    dtype: Dtype = Field("float32", description="of the model while it is asked")
    judge: JudgeSettings = JudgeSettings()
    language: str | None = Field(
        None,
        exclude=True,
        description="language/general: of a pretrained model, before and after training: the perplexity "
        "of prose, and how many of 50 instructions it follows; or a file of one's own; null: neither. "
        "Its content is what counts",
    )


class AlignmentSettings(Section):
    """How much of a retriever's collaborative space can be read off the items' semantic one."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "scikit-learn", "scipy")
    of: str = Field(description="the name of a retriever that has such a space: anchorrec, sasrec")
    view: str = Field("text", description="the semantic space: a view of the embedding")
    probes: tuple[Literal["linear", "mlp-1", "mlp-2", "mlp-3"], ...] = Field(
        ("linear", "mlp-1"), description="maps that are fitted; mlp-N has N hidden layers"
    )
    epochs: int = Field(400, ge=1, description="of fitting each map")
