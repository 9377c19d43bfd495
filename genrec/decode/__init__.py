"""Exact constrained beam search over semantic IDs: our engine, vLLM's, and drop-ins for `generate`."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
