"""Exact constrained beam search over semantic IDs."""

from genrec.decode.beam import BeamEngine
from genrec.decode.result import BeamResult

__all__ = ["BeamEngine", "BeamResult"]
