from .loss import (
    GAMMA_PATTERN as GAMMA_PATTERN,
    VARIANTS as VARIANTS,
    MagnitudeContrastiveLoss as MagnitudeContrastiveLoss,
    MagnitudeScore as MagnitudeScore,
)
from .norms import norm_report as norm_report
from .retriever import Magnitude as Magnitude
