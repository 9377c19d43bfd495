"""Candidate generators other than the LLM. They meet it only in the recommendations table.

Each has one file and one class with the methods of `Retriever`; importing this package loads no torch.
"""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
