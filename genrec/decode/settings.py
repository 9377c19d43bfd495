"""What runs the beam search (`recommend.engine`). All find the same items."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from genrec.settings import Section

Dtype = Literal["float32", "bfloat16", "float16"]


class HFDecoder(Section):
    """Any causal LM of transformers, in this process; proves its lists where it can."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    kind: Literal["hf"] = "hf"
    strategy: Literal["auto", "tree", "expand"] = Field(
        "auto", description="tree: one cache per user; expand: one per beam, for any cache"
    )
    head: Literal["auto", "full", "sid"] = Field(
        "auto",
        description="probabilities among all tokens (full), or a level's codes only (sid): faster, "
        "other scores; auto: as the model was trained, see train.softmax",
    )
    certify: bool = Field(False, description="widen the beam of users whose list is not proven")
    max_beams: int | None = Field(None, ge=1, description="the widest that certify may try")
    memory_gb: float | None = Field(
        None, gt=0, description="10^9 bytes for caches: more users than fit are decoded in turns"
    )
    dtype: Dtype = Field("float32", description="of the weights and products")

    @model_validator(mode="after")
    def _widening(self) -> HFDecoder:
        if self.max_beams is not None and not self.certify:
            raise ValueError(
                "max_beams limits how far certify widens; set certify=true, or leave it out"
            )
        return self


class VLLMDecoder(Section):
    """vLLM on the merged model, for GPUs and large models; vLLM chooses the device itself."""

    packages: ClassVar[tuple[str, ...]] = ("vllm", "torch", "transformers")
    kind: Literal["vllm"] = "vllm"
    max_model_len: int | None = Field(None, ge=16, description="prompt and SID; null: the model's")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of the GPU's memory that vLLM takes"
    )
    dtype: Dtype = Field("float32", description="of the weights and products")
    options: dict[str, Any] = Field({}, description="further arguments of vllm.LLM")

    @model_validator(mode="after")
    def _said_once(self) -> VLLMDecoder:
        twice = sorted(set(self.options) & set(type(self).model_fields))
        if twice:
            raise ValueError(f"options: {twice} are fields of the engine itself; set them there")
        return self


class VLLMServerDecoder(Section):
    """A `vllm serve` that `recipes/vllm/serve.py` started, here or elsewhere; many may share it."""

    packages: ClassVar[tuple[str, ...]] = ("tokenizers",)
    kind: Literal["vllm-serve"] = "vllm-serve"
    base_url: str = Field(
        "http://127.0.0.1:8000/v1", exclude=True, description="no part of the artifact's name"
    )
    model: str | None = Field(
        None,
        exclude=True,
        description="as the server names it; null: the name that serve.py gives these artifacts, so "
        "that it cannot be another's",
    )
    key: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        exclude=True,
        description="the environment variable that holds the server's key; null: it needs none",
    )
    timeout: float = Field(60.0, gt=0, exclude=True, description="seconds")
    max_retries: int = Field(2, ge=0, exclude=True, description="of 5xx, timeouts")


DecoderSettings = Annotated[
    HFDecoder | VLLMDecoder | VLLMServerDecoder, Field(discriminator="kind")
]
