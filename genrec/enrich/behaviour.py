"""The behaviour view: which items occur together, in training sequences only.

With it SIDs hold a collaborative signal in addition to the content, the idea of LETTER (arXiv
2405.07314) and EAGER (arXiv 2406.14017), here without a trained recommender: an SVD of PPMI, which is
what skip-gram item embeddings factorise (Levy and Goldberg, NeurIPS 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from sklearn.decomposition import TruncatedSVD
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]


def behaviour_view(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    dim: int = 64,
    window: int = 5,
    seed: int = 0,
) -> Floats:
    """Returns item vectors from co-occurrence: truncated SVD of the PPMI matrix.

    Two items of one sequence, i places apart (i <= window), count 1/i. PPMI(a, b) =
    max(0, log(c(a, b) c(*, *) / (c(a, *) c(*, b)))). Vectors are U sqrt(S), which weighs the factors
    better than U S (Levy, Goldberg and Dagan, TACL 2015).

    Args:
        train_sequences: item rows, oldest first. Never give it validation or test targets.
        num_items: N.
        dim: at most N - 1 factors carry anything; the rest of `dim` is zeros.
        window: largest distance that counts.
        seed: of the solver's start vector.

    Returns:
        float32 [N, dim]; zeros for items without a neighbour in training. The same seed gives the
        same bytes unless two factors are exactly equally strong, as only toy data has them.

    Raises:
        ValueError: an item outside [0, N), or no two items ever stand together.
    """
    counts = _cooccurrence(train_sequences, num_items, window)
    if not counts.nnz:
        raise ValueError(
            f"no two items occur together in the {len(train_sequences)} training sequences; "
            "leave the behaviour view out"
        )
    factors = min(dim, num_items - 1)
    svd = TruncatedSVD(factors, algorithm="arpack", random_state=seed)
    with threadpool_limits(1):  # BLAS sums in another order with another number of threads
        scaled = svd.fit_transform(_ppmi(counts))  # U S
    root = np.sqrt(svd.singular_values_)
    out = np.zeros((num_items, dim), dtype=np.float32)
    out[:, :factors] = np.divide(scaled, root, out=np.zeros_like(scaled), where=root > 1e-6)
    out[np.asarray(counts.sum(axis=1)).ravel() == 0] = 0  # the solver leaves dust there
    return out


def _cooccurrence(sequences: Sequence[Sequence[int]], num_items: int, window: int) -> csr_array:
    """Returns symmetric counts c(a, b), weighted 1/distance, without the diagonal. [N, N]."""
    lengths = [len(sequence) for sequence in sequences]
    flat = np.fromiter((item for s in sequences for item in s), dtype=np.int64, count=sum(lengths))
    if len(flat) and (flat.min() < 0 or flat.max() >= num_items):
        raise ValueError(
            f"training sequences hold items {flat.min()} to {flat.max()}, "
            f"expected rows in [0, {num_items})"
        )
    owner = np.repeat(np.arange(len(sequences)), lengths)
    rows, columns, weights = [], [], []
    for distance in range(1, window + 1):
        left, right = flat[:-distance], flat[distance:]
        together = (owner[:-distance] == owner[distance:]) & (left != right)
        rows.append(left[together])
        columns.append(right[together])
        weights.append(np.full(int(together.sum()), 1 / distance))
    pairs = (np.concatenate(rows), np.concatenate(columns))
    one_way = coo_array((np.concatenate(weights), pairs), shape=(num_items, num_items)).tocsr()
    return (one_way + one_way.T).tocsr()


def _ppmi(counts: csr_array) -> csr_array:
    total = counts.sum()
    of_item = np.asarray(counts.sum(axis=1)).ravel()
    cells = counts.tocoo()
    row, column = cells.coords
    values = np.log(cells.data * total / (of_item[row] * of_item[column]))
    ppmi = coo_array((np.maximum(values, 0), (row, column)), shape=counts.shape).tocsr()
    ppmi.eliminate_zeros()
    return ppmi
