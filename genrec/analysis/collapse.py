"""Positional collapse: have an item's views been pulled onto one spot? The measures are ours.

The AnchorRec paper (arXiv 2603.12726) shows images; how it counts overlap is not known. Three numbers
stand in: what is left of each view's neighbourhoods, how far an item's views lie from one another, and
how much the views' neighbour lists agree, each with what chance or the raw views give.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from genrec.analysis.content import Floats, neighbour_overlap, unit
from genrec.evaluate.probes import ABSENT


def collapse(
    raw: Mapping[str, Floats],
    learned: Mapping[str, Floats],
    *,
    k: int = 10,
    queries: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares raw and learned views of the same items. Neighbours are nearest by cosine.

    Args:
        raw: float [N, D_m] by view, before training.
        learned: float [N, d_m] by view; "id", which has no raw view, may be among them.
        k: neighbours that are compared, fewer where there are fewer items.
        queries: items whose neighbours are looked for, drawn without replacement.
        seed: of that draw.

    Returns:
        JSON values. `kept`, by each view that is in both: `overlap`, the mean share of the k nearest
        items of the raw view that are the k nearest of the learned one, `chance`, k / (items - 1),
        `items` and `queries`. `pairs`, for every two learned views: `a`, `b`; `overlap` of the
        neighbour lists of both, `chance`, and `raw_overlap` where both have a raw view; `distance`,
        mean 1 - cos(a_i, b_i) between the views of one item, `shuffled`, the same of two different
        items, and `inter_item`, the mean within a view between different items, `ratio` = distance /
        inter_item (0: collapsed). The last four are left out if a and b differ in width; `ratio` is
        null if all items of both views lie on one ray. Items without a view (a row of zeros) do not
        count in it; where fewer than two are left, `absent` says so.

    Raises:
        ValueError: the views differ in their number of items, hold NaN, or k or queries is below 1.
    """
    _check(raw, learned, k, queries)
    kept = {
        name: _overlap(raw[name], learned[name], k, queries, seed)
        for name in learned
        if name in raw
    }
    pairs = []
    for a, b in combinations(learned, 2):
        measured = {"a": a, "b": b, **_overlap(learned[a], learned[b], k, queries, seed)}
        if a in raw and b in raw and ABSENT not in measured:
            measured["raw_overlap"] = _overlap(raw[a], raw[b], k, queries, seed).get("overlap")
        if learned[a].shape[1] == learned[b].shape[1] and ABSENT not in measured:
            measured |= _distances(learned[a], learned[b])
        pairs.append(measured)
    return {"k": k, "kept": kept, "pairs": pairs}


def _overlap(a: Floats, b: Floats, k: int, queries: int, seed: int) -> dict[str, Any]:
    """How many neighbours of a view are neighbours in the other."""
    (a, b), count = _known(a, b)
    if count < 2:
        return {ABSENT: f"{count} items have both; needs two"}
    size = min(k, count - 1)
    rows = np.random.default_rng(seed).choice(count, size=min(queries, count), replace=False)
    return {
        "overlap": float(neighbour_overlap(a, b, np.sort(rows), k=size).mean()),
        "chance": size / (count - 1),
        "items": count,
        "queries": len(rows),
    }


def _distances(a: Floats, b: Floats) -> dict[str, float | None]:
    """Means of 1 - cosine over all items, and over all pairs of different items."""
    (a, b), count = _known(a, b)
    same = float((a * b).sum(axis=1).mean(dtype=np.float64))

    def different(x: Floats, y: Floats) -> float:
        # The sum over all pairs is the product of the sums; what is left without i = j.
        sums = x.sum(axis=0, dtype=np.float64) @ y.sum(axis=0, dtype=np.float64)
        whole = float(sums - (x * y).sum(dtype=np.float64))
        return 1 - whole / (count * (count - 1))

    inter = (different(a, a) + different(b, b)) / 2
    return {
        "distance": 1 - same,
        "shuffled": different(a, b),
        "inter_item": inter,
        "ratio": (1 - same) / inter if inter > 1e-9 else None,
    }


def _known(a: Floats, b: Floats) -> tuple[tuple[Floats, Floats], int]:
    """The rows that are no zeros in both, of length 1, and their number."""
    known = np.any(a != 0, axis=1) & np.any(b != 0, axis=1)
    return (unit(a[known]), unit(b[known])), int(known.sum())


def _check(raw: Mapping[str, Floats], learned: Mapping[str, Floats], k: int, queries: int) -> None:
    if k < 1 or queries < 1:
        raise ValueError(f"k is {k}, queries {queries}; expected 1 or more of each")
    views = {f"raw['{n}']": v for n, v in raw.items()}
    views |= {f"learned['{n}']": v for n, v in learned.items()}
    wrong = {name: v.shape for name, v in views.items() if v.ndim != 2}
    if wrong or len({len(v) for v in views.values()}) > 1:
        shapes = {name: v.shape for name, v in views.items()}
        raise ValueError(f"{shapes}: expected [N, D] with one row per item in every view")
    for name, values in views.items():
        if not np.isfinite(values).all():
            item = int(np.argmin(np.isfinite(values).all(axis=1)))
            raise ValueError(f"{name}: item {item} holds NaN or infinity")
