"""Training triples (user, liked item, other item): uniform negatives, never a user's own item."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec.retrieve.base import IntArray, Sequences
from genrec.retrieve.lightgcn import distinct_pairs

Ints = npt.NDArray[np.int64]


class Triples:
    """Distinct interactions, and negatives drawn from the trained items outside a user's sequence.

    Users that have every trained item are left out: no negative exists for them.

    Attributes:
        user: int64 [E].
        item: int64 [E].
    """

    def __init__(self, sequences: Sequences, num_items: int) -> None:
        """Lists the pairs.

        Raises:
            ValueError: no pair is left, or an item lies outside 0..num_items-1.
        """
        user, item = distinct_pairs(sequences, num_items)
        self._trained = np.unique(item)
        length = np.bincount(user, minlength=len(sequences))
        kept = length[user] < len(self._trained)
        self.user, self.item = user[kept], item[kept]
        if not len(self.user):
            raise ValueError(
                f"anchorrec: {len(sequences)} training sequences over {len(self._trained)} items hold "
                "no interaction of a user who left an item out, so there is nothing to learn from; "
                "expected users with different items: bring more users, lower prepare.core, or take "
                "anchorrec out of retrieve"
            )
        # Of the j-th own item on place p_j among the trained ones, p_j - j trained items that are
        # not the user's own come before it: the r-th of these stands on place r + #{p_j - j <= r}.
        self._first = np.concatenate([[0], np.cumsum(length)])
        place = np.searchsorted(self._trained, item)
        self._keys = user * self._width + place - (np.arange(len(user)) - self._first[user])
        self._others = len(self._trained) - length

    def __len__(self) -> int:
        """E, the number of pairs."""
        return len(self.user)

    def negatives(self, users: IntArray, rng: np.random.Generator) -> Ints:
        """Draws one item per user, uniformly from the trained items that are not the user's. int64 [B].

        Args:
            users: int [B], from `user`.
            rng: source of chance.
        """
        drawn = rng.integers(0, self._others[users])
        own = np.searchsorted(self._keys, users * self._width + drawn, side="right")
        return self._trained[drawn + own - self._first[users]]

    @property
    def _width(self) -> int:
        return len(self._trained) + 1
