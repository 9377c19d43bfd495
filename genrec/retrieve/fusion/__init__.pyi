from .candidates import NothingToFitError as NothingToFitError, pooled as pooled
from .fusion import Fusion as Fusion
from .gate import Gate as Gate
from .methods import (
    fit_weights as fit_weights,
    kept as kept,
    reciprocal_rank as reciprocal_rank,
    weighted as weighted,
)
