"""Item vectors in an index: faiss, files for any vector database, Qdrant."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
