"""Exact constrained beam search over semantic IDs: our engine, vLLM's, and drop-ins for `generate`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
