"""Semantic IDs: made by a quantizer, repaired where they collide, looked up in a trie."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
