"""Candidate generators other than the LLM. They meet it only in the recommendations table.

Each has one file and one class with the methods of `Retriever`; importing this package loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
