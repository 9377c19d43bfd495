"""The views of the items as files, one each, and the one vector of an item that SIDs are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Mapping[str, float | None]

INDEX = "views.json"  # by view: dim, and weight (null: not part of what is quantized)


def unit_rows(view: Floats, *, name: str = "view", item_ids: Sequence[str] | None = None) -> Floats:
    """Returns the rows at length 1; rows of zeros (nothing known of the item) stay zero.

    Args:
        view: float [N, D].
        name: of the view, for the error.
        item_ids: N, for the error; None: rows are named by their number.

    Raises:
        ValueError: NaN or infinity.
    """
    bad = np.flatnonzero(~np.isfinite(view).all(axis=1))
    if len(bad):
        named = "" if item_ids is None else f" (item_id {item_ids[bad[0]]!r})"
        raise ValueError(
            f"view '{name}': NaN or infinity in item {bad[0]}{named}, {len(bad)} items in all; its "
            "model gives no numbers for them: look at their texts or images, or take another model"
        )
    wide = view.astype(np.float64)  # tiny numbers would vanish in float32 before the division
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1)).astype(np.float32)


def late_fusion(views: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """Joins views: each weighted, concatenated in the order of their names.

    With rows of length 1 the squared distance of two items is the weighted sum of their cosine
    distances: w is squared in it.

    Args:
        views: name to float [N, D_v], of `unit_rows`.
        weights: name to weight in [1e-6, 1e6], for exactly the same names.

    Returns:
        float32 [N, sum of D_v].

    Raises:
        ValueError: no view, names or N that do not agree, or another weight.
    """
    if not views or set(views) != set(weights):
        raise ValueError(
            f"late fusion: views {sorted(views)}, weights {sorted(weights)}; expected one weight "
            "for each of at least one view"
        )
    counts = {name: len(view) for name, view in sorted(views.items())}
    if len(set(counts.values())) > 1:
        raise ValueError(f"late fusion: the views differ in their number of items: {counts}")
    for name, weight in weights.items():
        if not 1e-6 <= weight <= 1e6:
            raise ValueError(
                f"late fusion: weight of '{name}' is {weight}, expected 1e-6 to 1e6; leave a view out "
                "instead of giving it no weight"
            )
    parts = [views[name] * np.float32(weights[name]) for name in sorted(views)]
    return np.concatenate(parts, axis=1)


def save_views(
    folder: Path,
    views: Mapping[str, Floats],
    weights: Weights,
    *,
    item_ids: Sequence[str] | None = None,
) -> None:
    """Writes `views/<name>.npy`, rows of length 1, and `views.json`.

    Args:
        folder: where to.
        views: name to float [N, D_v].
        weights: of each in the fusion; None keeps a view out of what is quantized.
        item_ids: N, for the error of a view that is not finite.
    """
    (folder / "views").mkdir(exist_ok=True)
    for name, view in views.items():
        np.save(folder / "views" / f"{name}.npy", unit_rows(view, name=name, item_ids=item_ids))
    index = {name: {"dim": v.shape[1], "weight": weights[name]} for name, v in views.items()}
    text = json.dumps(index, indent=1, sort_keys=True)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def load_views(folder: Path) -> dict[str, Floats]:
    """Returns all views that `save_views` wrote, by name in ascending order: float32 [N, D_v].

    Rows have length 1 as float32 measures it, or are zero.
    """
    views = {}
    for name in sorted(_index(folder)):
        view = _load(folder, name)
        norms = np.linalg.norm(view, axis=1, keepdims=True)
        views[name] = (view / np.where(norms > 0, norms, 1)).astype(np.float32)
    return views


def load_fused(
    folder: Path, weights: Mapping[str, float] | None = None
) -> tuple[Floats, dict[str, int]]:
    """Returns what is quantized, float32 [N, D], and the widths of the views in it, in order.

    Args:
        folder: of the embed stage's artifact.
        weights: of the views to take; None takes all, as the stage weighs them.

    Raises:
        ValueError: a view that the embedding does not have.
    """
    index = _index(folder)
    if weights is None:
        weights = {name: view["weight"] for name, view in index.items() if view["weight"]}
    if unknown := sorted(weights.keys() - index.keys()):
        raise ValueError(
            f"quantize.sets: the embedding has no view {unknown}; expected some of {sorted(index)}"
        )
    views = {name: _load(folder, name) for name in sorted(weights)}
    fused = late_fusion(views, dict(weights))
    return fused, {name: view.shape[1] for name, view in views.items()}


def components(vectors: Floats, dim: int) -> Floats:
    """Returns what is most different among items, of mean square length 1.

    Args:
        vectors: float [N, D], such as the fused views.
        dim: principal components that are kept, as far as there are so many. Each is divided by the
            square root of its deviation: halfway to making all count alike.

    Returns:
        float32 [N, at most dim].
    """
    left, deviations, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    kept = deviations[:dim] > 1e-6 * deviations[0]
    scores = left[:, :dim][:, kept] * np.sqrt(deviations[:dim][kept])
    scores /= np.sqrt(np.square(scores).sum(axis=1).mean())
    return scores.astype(np.float32)


def _load(folder: Path, name: str) -> Floats:
    view: Floats = np.load(folder / "views" / f"{name}.npy", allow_pickle=False)
    return view


def _index(folder: Path) -> dict[str, dict[str, float]]:
    index: dict[str, dict[str, float]] = json.loads((folder / INDEX).read_text("utf-8"))
    return index
