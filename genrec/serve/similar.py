"""Neighbours of items in one view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genrec.bundle import Bundle


class Near(NamedTuple):
    """Asks for the `k` items most like item `number` in a view."""

    number: int
    view: str
    k: int


def neighbours(shop: Bundle, asked: Sequence[Near]) -> list[list[tuple[int, float]]]:
    """Returns for each request item numbers and cosines, best first; equal ones by number.

    Vectors have unit length, or are zero where the view knows nothing of the item: such an item has
    no neighbours, and is nobody's.
    """
    return [_of_one(shop, near) for near in asked]


def _of_one(shop: Bundle, near: Near) -> list[tuple[int, float]]:
    vectors = shop.views[near.view]
    if not vectors[near.number].any():
        return []
    cosine = vectors @ vectors[near.number]
    cosine[near.number] = -np.inf
    count = min(near.k, len(vectors) - 1)
    best = np.argpartition(-cosine, count - 1)[:count] if count else np.empty(0, dtype=np.int64)
    # All that are as good as the last one, so that a tie does not depend on the partition.
    best = np.flatnonzero(cosine >= cosine[best].min()) if count else best
    best = best[np.lexsort((best, -cosine[best]))][:count]
    known = vectors[best].any(axis=1)
    return [(int(n), float(cosine[n])) for n in best[known]]
