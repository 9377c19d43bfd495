"""The arithmetic of residual quantization, and what embeddings it takes.

At each level the code nearest to what the levels before have left over (RQ-VAE, arXiv 2203.01941).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_CHUNK = 8192  # rows whose distances to all codes are held in memory at once
_LARGEST = 1e30  # float32 ends at 3e38
_ORDINARY = 16  # exponent: between 2^-16 and 2^16 embeddings are quantized as they come
_FAR = 1e6  # an item so many times larger than the median leaves the others no digits


def check_embeddings(
    embeddings: Floats, *, codes: int | None = None, dim: int | None = None
) -> Floats:
    """Returns the embeddings as contiguous float32 if they can be quantized.

    Args:
        embeddings: expected float [N, D], finite.
        codes: K, for fitting.
        dim: D, where it is known (after fitting).

    Raises:
        ValueError: another shape, NaN or infinity, or values beyond 1e30; when fitting also too few
            items, only values below 1e-30, or an item so far out that all others look alike.
    """
    if embeddings.ndim != 2 or dim not in (None, embeddings.shape[1]):
        raise ValueError(
            f"embeddings: expected [N, {dim or 'D'}], found shape {list(embeddings.shape)}"
        )
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(
            f"embeddings: NaN or infinity in row {bad[0]} ({len(bad)} rows in all); rows are items in "
            "the order of items.parquet"
        )
    sizes = np.abs(embeddings).max(axis=1, initial=0)
    if sizes.max(initial=0) > _LARGEST:
        raise ValueError(
            f"embeddings: row {sizes.argmax()} holds {sizes.max():.3g}; expected at most {_LARGEST:g}. "
            "Rows are items in the order of items.parquet; correct or scale these embeddings"
        )
    if codes is not None:
        _check_fit(sizes, codes)
    return np.ascontiguousarray(embeddings, dtype=np.float32)


def power_of_two(embeddings: Floats) -> float:
    """Returns the power of two to divide by where float32 could not hold squares; else 1.

    Ordinary embeddings are not touched. Of others a power of two changes no digit.

    Args:
        embeddings: float [N, D], finite.
    """
    largest = float(np.abs(embeddings).max(initial=0))
    if largest == 0 or 2.0**-_ORDINARY <= largest <= 2.0**_ORDINARY:
        return 1.0
    return 2.0 ** np.frexp(largest)[1]


def _check_fit(sizes: NDArray[np.floating], codes: int) -> None:
    """Refuses what no codebook can be fitted to.

    Args:
        sizes: float [N], the largest absolute value of each item's embedding.
        codes: K.
    """
    if len(sizes) < codes:
        raise ValueError(
            f"{len(sizes)} items cannot fill a codebook of {codes} codes; "
            f"set quantize.codes to at most {len(sizes)}"
        )
    if not sizes.any():
        return
    if sizes.max() < 1 / _LARGEST:
        raise ValueError(
            f"embeddings: the largest value is {sizes.max():.3g}; expected at least {1 / _LARGEST:g}. "
            "Scale the embeddings"
        )
    usual = float(np.median(sizes[sizes > 0]))
    far = np.flatnonzero(sizes > _FAR * usual)
    if len(far):
        raise ValueError(
            f"embeddings: row {far[0]} holds {sizes[far[0]]:.3g}, over {_FAR:g} times what is usual "
            f"({usual:.3g}; {len(far)} such rows), so that all other items would get one SID. Rows "
            "are items in the order of items.parquet; correct or scale these embeddings"
        )


def squared_distances(z: Floats, codebook: Floats) -> Floats:
    """Returns the squared Euclidean distance of each z to each code. [N, d], [K, d] -> [N, K]."""
    squares = (z**2).sum(axis=1, keepdims=True) + (codebook**2).sum(axis=1)
    return np.maximum(squares - 2 * (z @ codebook.T), np.float32(0))


def nearest_codes(z: Floats, codebooks: Floats) -> Ints:
    """Quantizes greedily, level by level (RQ-VAE, arXiv 2203.01941, equation 2).

    Args:
        z: float32 [N, d].
        codebooks: float32 [L, K, d].

    Returns:
        int32 [N, L]; of equally near codes the lowest.

    Raises:
        ValueError: a z so far out that its distances are no numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.flatnonzero(~np.isfinite((z**2).sum(axis=1)))
    if len(lost):
        raise ValueError(
            f"embeddings: row {lost[0]} ({len(lost)} rows in all) lies so far from those that the "
            "quantizer was fitted to that its distances overflow; expected vectors of the same encoder"
        )
    sids = np.empty((len(z), len(codebooks)), dtype=np.int32)
    for start in range(0, len(z), _CHUNK):
        residual = z[start : start + _CHUNK]
        for level, codebook in enumerate(codebooks):
            nearest = squared_distances(residual, codebook).argmin(axis=1)
            sids[start : start + _CHUNK, level] = nearest
            residual = residual - codebook[nearest]
    return sids


def sum_of_codes(sids: Ints, codebooks: Floats) -> Floats:
    """Returns the sum of each SID's code vectors. [N, l], [L, K, d] -> [N, d], l <= L levels."""
    total = np.zeros((len(sids), codebooks.shape[2]), dtype=np.float32)
    for codes, codebook in zip(sids.T, codebooks[: sids.shape[1]], strict=True):
        total += codebook[codes]
    return total


def distances_on_last_level(z: Floats, sids: Ints, codebooks: Floats) -> Floats:
    """Returns squared distances of what the first L-1 codes leave of z to the last codes. [N, K]."""
    before = sum_of_codes(sids[:, : len(codebooks) - 1], codebooks)
    return squared_distances(z - before, codebooks[-1])


def relative_norms(z: Floats, sids: Ints, codebooks: Floats) -> NDArray[np.float64]:
    """Returns, per level, the root mean square norm of the residual over that of z. float64 [L]."""
    left = [z - sum_of_codes(sids[:, : level + 1], codebooks) for level in range(len(codebooks))]
    energy = [float((residual.astype(np.float64) ** 2).sum()) for residual in (z, *left)]
    return np.sqrt(np.array(energy[1:]) / max(energy[0], np.finfo(np.float64).tiny))
