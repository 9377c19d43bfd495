"""Two pictures of what `diagnose` found: who lists the same items, and whose hits are whose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

OVERLAP_FILE, HITS_FILE = "overlap.png", "hits.png"
_PARTS = {"unique_a": "first only", "common": "both", "unique_b": "second only"}
_COLOURS = {"common": "#8a8f98", "unique_a": "#1f6fb4", "unique_b": "#e08a1e"}


def plot_complementarity(found: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Draws the overlap matrix and the hit composition of every pair.

    Args:
        found: what `diagnose` returned, or `diagnostics.json`.
        folder: where to; made if need be.

    Returns:
        The two files, overlap.png and hits.png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {OVERLAP_FILE: _overlap(found), HITS_FILE: _hits(found)}
    for name, figure in figures.items():
        # Without the version that matplotlib writes, the same numbers are the same bytes.
        figure.savefig(folder / name, dpi=120, metadata={"Software": None})
    return [folder / name for name in figures]


def _overlap(found: Mapping[str, Any]) -> Figure:
    names = list(found["systems"])
    matrix = np.eye(len(names))
    for pair in found["pairs"]:
        a, b = names.index(pair["a"]), names.index(pair["b"])
        matrix[a, b] = matrix[b, a] = pair["overlap"]
    side = 2.2 + 0.75 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        colour = "white" if value > 0.55 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_title(f"Overlap of lists: Jaccard@{found['k']}, mean of {found['users']:,} users")
    return figure


def _hits(found: Mapping[str, Any]) -> Figure:
    pairs = found["pairs"]
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(pairs))
    left = np.zeros(len(pairs))
    for part, label in _PARTS.items():
        share = np.array([pair["hits"][part] or 0.0 for pair in pairs])
        axes.barh(rows, share, left=left, color=_COLOURS[part], label=label, height=0.72)
        for row, (start, width) in enumerate(zip(left, share, strict=True)):
            if width > 0.06:
                middle = start + width / 2
                axes.text(middle, row, f"{100 * width:.0f} %", ha="center", va="center", color="w")
        left += share
    words = [f"{p['a']} + {p['b']}  ({p['hits']['all']:,} hits)" for p in pairs]
    axes.set_yticks(rows, words)
    axes.set_ylim(len(pairs) - 0.5, -0.5)  # the first pair on top
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the targets that either finds in its first {found['k']}")
    axes.set_title("Whose hits are whose")
    figure.legend(ncols=3, loc="outside lower center", frameon=False)
    return figure
