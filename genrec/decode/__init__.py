"""Exact constrained beam search over semantic IDs."""

from genrec.decode.beam import BeamEngine, BeamResult

__all__ = ["BeamEngine", "BeamResult"]
