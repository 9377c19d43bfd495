"""The propagation of LightGCN (He et al., SIGIR 2020): users and items as one graph, no weights.

Users are rows 0..U-1 in the order of the sequences, items the N rows after them. A pair counts once,
however often it occurs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from genrec.retrieve.sequences import IntArray, Sequences, flatten


class Spread(NamedTuple):
    """What LightGCN makes of ids.

    Attributes:
        users: float [U, D], mean of the layers.
        items: float [N, D], mean of the layers.
        history: float [N, D]: the user-item block times this is `users`, for users outside training too;
            with users of their own vectors, it is them without layer 0.
    """

    users: torch.Tensor
    items: torch.Tensor
    history: torch.Tensor


def distinct_pairs(
    sequences: Sequences, num_items: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns user and item of every distinct interaction, int64 [E] each, sorted by both.

    Raises:
        ValueError: an item lies outside 0..num_items-1.
    """
    flat = flatten(sequences, num_items=num_items)
    pair = np.unique(flat.row * num_items + flat.item)
    return pair // max(num_items, 1), pair % max(num_items, 1)


def item_degrees(sequences: Sequences, num_items: int) -> npt.NDArray[np.int64]:
    """Returns the number of users that each item occurs with, int64 [N]."""
    return np.bincount(distinct_pairs(sequences, num_items)[1], minlength=num_items)


def history_block(histories: Sequences, degrees: IntArray) -> torch.Tensor:
    """Returns the user-item block of the normalised graph for any histories, seen in training or not.

    Entry (u, i) is 1 / sqrt(n_u * d_i) for an item of history u: n_u is the number of its distinct
    items, d_i the training users of item i, at least 1. For the training sequences themselves, this is
    the block that training used.

    Args:
        histories: B int arrays, may be empty.
        degrees: int [N], from `item_degrees`.

    Returns:
        Sparse float32 [B, N].

    Raises:
        ValueError: an item lies outside 0..N-1.
    """
    user, item = distinct_pairs(histories, len(degrees))
    length = np.bincount(user, minlength=len(histories))
    weight = 1 / np.sqrt(length[user] * np.maximum(degrees[item], 1.0))
    return sparse(user, item, weight, (len(histories), len(degrees)))


def normalised_graph(sequences: Sequences, num_items: int) -> torch.Tensor:
    """Returns D^-1/2 A D^-1/2 of the bipartite graph of users and items.

    Args:
        sequences: one int array per user.
        num_items: N; items without interactions are rows of zeros.

    Returns:
        Sparse symmetric float32 [U + N, U + N].

    Raises:
        ValueError: an item lies outside 0..num_items-1.
    """
    block = history_block(sequences, item_degrees(sequences, num_items))
    (user, item), weight = block.indices().numpy(), block.values().numpy()
    item = item + len(sequences)
    nodes = len(sequences) + num_items
    ends, other = np.concatenate([user, item]), np.concatenate([item, user])
    return sparse(ends, other, np.concatenate([weight, weight]), (nodes, nodes))


def light_gcn(
    graph: torch.Tensor,
    block: torch.Tensor,
    items: torch.Tensor,
    users: torch.Tensor | None,
    *,
    layers: int,
) -> Spread:
    """Returns the means of layers 0..L of all users and items.

    Args:
        graph: sparse float [U + N, U + N], from `normalised_graph`.
        block: sparse float [U, N], its upper right part.
        items: float [N, D], layer 0.
        users: float [U, D], layer 0; None makes it the block times the items' (after INMO, Wu et al.,
            SIGIR 2022), so that a user is a history and nothing more.
        layers: L, 1 or more.
    """
    start = torch.sparse.mm(block, items) if users is None else users
    spread = propagated(graph, torch.cat([start, items]), layers)
    mean_users, mean_items = torch.stack(spread).mean(dim=0).split([len(start), len(items)])
    # Layer l of a user is the block times the items of layer l - 1; layer 0 times those of layer 0.
    below = [layer[len(start) :] for layer in spread[:-1]]
    if users is None:
        below.append(items)
    return Spread(mean_users, mean_items, torch.stack(below).sum(dim=0) / len(spread))


def propagated(graph: torch.Tensor, embeddings: torch.Tensor, layers: int) -> list[torch.Tensor]:
    """Returns the embeddings of layers 0..L, each float [U + N, D].

    Args:
        graph: sparse float [U + N, U + N].
        embeddings: float [U + N, D], layer 0.
        layers: L.
    """
    spread = [embeddings]
    for _ in range(layers):
        spread.append(torch.sparse.mm(graph, spread[-1]))
    return spread


def sparse(
    row: IntArray, column: IntArray, values: npt.ArrayLike, shape: tuple[int, int]
) -> torch.Tensor:
    """Returns a coalesced sparse float32 matrix."""
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row, column]).astype(np.int64)),
        torch.from_numpy(np.asarray(values, dtype=np.float32)),
        shape,
        check_invariants=True,
    ).coalesce()
