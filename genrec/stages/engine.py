"""A recipe's engine, built: what caption and mine (and whoever asks a model) have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from genrec import registry
from genrec.engines import Engine
from genrec.engines.settings import EngineSettings


@contextmanager
def opened(section: EngineSettings, device: Callable[[], str]) -> Iterator[Engine]:
    """Yields the engine that a section describes, and frees it at the end.

    Args:
        section: the recipe's `engine`.
        device: asked only where the model runs in this process.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the environment variable that should hold the key is not set.
    """
    if section.kind == "none":
        raise ValueError("engine: kind none asks nobody; expected hf, vllm or openai")
    options = {name: value for name, value in section if name != "kind"}
    if section.in_process:
        options["device"] = device()
    engine: Engine = registry.implementation(section)(**options)
    try:
        yield engine
    finally:
        engine.close()
