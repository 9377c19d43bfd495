"""Vectors that are computed once and kept: the row cache behind every neural view.

A row's vector must not depend on which other rows were missing, or an interrupted run would differ
from an undisturbed one. Callers therefore compute in batches of one fixed shape per row: in a matrix
product of fixed shape a row's bits do not depend on what the other rows hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, MutableMapping, Sequence

import numpy as np
from numpy.typing import NDArray

from genrec.progress import Progress

Floats = NDArray[np.float32]
Batches = Callable[[list[int]], Iterable[tuple[list[int], Floats]]]


def row_key(*parts: str | bytes) -> str:
    """Returns the cache key of a row: a SHA-256 of all that its vector depends on."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)  # lengths keep ("a", "b") from ("ab")
    return digest.hexdigest()


def cached_rows(
    keys: Sequence[str | None],
    batches: Batches,
    *,
    cache: MutableMapping[str, bytes],
    step: str,
    progress: Progress,
) -> Floats:
    """Returns one vector per key, computing only those that the cache lacks.

    Args:
        keys: one per row; equal keys share a vector, None makes a row of zeros.
        batches: given the rows to compute, yields (rows, float32 [rows, D]) in any order. It is
            called only if something is missing, so that a model need not be loaded in vain.
        cache: key to little-endian float32 bytes. Filled batch by batch, through `put_many` (one
            transaction) where it has that.
        step: the name that `progress` is told.
        progress: counts distinct keys.

    Returns:
        float32 [N, D].

    Raises:
        ValueError: no key at all, or cached vectors of different lengths.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, row)
    if not first:
        raise ValueError(f"{step}: none of the {len(keys)} items has anything to encode")
    blobs = {key: blob for key in first if (blob := cache.get(key)) is not None}
    progress(step, len(blobs), len(first))
    missing = [row for key, row in first.items() if key not in blobs]
    put = getattr(cache, "put_many", cache.update)
    for rows, vectors in batches(missing) if missing else ():
        fresh = {
            str(keys[row]): _to_bytes(vector) for row, vector in zip(rows, vectors, strict=True)
        }
        put(fresh)
        blobs |= fresh
        progress(step, len(blobs), len(first))
    return _assemble(keys, blobs)


def fixed_batches(rows: Sequence[int], size: int) -> Iterable[tuple[list[int], list[int]]]:
    """Yields (rows, filled): the next rows, and the same filled up to `size` by repeating the last.

    Args:
        rows: what to divide.
        size: B, of every batch.
    """
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        yield part, part + [part[-1]] * (size - len(part))


def _to_bytes(vector: Floats) -> bytes:
    return np.asarray(vector, dtype="<f4").tobytes()


def _assemble(keys: Sequence[str | None], blobs: dict[str, bytes]) -> Floats:
    sizes = {len(blob) for blob in blobs.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"the row cache holds vectors of different sizes ({sorted(sizes)} bytes) for one model; "
            "it is damaged: delete the cache file and run again"
        )
    out = np.zeros((len(keys), sizes.pop() // 4), dtype=np.float32)
    for row, key in enumerate(keys):
        if key is not None:
            out[row] = np.frombuffer(blobs[key], dtype="<f4")
    return out
