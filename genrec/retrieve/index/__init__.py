"""Item vectors in an index: faiss, files for any vector database, Qdrant."""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
