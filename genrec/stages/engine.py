"""A recipe's engine, built: what caption and mine (and whoever asks a model) have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from genrec.config.annotate import HF, VLLM, NoEngine, OpenAI
from genrec.engines import Engine, HFEngine, OpenAIEngine, VLLMEngine


@contextmanager
def opened(section: HF | VLLM | OpenAI | NoEngine, device: Callable[[], str]) -> Iterator[Engine]:
    """Yields the engine that a section describes, and frees it at the end.

    Args:
        section: the recipe's `engine`.
        device: asked only where the model runs in this process.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the environment variable that should hold the key is not set.
    """
    engine = _build(section, device)
    try:
        yield engine
    finally:
        engine.close()


def _build(section: HF | VLLM | OpenAI | NoEngine, device: Callable[[], str]) -> Engine:
    options = {name: value for name, value in section if name != "kind"}
    if isinstance(section, HF):
        return HFEngine(**options, device=device())
    if isinstance(section, VLLM):
        return VLLMEngine(**options)
    if isinstance(section, OpenAI):
        return OpenAIEngine(**options)
    raise ValueError("engine: kind none asks nobody; expected hf, vllm or openai")
