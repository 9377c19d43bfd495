"""A two-tower retriever, and a loss for sentence-transformers, that keep or drop magnitudes."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
