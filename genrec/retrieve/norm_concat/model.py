"""The network, the loss and the features of Norm-Concat-Norm; see `norm_concat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genrec.retrieve.lightgcn import light_gcn

_MAX_CELLS = 2**24  # of one block of scores [B, N] in training: 64 MiB


class Vectors(NamedTuple):
    """One forward pass: items [N, 2D] ready to score, users [U, D] and the [N, D] they are made of."""

    items: torch.Tensor
    users: torch.Tensor
    history: torch.Tensor


class Network(nn.Module):
    """Item vectors of both views; `texts` are unit rows, `warm` says who has interactions."""

    graph: torch.Tensor
    block: torch.Tensor
    texts: torch.Tensor
    warm: torch.Tensor

    def __init__(
        self, buffers: Mapping[str, torch.Tensor], *, dim: int, trained_users: bool
    ) -> None:
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        num_users, num_items = self.block.shape
        self.ids = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_items, dim)))
        self.users = None
        if trained_users:
            self.users = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_users, dim)))
        self.linear = nn.Linear(self.texts.shape[1], dim)

    def forward(self, layers: int) -> Vectors:
        """Computes all vectors, by so many layers of LightGCN; see `Vectors`."""
        ids = light_gcn(self.graph, self.block, self.ids, self.users, layers=layers)
        items = joined(ids.items * self.warm, self.semantic(self.texts))
        return Vectors(items, ids.users, ids.history)

    def semantic(self, texts: torch.Tensor) -> torch.Tensor:
        """The linear map of unit features [B, F], zeros where there are none; [B, D]."""
        there = (texts != 0).any(dim=1, keepdim=True)
        return self.linear(texts) * there


def joined(collaborative: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
    """Norm, concat, norm: two [B, D] to unit rows [B, 2D]; a part of zeros stays zeros."""
    parts = [F.normalize(collaborative, dim=1), F.normalize(semantic, dim=1)]
    return F.normalize(torch.cat(parts, dim=1), dim=1)


def hard_info_nce(
    users: torch.Tensor,
    items: torch.Tensor,
    positive: torch.Tensor,
    candidates: torch.Tensor,
    *,
    hard: int,
    temperature: float,
) -> torch.Tensor:
    """InfoNCE over the positive and the `hard` best scored of its candidates, mean over rows.

    Scores [B, N] are computed a block of rows at a time, and again in the backward pass.

    Args:
        users: float [B, E].
        items: float [N, E].
        positive: int64 [B].
        candidates: int64 [B, C]; the positive among them does not count as a negative.
        hard: negatives used, up to C.
        temperature: tau.
    """
    rows = max(1, _MAX_CELLS // len(items))
    total = users.new_zeros(())
    for start in range(0, len(users), rows):
        part = slice(start, start + rows)
        total = total + checkpoint(
            _block_loss,
            users[part],
            items,
            positive[part],
            candidates[part].to(users.device),
            hard,
            temperature,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total / len(users)


def _block_loss(
    users: torch.Tensor,
    items: torch.Tensor,
    positive: torch.Tensor,
    candidates: torch.Tensor,
    hard: int,
    temperature: float,
) -> torch.Tensor:
    scores = users @ items.T
    drawn = scores.gather(1, candidates)
    drawn = drawn.masked_fill(candidates == positive[:, None], -torch.inf)
    negative = drawn.topk(min(hard, drawn.shape[1]), dim=1).values
    logits = torch.cat([scores.gather(1, positive[:, None]), negative], dim=1) / temperature
    return -logits.log_softmax(dim=1)[:, 0].sum()
