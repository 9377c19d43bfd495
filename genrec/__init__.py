"""genrec: LLM-centric generative recommendation with semantic IDs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.dataset import Dataset, DatasetRetriever
    from genrec.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Dataset", "DatasetRetriever", "Pipeline", "__version__"]
_HOMES = {"Dataset": "dataset", "DatasetRetriever": "dataset", "Pipeline": "pipeline"}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import genrec` stays light."""
    if name in _HOMES:
        return getattr(import_module(f"genrec.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'genrec' has no attribute '{name}'")
