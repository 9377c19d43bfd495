"""A two-tower retriever, and a loss for sentence-transformers, that keep or drop magnitudes."""

from genrec.retrieve.magnitude.loss import (
    GAMMA_PATTERN,
    VARIANTS,
    MagnitudeContrastiveLoss,
    MagnitudeScore,
)
from genrec.retrieve.magnitude.norms import norm_report
from genrec.retrieve.magnitude.retriever import Magnitude
from genrec.retrieve.magnitude.side import choose_side, compare_sides

__all__ = [
    "GAMMA_PATTERN",
    "VARIANTS",
    "Magnitude",
    "MagnitudeContrastiveLoss",
    "MagnitudeScore",
    "choose_side",
    "compare_sides",
    "norm_report",
]
