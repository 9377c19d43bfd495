"""A two-tower retriever, and a loss for sentence-transformers, that keep or drop magnitudes."""

from genrec.retrieve.magnitude.loss import (
    GAMMA_PATTERN,
    VARIANTS,
    MagnitudeContrastiveLoss,
    MagnitudeScore,
)
from genrec.retrieve.magnitude.norms import norm_report
from genrec.retrieve.magnitude.retriever import Magnitude

__all__ = [
    "GAMMA_PATTERN",
    "VARIANTS",
    "Magnitude",
    "MagnitudeContrastiveLoss",
    "MagnitudeScore",
    "norm_report",
]
