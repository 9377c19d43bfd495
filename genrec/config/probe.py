"""The `probe` section: how closely a trained model and its SIDs are looked into, and by which judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genrec.config.annotate import Engine, NoEngine
from genrec.config.base import Section
from genrec.config.engine import Dtype


class Judge(Section):
    """A vision-language model that says how well a text goes with a picture.

    `question` asks it whether the text describes the picture. `likelihood` asks nothing: how much
    likelier it finds the text as this picture's caption than as that of other pictures; for small
    captioners, which cannot answer questions about a text.
    """

    engine: Engine = NoEngine()
    method: Literal["question", "likelihood"] = "question"
    prompt: str | None = Field(
        None,
        exclude=True,
        description="null: judge/describes for a question, caption/product for a likelihood; its "
        "content is what counts",
    )
    others: int = Field(4, ge=1, description="likelihood: other pictures that each is held against")
    longest_side: int = Field(768, ge=16, description="pictures are made no larger, pixels")

    @model_validator(mode="after")
    def _measurable(self) -> Judge:
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

    enabled: bool = Field(True, description="false leaves the stage out")
    items: int = Field(200, ge=2, description="items that are asked about")
    users: int = Field(200, ge=1, description="test users decoded without the trie")
    num_beams: int = Field(10, ge=1)
    neighbours: int = Field(10, ge=1, description="k of the neighbourhood overlap")
    dtype: Dtype = "float32"
    judge: Judge = Judge()
