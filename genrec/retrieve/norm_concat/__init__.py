"""Norm-Concat-Norm: a collaborative and a semantic view side by side, never aligned."""

from genrec.retrieve.norm_concat.retriever import NormConcat

__all__ = ["NormConcat"]
