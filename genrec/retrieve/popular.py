"""The most popular items for everyone: the floor under every metrics table."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from genrec.progress import Progress, silent
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.files import load_retriever, save_retriever
from genrec.retrieve.ranking import chunks, first_allowed, flatten, popularity, popularity_order


class Popular:
    """Ranks items by their number of training interactions, equal ones by item number.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
    """

    kind = "popular"
    popularity_: npt.NDArray[np.int64]

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts interactions; see `Retriever.fit`."""
        self.popularity_ = popularity(flatten(sequences, num_items=num_items), num_items=num_items)
        progress("popular: fit", 1, 1)
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Returns the k most popular items of each user; see `Retriever.recommend`.

        A score is the item's number of training interactions.
        """
        counts = fitted(self, k)
        order = popularity_order(counts)
        items = np.full((len(histories), k), -1, dtype=np.int32)
        for part in chunks(len(histories), len(counts)):
            seen = flatten(histories[part], num_items=len(counts), first=part.start)
            items[part] = first_allowed(
                order,
                k=k,
                num_rows=seen.num_rows,
                banned_row=seen.row if exclude_seen else seen.row[:0],
                banned_item=seen.item if exclude_seen else seen.item[:0],
            )
            progress("popular: recommend", part.stop, len(histories))
        scores = np.where(items < 0, -np.inf, counts[items]).astype(np.float32)
        return Ranked(items, scores)

    def save(self, folder: str | Path) -> None:
        """Writes the counts; see `Retriever.save`."""
        save_retriever(folder, self.kind, settings={}, arrays={"popularity": fitted(self)})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        self.popularity_ = arrays["popularity"]
        return self


def fitted(retriever: object, k: int = 1) -> npt.NDArray[np.int64]:
    """Returns the popularity of a fitted retriever.

    Raises:
        ValueError: it is not fitted yet, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    counts: npt.NDArray[np.int64] | None = getattr(retriever, "popularity_", None)
    if counts is None:
        raise ValueError(f"this {type(retriever).__name__} is not fitted; call fit() first")
    return counts
