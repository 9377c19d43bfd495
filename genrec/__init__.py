"""genrec: LLM-centric generative recommendation with semantic IDs."""

from genrec.lazy import attach_stub

__getattr__, __dir__, _names = attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]
__version__ = "0.1.0"
