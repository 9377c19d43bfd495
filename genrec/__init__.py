"""genrec: LLM-centric generative recommendation with semantic IDs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads `Pipeline` on first use, so that `import genrec` stays light."""
    if name == "Pipeline":
        from genrec.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'genrec' has no attribute '{name}'")
