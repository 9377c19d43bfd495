"""AnchorRec: ids, text and image, aligned outside the scoring space."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
