"""Item vectors in an index: faiss, files for any vector database, Qdrant."""

from genrec.retrieve.index.items import ItemIndex
from genrec.retrieve.index.vectors import Found, export_vectors

__all__ = ["Found", "ItemIndex", "export_vectors"]
