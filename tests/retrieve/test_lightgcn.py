"""The graph and its propagation against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from genrec.retrieve.lightgcn import (
    history_block,
    item_degrees,
    normalised_graph,
    propagated,
)

NUM_ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8), min_size=1, max_size=6)


def dense_graph(sequences: list[list[int]]) -> np.ndarray:
    """The oracle: the adjacency matrix by the book."""
    nodes = len(sequences) + NUM_ITEMS
    a = np.zeros((nodes, nodes))
    for user, sequence in enumerate(sequences):
        for item in sequence:
            a[user, len(sequences) + item] = a[len(sequences) + item, user] = 1
    degree = a.sum(axis=1)
    root = np.divide(1, np.sqrt(degree), out=np.zeros(nodes), where=degree > 0)
    return root[:, None] * a * root


def test_by_hand() -> None:
    # user 0: items 0 and 1 (twice); user 1: item 1. Degrees: users 2, 1; items 1, 2, 0.
    graph = normalised_graph([[1, 0, 1], [1]], 3).to_dense()
    half, root = 0.5, 0.5**0.5
    block = torch.tensor([[root, half, 0], [0, root, 0]])
    torch.testing.assert_close(graph[:2, 2:], block)
    torch.testing.assert_close(graph[2:, :2], block.T)
    assert not graph[:2, :2].any()
    assert not graph[2:, 2:].any()
    layers = propagated(graph.to_sparse(), torch.tensor([[4.0], [0], [0], [0], [0]]), 2)
    mean = torch.stack(layers).mean(dim=0)
    # layer 1: item 0 4 root, item 1 2; layer 2: user 0 4/2 + 2/2 = 3, user 1 2 root.
    torch.testing.assert_close(
        mean[:, 0], torch.tensor([4 + 3, 2 * root, 4 * root, 2, 0]).float() / 3
    )


@settings(max_examples=50, deadline=None)
@given(SEQUENCES, st.integers(0, 3))
def test_as_dense_matrices(sequences: list[list[int]], layers: int) -> None:
    expected = dense_graph(sequences)
    graph = normalised_graph(sequences, NUM_ITEMS)
    np.testing.assert_allclose(graph.to_dense(), expected, atol=1e-6)
    x = np.random.default_rng(0).normal(size=(len(expected), 3))
    powers = [np.linalg.matrix_power(expected, n) @ x for n in range(layers + 1)]
    found = propagated(graph, torch.from_numpy(x).float(), layers)
    assert len(found) == layers + 1
    np.testing.assert_allclose(torch.stack(found), np.stack(powers), atol=1e-5)
    block = history_block(sequences, item_degrees(sequences, NUM_ITEMS)).to_dense()
    np.testing.assert_allclose(block, expected[: len(sequences), len(sequences) :], atol=1e-6)


def test_new_histories_take_training_degrees_of_at_least_one() -> None:
    block = history_block([[0, 2, 2], []], np.array([4, 1, 0])).to_dense()
    root = 0.5**0.5
    torch.testing.assert_close(block, torch.tensor([[root / 2, 0, root], [0, 0, 0]]))


def test_gradient_reaches_the_embeddings() -> None:
    x = torch.randn(2 + 3, 2, dtype=torch.float32, requires_grad=True)
    graph = normalised_graph([[0, 1], [1]], 3)
    torch.stack(propagated(graph, x, 2)).mean(dim=0).square().sum().backward()
    y = x.detach().clone().requires_grad_()
    a = graph.to_dense()
    ((y + a @ y + a @ a @ y) / 3).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_unknown_items_are_named() -> None:
    with pytest.raises(ValueError, match="sequence 1: item 7 is unknown"):
        normalised_graph([[0], [7]], NUM_ITEMS)
