"""AnchorRec: ids, text and image, aligned beside the scoring space and not in it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
