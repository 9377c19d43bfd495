from .base import Retriever as Retriever, open_retriever as open_retriever
from .cooccurrence import Cooccurrence as Cooccurrence
from .popular import Popular as Popular
from .sequences import (
    Validation as Validation,
    histories_of as histories_of,
    training_sequences as training_sequences,
)
