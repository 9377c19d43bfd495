"""`genrec tune`: settings chosen on validation users, by Optuna, over one store."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
