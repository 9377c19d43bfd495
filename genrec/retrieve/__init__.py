"""Candidate generators beside the LLM. They meet it only in the recommendations table.

Each has one file and one class with the methods of `Retriever`; importing this package loads no torch.
"""

from genrec.retrieve.base import (
    Ranked,
    Retriever,
    histories_of,
    to_recommendations,
    training_sequences,
)
from genrec.retrieve.cooccurrence import Cooccurrence
from genrec.retrieve.popular import Popular

__all__ = [
    "Cooccurrence",
    "Popular",
    "Ranked",
    "Retriever",
    "histories_of",
    "to_recommendations",
    "training_sequences",
]
