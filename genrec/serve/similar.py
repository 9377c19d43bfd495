"""Neighbours of items in one view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genrec.bundle import Bundle
from genrec.ranking import top_k


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
    best = top_k(cosine[None], min(near.k, len(vectors)))
    return [
        (item, score)
        for item, score in zip(best.items[0].tolist(), best.scores[0].tolist(), strict=True)
        if item >= 0 and vectors[item].any()
    ]
