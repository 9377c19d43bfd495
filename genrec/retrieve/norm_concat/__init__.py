"""Norm-Concat-Norm: a collaborative and a semantic view side by side, never aligned."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
