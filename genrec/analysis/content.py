"""What quantization keeps of the embeddings (SID content degradation), as a whole and view by view.

Two numbers: the cosine of each vector with its reconstruction, and how many of its nearest items stay
its nearest items. The measures are the ones that the paper's review asks for; their form is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.evaluate.probes import ABSENT

Floats = NDArray[np.floating[Any]]

_MAX_CELLS = 2**22  # similarities held at once: 32 MiB
_DECIMALS = 6  # equal vectors must tie, whatever the last bits of a matrix product say


def content_kept(
    embeddings: Floats,
    reconstructed: Floats,
    views: Mapping[str, int],
    *,
    k: int = 10,
    queries: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Compares embeddings with their reconstructions, whole and by view.

    Args:
        embeddings: float [N, D], before quantization.
        reconstructed: float [N, D], what each item's SID stands for.
        views: width of each view, in the order in which they make up D.
        k: neighbours that are compared, fewer where there are fewer items.
        queries: items whose neighbours are looked for, drawn without replacement.
        seed: of that draw.

    Returns:
        For "whole" and, where there are several, for each view: `cosine` (mean over items),
        `overlap` (mean over queries; see `neighbour_overlap`), `chance` (the overlap of neighbours
        drawn at random, k / (items - 1)), `k`, `items` and `queries`. Items without a view (a row
        of zeros) do not count in it; of a view that fewer than two items have, `absent` says so.

    Raises:
        ValueError: the shapes or the widths do not agree.
    """
    if embeddings.shape != reconstructed.shape or sum(views.values()) != embeddings.shape[1]:
        raise ValueError(
            f"embeddings {list(embeddings.shape)}, reconstructed {list(reconstructed.shape)}, "
            f"views {dict(views)}; expected equal shapes, and widths that add up to their columns"
        )
    ends = np.cumsum([0, *views.values()])
    parts = {"whole": slice(None)}
    if len(views) > 1:
        parts |= {name: slice(a, b) for name, a, b in zip(views, ends[:-1], ends[1:], strict=True)}
    by_view: dict[str, dict[str, Any]] = {}
    for name, columns in parts.items():
        known = np.flatnonzero(np.any(embeddings[:, columns] != 0, axis=1))
        if len(known) < 2:
            by_view[name] = {ABSENT: f"{len(known)} items have it; needs two"}
            continue
        before, after = unit(embeddings[known, columns]), unit(reconstructed[known, columns])
        size = min(k, len(known) - 1)
        rows = np.random.default_rng(seed).choice(
            len(known), size=min(queries, len(known)), replace=False
        )
        by_view[name] = {
            "cosine": float((before * after).sum(axis=1).mean()),
            "overlap": float(neighbour_overlap(before, after, np.sort(rows), k=size).mean()),
            "chance": size / (len(known) - 1),
            "k": size,
            "items": len(known),
            "queries": len(rows),
        }
    return by_view


def neighbour_overlap(
    before: Floats, after: Floats, rows: NDArray[np.integer[Any]], *, k: int
) -> NDArray[np.float64]:
    """Returns the share of the k nearest items before that are among the k nearest after.

    Items equally near to the query on place k are a tie: each stands within with its chance of
    doing so, and the share is its expectation, as in `metrics`.

    Args:
        before: float [N, D], rows of length 1 (or zero).
        after: float [N, E], the same.
        rows: int [Q], the queries.
        k: at most N - 1.

    Returns:
        float64 [Q].
    """
    step = max(1, _MAX_CELLS // len(before))
    shares = [
        (_nearest(before, part, k) * _nearest(after, part, k)).sum(axis=1) / k
        for part in (rows[start : start + step] for start in range(0, len(rows), step))
    ]
    return np.concatenate(shares)


def _nearest(vectors: Floats, rows: NDArray[np.integer[Any]], k: int) -> NDArray[np.float64]:
    """Returns the chance that an item is among the k nearest of each row. float64 [Q, N]."""
    near = np.round((vectors[rows] @ vectors.T).astype(np.float64), _DECIMALS)
    near[np.arange(len(rows)), rows] = -np.inf  # no item is its own neighbour
    last = np.partition(near, -k, axis=1)[:, -k, None]
    above, level = near > last, near == last
    left = k - above.sum(axis=1, keepdims=True)
    return above + level * (left / level.sum(axis=1, keepdims=True))


def unit(vectors: Floats) -> Floats:
    """Returns rows of length 1, float [n, D]; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
