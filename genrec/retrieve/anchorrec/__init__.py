"""AnchorRec: ids, text and image, aligned beside the scoring space and not in it."""

from genrec.retrieve.anchorrec.retriever import AnchorRec

__all__ = ["AnchorRec"]
