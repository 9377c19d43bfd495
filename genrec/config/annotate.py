"""The `caption` and `mine` sections: which engine is asked, with which words, and how often.

Fields marked `exclude=True` say where and how fast, never what: no fingerprint covers them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from genrec.config.base import Path_, Section


class NoEngine(Section):
    """The stage is left out."""

    kind: Literal["none"] = "none"


class HF(Section):
    """transformers in this process, on a CPU or a GPU; JSON held by xgrammar."""

    kind: Literal["hf"] = "hf"
    model: Path_
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_options: dict[str, Any] = Field({}, description="for the chat template")
    batch_size: int = Field(8, ge=1, exclude=True)


class VLLM(Section):
    """vLLM offline, in a process of its own."""

    kind: Literal["vllm"] = "vllm"
    model: Path_
    dtype: str = "auto"
    chat_options: dict[str, Any] = Field({}, description="for the chat template")
    options: dict[str, Any] = Field({}, description="of vllm.LLM, that change replies")
    placement: dict[str, Any] = Field({}, exclude=True, description="of vllm.LLM, that do not")
    batch_size: int = Field(256, ge=1, exclude=True)


class OpenAI(Section):
    """Any OpenAI-compatible endpoint: a `vllm serve` fleet, ollama, a hosted API."""

    kind: Literal["openai"] = "openai"
    base_url: str = Field(exclude=True)
    model: str = Field(description="as the endpoint names it")
    revision: str = Field("", description="tells two states of one model name apart")
    key: str | None = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        exclude=True,
        description="the environment variable that holds the key; null: the endpoint needs none",
    )
    concurrency: int = Field(16, ge=1, exclude=True)
    timeout: float = Field(120.0, gt=0, exclude=True, description="seconds")
    max_retries: int = Field(6, ge=0, exclude=True, description="of 429, 5xx, timeouts")
    per_minute: float | None = Field(None, gt=0, exclude=True, description="most requests")
    strict: bool = Field(False, description="OpenAI's strict mode; others need it not")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field("max_tokens", exclude=True)
    extra: dict[str, Any] = Field({}, description="further fields of the request's body")


Engine = Annotated[NoEngine | HF | VLLM | OpenAI, Field(discriminator="kind")]


class Annotate(Section):
    """What both stages have. Their seed is their own: another `seed` asks for nothing again."""

    engine: Engine = NoEngine()
    seed: int = 0
    temperature: float = Field(0.0, ge=0)
    retries: int = Field(2, ge=0, description="further attempts where a reply cannot be used")


class Caption(Annotate):
    """Pictures to captions, by a vision-language model."""

    prompt: str = Field("caption/product", exclude=True, description="its content is what counts")
    max_tokens: int = Field(96, ge=1)
    longest_side: int = Field(768, ge=16, description="pictures are made no larger, pixels")


class Mine(Annotate):
    """Items to latent interests, by an LLM that reasons step by step."""

    prompt: str = Field("interests/motives", exclude=True, description="its content counts")
    max_tokens: int = Field(768, ge=1)
    max_text: int = Field(2000, ge=1, description="characters of each text in the prompt")
    max_interests: int = Field(8, ge=1)
