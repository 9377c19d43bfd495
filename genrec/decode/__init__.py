"""Exact constrained beam search over semantic IDs: our engine, vLLM's, and drop-ins for `generate`."""

from typing import TYPE_CHECKING, Any

from genrec.decode.beam import BeamEngine
from genrec.decode.filters import Eligibility
from genrec.decode.generate import SIDBeamOutput, beam_search
from genrec.decode.processor import SIDLogitsProcessor
from genrec.decode.result import BeamResult
from genrec.decode.vllm_server import VLLMServerEngine

if TYPE_CHECKING:
    from genrec.decode.vllm import VLLMBeamEngine

__all__ = [
    "BeamEngine",
    "BeamResult",
    "Eligibility",
    "SIDBeamOutput",
    "SIDLogitsProcessor",
    "VLLMBeamEngine",
    "VLLMServerEngine",
    "beam_search",
]


def __getattr__(name: str) -> Any:
    if name == "VLLMBeamEngine":  # imported when named: vLLM is optional
        from genrec.decode.vllm import VLLMBeamEngine

        return VLLMBeamEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
