"""The engines that LLMs and VLMs run on.

Fields marked `exclude=True` say where and how fast, never what: no fingerprint covers them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from genrec.settings import PartSettings, Path_, Section

MODEL = (
    "a hub name, a folder, a GGUF file, `package:NAME` of one that carries weights, or `asset:NAME`"
)


class NoEngine(Section):
    """The stage is left out."""

    kind: Literal["none"] = "none"


class HFSettings(PartSettings):
    """transformers in this process, on a CPU or a GPU; JSON held by xgrammar."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "pillow", "xgrammar")
    kind: Literal["hf"] = "hf"
    implementation: ClassVar[str] = "genrec.engines.hf:HFEngine"
    in_process: ClassVar[bool] = True
    loads: ClassVar[bool] = True
    model: Path_ = Field(description=MODEL)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the weights; auto: as they were saved"
    )
    chat_options: dict[str, Any] = Field({}, description="for the chat template")
    batch_size: int = Field(8, ge=1, exclude=True, description="requests answered at once")


class VLLMSettings(PartSettings):
    """vLLM offline, in a process of its own."""

    packages: ClassVar[tuple[str, ...]] = ("vllm", "torch", "transformers", "pillow", "xgrammar")
    kind: Literal["vllm"] = "vllm"
    implementation: ClassVar[str] = "genrec.engines.vllm:VLLMEngine"
    in_process: ClassVar[bool] = False
    loads: ClassVar[bool] = True
    model: Path_ = Field(description=MODEL)
    dtype: str = Field("auto", description="as of vllm.LLM")
    chat_options: dict[str, Any] = Field({}, description="for the chat template")
    options: dict[str, Any] = Field({}, description="of vllm.LLM, that change replies")
    placement: dict[str, Any] = Field({}, exclude=True, description="of vllm.LLM, that do not")
    batch_size: int = Field(256, ge=1, exclude=True, description="requests given to vLLM at once")


class OpenAISettings(PartSettings):
    """Any OpenAI-compatible endpoint: a `vllm serve` fleet, ollama, a hosted API."""

    kind: Literal["openai"] = "openai"
    implementation: ClassVar[str] = "genrec.engines.openai:OpenAIEngine"
    in_process: ClassVar[bool] = False
    loads: ClassVar[bool] = False
    base_url: str = Field(exclude=True, description="such as http://localhost:8000/v1")
    model: str = Field(description="as the endpoint names it")
    revision: str = Field("", description="tells two states of one model name apart")
    key: str | None = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        exclude=True,
        description="the environment variable that holds the key; null: the endpoint needs none",
    )
    concurrency: int = Field(16, ge=1, exclude=True, description="requests in flight")
    timeout: float = Field(120.0, gt=0, exclude=True, description="seconds")
    max_retries: int = Field(6, ge=0, exclude=True, description="of 429, 5xx, timeouts")
    per_minute: float | None = Field(None, gt=0, exclude=True, description="most requests")
    strict: bool = Field(False, description="OpenAI's strict mode; others need it not")
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        exclude=True,
        description="the field that carries the limit; some hosted models take only the newer one",
    )
    extra: dict[str, Any] = Field({}, description="further fields of the request's body")


EngineSettings = Annotated[
    NoEngine | HFSettings | VLLMSettings | OpenAISettings, Field(discriminator="kind")
]
