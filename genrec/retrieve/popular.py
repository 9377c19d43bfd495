"""The most popular items for everyone: the floor under every metrics table."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from genrec.progress import Progress, silent
from genrec.ranking import RankedLists, best_first, first_allowed
from genrec.retrieve.base import Arrays, Ranker, Retriever
from genrec.retrieve.sequences import Flat, Sequences, flatten, popularity
from genrec.retrieve.settings import PopularSettings


class Popular(Retriever[PopularSettings]):
    """Ranks items by their number of training interactions, equal ones by item number.

    A score is the item's number of training interactions.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
    """

    popularity_: npt.NDArray[np.int64]

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts interactions; see `Retriever.fit`."""
        self.popularity_ = popularity(flatten(sequences, num_items=num_items), num_items=num_items)
        self.num_items_ = num_items
        progress("popular: fit", 1, 1)
        return self

    def _ranker(self, histories: Sequences, *, k: int, exclude_seen: bool) -> Ranker:
        order = best_first(self.popularity_)

        def rank(part: slice, seen: Flat) -> RankedLists:
            banned = slice(None) if exclude_seen else slice(0)
            items = first_allowed(
                order,
                k,
                num_rows=seen.num_rows,
                banned_row=seen.row[banned],
                banned_item=seen.item[banned],
            )
            return RankedLists(items, np.where(items < 0, -np.inf, self.popularity_[items]))

        return rank

    def _arrays(self) -> Arrays:
        return {"popularity": self.popularity_}

    def _restore(self, arrays: Arrays) -> None:
        self.popularity_ = arrays["popularity"]
        self.num_items_ = len(self.popularity_)
