"""Vectors on their way into indexes and databases: checked and exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

Floats = npt.NDArray[np.float32]


def check_rows(vectors: npt.ArrayLike, *, dim: int, name: str) -> Floats:
    """Returns vectors as a contiguous float32 array [n, d].

    Raises:
        ValueError: another width, NaN or infinity (names the row).
    """
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(
            f"{name} are {rows.shape}; expected (n, {dim}), the width that is held here"
        )
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ValueError(f"{name}, row {int(np.argmax(bad))}: NaN or infinity")
    return rows


def export_vectors(folder: str | Path, vectors: npt.ArrayLike, item_ids: Sequence[str]) -> None:
    """Writes vectors for any vector database.

    vectors.parquet has the columns item (Int64, the row), item_id (String) and vector (a fixed-size
    list of Float32); vectors.npy [N, d] and item_ids.json hold the same, row by row.

    Args:
        folder: where to.
        vectors: float [N, d], as scored (`item_vectors()`).
        item_ids: the owner's ids, N.

    Raises:
        ValueError: not one id per vector, an id repeats, or NaN or infinity.
    """
    shape = np.shape(vectors)
    if len(shape) != 2 or shape[0] != len(item_ids) or len(set(item_ids)) < len(item_ids):
        raise ValueError(f"vectors {shape}, {len(item_ids)} ids: expected one id of its own each")
    rows = check_rows(vectors, dim=shape[1], name="vectors")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "item": pl.Series(np.arange(len(rows)), dtype=pl.Int64),
        "item_id": pl.Series(list(item_ids), dtype=pl.String),
        "vector": pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1])),
    }
    pl.DataFrame(columns).write_parquet(folder / "vectors.parquet")
    np.save(folder / "vectors.npy", rows, allow_pickle=False)
    text = json.dumps(list(item_ids), ensure_ascii=False, indent=0)
    (folder / "item_ids.json").write_text(text + "\n", "utf-8")
