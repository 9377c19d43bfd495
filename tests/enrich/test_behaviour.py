"""PPMI against a plain loop, and items that are used together end up together."""

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.enrich.behaviour import _cooccurrence, _ppmi, behaviour_view


def ppmi_by_loops(sequences, num_items, window):
    counts = defaultdict(float)
    for sequence in sequences:
        for i, a in enumerate(sequence):
            for j, b in enumerate(sequence):
                if i != j and abs(i - j) <= window and a != b:
                    counts[a, b] += 1 / abs(i - j)
    of_item, total = defaultdict(float), sum(counts.values())
    for (a, _), count in counts.items():
        of_item[a] += count
    out = np.zeros((num_items, num_items))
    for (a, b), count in counts.items():
        out[a, b] = max(0.0, math.log(count * total / (of_item[a] * of_item[b])))
    return out


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=6), st.integers(1, 7))
def test_ppmi_equals_loops(sequences, window):
    counts = _cooccurrence(sequences, 6, window)
    expected = ppmi_by_loops(sequences, 6, window)
    found = _ppmi(counts).toarray() if counts.nnz else np.zeros((6, 6))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_counts_by_hand():
    counts = _cooccurrence([[0, 1, 2], [1, 0]], 4, 2).toarray()
    # 0 and 1 are neighbours twice; 0 and 2 are two apart; nothing crosses from user to user.
    assert counts.tolist() == [[0, 2, 0.5, 0], [2, 0, 1, 0], [0.5, 1, 0, 0], [0, 0, 0, 0]]


def groups(seed):
    """Users who stay in one of two groups of ten items."""
    rng = np.random.default_rng(seed)
    return [rng.choice(10, 6, replace=False) + 10 * (user % 2) for user in range(80)]


def test_items_of_one_group_lie_together():
    vectors = behaviour_view([list(s) for s in groups(0)], 21, dim=4)
    assert vectors.shape == (21, 4)
    assert vectors.dtype == np.float32
    assert not vectors[20].any()  # never seen in training
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    cosines = unit @ unit.T
    same = np.arange(20)[:, None] // 10 == np.arange(20) // 10
    assert cosines[same].mean() > 0.5
    assert abs(cosines[~same]).mean() < 0.2


def test_factors_rebuild_the_matrix():
    sequences = [list(s) for s in groups(1)]
    ppmi = _ppmi(_cooccurrence(sequences, 20, 5)).toarray()
    values, axes = np.linalg.eigh(ppmi)  # symmetric: singular values are |eigenvalues|
    kept = np.argsort(-abs(values))[:3]
    gram = axes[:, kept] * abs(values[kept]) @ axes[:, kept].T
    vectors = behaviour_view(sequences, 20, dim=3).astype(np.float64)
    np.testing.assert_allclose(vectors @ vectors.T, gram, atol=1e-4)


def test_same_seed_same_bytes_and_few_items_are_padded():
    sequences = [[0, 1, 2], [2, 1], [1, 0, 2, 1], []]  # no two factors equally strong
    one, two = (behaviour_view(sequences, 4, dim=16, seed=3) for _ in range(2))
    assert one.tobytes() == two.tobytes()
    assert one.shape == (4, 16)
    assert not one[:, 3:].any()


def test_nothing_together_and_unknown_items_are_refused():
    with pytest.raises(ValueError, match="no two items occur together in the 2 training"):
        behaviour_view([[0], [1, 1]], 3)
    with pytest.raises(ValueError, match=r"items 0 to 3, expected rows in \[0, 3\)"):
        behaviour_view([[0, 3]], 3)
