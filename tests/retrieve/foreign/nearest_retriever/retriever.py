"""Cosine of each item's view to that of the newest item."""

import numpy as np

from genrec.progress import silent
from genrec.retrieve import Retriever
from genrec.retrieve.sequences import flatten
from nearest_retriever.settings import NearestSettings


class Nearest(Retriever[NearestSettings]):
    """Scores an item by its inner product with the history's newest item."""

    def fit(self, sequences, *, num_items, features, progress=silent):
        flatten(sequences, num_items=num_items)  # refuses unknown items
        view = np.asarray(features[self.settings.view], dtype=np.float32)
        norms = np.linalg.norm(view, axis=1, keepdims=True)
        self.vectors_, self.num_items_ = view / np.where(norms > 0, norms, 1), num_items
        return self

    def _scorer(self):
        nothing = np.zeros(self.vectors_.shape[1], np.float32)

        def score(histories):
            newest = [self.vectors_[h[-1]] if len(h) else nothing for h in histories]
            return np.array(newest) @ self.vectors_.T

        return score

    def _arrays(self):
        return {"vectors": self.vectors_}

    def _restore(self, arrays):
        self.vectors_ = arrays["vectors"]
        self.num_items_ = len(self.vectors_)
