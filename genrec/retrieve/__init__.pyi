from .base import (
    Ranked as Ranked,
    Retriever as Retriever,
    histories_of as histories_of,
    to_recommendations as to_recommendations,
    training_sequences as training_sequences,
)
from .cooccurrence import Cooccurrence as Cooccurrence
from .popular import Popular as Popular
