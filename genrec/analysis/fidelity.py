"""How well written texts agree with the true ones, and how well scores tell right from wrong pairs.

Every measure is also taken on shuffled pairs: a text written for one item against the truth of
another. That is what the number would be if the model knew nothing of the item.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.analysis.content import unit

Floats = NDArray[np.floating[Any]]
KS = (1, 10)

_MAX_CELLS = 2**22
_DECIMALS = 6


def fidelity(
    written: Sequence[str],
    vectors: Floats,
    items: NDArray[np.integer[Any]],
    truths: Sequence[str],
    truth_vectors: Floats,
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Compares what was written about some items with the true texts of all.

    Args:
        written: n texts.
        vectors: their embeddings, float [n, D].
        items: int [n], the position of each one's true text in `truths`.
        truths: M texts among which the right one is looked for, by cosine.
        truth_vectors: their embeddings, float [M, D].

    Returns:
        Means over the n texts, and the rank of each one's truth, float64 [n]. `mrr`, `recall@1`,
        `recall@10`: truths with the same text are a tie, scored by expectation (`rank` is its mean
        place); other truths as near as the right one stand before it. `cosine` with the truth,
        `exact` (share equal but for case and white space), `token_f1` (see `token_f1`).
    """
    texts = [normalised(text) for text in truths]
    _, kind, count = np.unique(texts, return_inverse=True, return_counts=True)
    true, generated = unit(truth_vectors), unit(vectors)
    size, cosine = count[kind[items]], np.empty(len(items))
    before = np.empty(len(items), dtype=np.int64)
    step = max(1, _MAX_CELLS // len(truths))
    for start in range(0, len(items), step):
        part = slice(start, start + step)
        near = np.round((generated[part] @ true.T).astype(np.float64), _DECIMALS)
        cosine[part] = near[np.arange(len(near)), items[part]]
        other = kind[None, :] != kind[items[part], None]
        before[part] = ((near >= cosine[part, None]) & other).sum(axis=1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(truths) + 1))])
    pairs = [(text, truths[item]) for text, item in zip(written, items, strict=True)]
    each = {
        "mrr": (harmonic[before + size] - harmonic[before]) / size,
        **{f"recall@{k}": np.clip(k - before, 0, size) / size for k in KS},
        "cosine": cosine,
        "exact": np.array([normalised(a) == normalised(b) for a, b in pairs], dtype=np.float64),
        "token_f1": np.array([token_f1(a, b) for a, b in pairs]),
    }
    return {name: float(value.mean()) for name, value in each.items()}, before + (size + 1) / 2


def separation(right: Sequence[float], shuffled: Sequence[float]) -> dict[str, float | int]:
    """Says how well a judge's scores tell right pairs from shuffled ones: the judge, measured.

    Args:
        right: scores of right pairs, at least one.
        shuffled: scores of shuffled pairs, at least one.

    Returns:
        `right` and `shuffled` (means), `auc` (the chance that a right pair scores above a shuffled
        one, ties half; 0.5 says that the judge cannot tell) and `pairs` (right ones).
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    labels = [1] * len(right) + [0] * len(shuffled)
    return {
        "right": float(np.mean(right)),
        "shuffled": float(np.mean(shuffled)),
        "auc": float(roc_auc_score(labels, [*right, *shuffled])),
        "pairs": len(right),
    }


def shuffled(count: int, *, seed: int) -> NDArray[np.int64]:
    """Returns a seeded partner for each of 0..count-1, never oneself (where there are two)."""
    order = np.random.default_rng([seed, count]).permutation(count)
    partners = np.empty_like(order)
    partners[order] = np.roll(order, -1)
    return partners


def normalised(text: str) -> str:
    """Returns a text without differences of case and white space."""
    return " ".join(text.casefold().split())


def token_f1(written: str, truth: str) -> float:
    """Returns the F1 of the words that two texts share, as often as both have them (SQuAD's).

    Words are runs of letters and digits, without case. Two texts without any word agree.
    """
    ours, theirs = (Counter(re.findall(r"\w+", text.casefold())) for text in (written, truth))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())
