"""A two-tower retriever, and a loss for sentence-transformers, that keep or drop magnitudes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
