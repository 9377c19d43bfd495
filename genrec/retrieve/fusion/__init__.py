"""Several systems' lists to one, with what each knows alone kept as far as it helps."""

from genrec.retrieve.fusion.fusion import Fusion
from genrec.retrieve.fusion.gate import Gate
from genrec.retrieve.fusion.methods import fit_weights, kept, reciprocal_rank, weighted
from genrec.retrieve.fusion.pool import pooled
from genrec.retrieve.fusion.sources import NothingToFitError

__all__ = [
    "Fusion",
    "Gate",
    "NothingToFitError",
    "fit_weights",
    "kept",
    "pooled",
    "reciprocal_rank",
    "weighted",
]
