"""Language and vision-language models that answer requests, behind one protocol.

`hf` runs in this process, `vllm` offline in its own, `openai` asks any compatible endpoint. Names
load on first use, since each needs libraries of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genrec.engines.protocol import (
    Engine,
    EngineError,
    Judge,
    Message,
    Reader,
    Reply,
    Request,
    Score,
)

if TYPE_CHECKING:
    from genrec.engines.hf import HFEngine
    from genrec.engines.openai import OpenAIEngine
    from genrec.engines.vllm import VLLMEngine

_HOMES = {"HFEngine": "hf", "OpenAIEngine": "openai", "VLLMEngine": "vllm"}
__all__ = [
    "Engine",
    "EngineError",
    "HFEngine",
    "Judge",
    "Message",
    "OpenAIEngine",
    "Reader",
    "Reply",
    "Request",
    "Score",
    "VLLMEngine",
]


def __getattr__(name: str) -> Any:
    """Imports the module that an engine lives in (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
