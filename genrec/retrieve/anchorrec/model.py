"""The network of AnchorRec (arXiv 2603.12726): LightGCN on ids, a gated branch per view, heads apart.

Alignment happens in the heads' space and not in the one that scores. Our own: raw features are cloned,
because the published code lets its targets drift with the trained copy that shares their storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from genrec.retrieve.lightgcn import Spread, light_gcn, sparse

DECODER_WEIGHT = 5e-4
_SCORED = ("multimodal", "text")  # the image's branch is trained but never scored, as published
_MAX_CELLS = 2**24


class Vectors(NamedTuple):
    """What one forward pass computes; `views` and `view_users` are empty without views.

    Attributes:
        users: float [U, d], final.
        items: float [N, d], final.
        ids: C_u, C_i, and what makes C_u of any history; see `Spread`.
        views: float [N, d] by view, S_m.
        view_users: float [U, d] of the scored views, U_m.
        decoded: float [N, d], the decoder's term with its weight.
    """

    users: torch.Tensor
    items: torch.Tensor
    ids: Spread
    views: dict[str, torch.Tensor]
    view_users: dict[str, torch.Tensor]
    decoded: torch.Tensor


class AnchorRecModule(nn.Module):
    """All vectors of all users and items, from ids and frozen graphs.

    Args:
        graph: sparse float [U + N, U + N], from `normalised_graph`.
        block: sparse float [U, N], its upper right part.
        features: float32 [N, D_m] by view: "multimodal" and "text", perhaps "image"; or none at all.
        dim: d.
        id_layers: layers of LightGCN.
        view_layers: propagation steps over each item-item graph.
        neighbours: edges per item of these graphs, the item itself among them.
        trained_users: users have vectors of their own; else layer 0 is the block times the items'.
    """

    graph: torch.Tensor
    block: torch.Tensor

    def __init__(
        self,
        graph: torch.Tensor,
        block: torch.Tensor,
        features: Mapping[str, torch.Tensor],
        *,
        dim: int,
        id_layers: int,
        view_layers: int,
        neighbours: int,
        trained_users: bool,
    ) -> None:
        super().__init__()
        num_users, num_items = block.shape
        self.id_layers, self.view_layers = id_layers, view_layers
        self.names = tuple(features)
        self.register_buffer("graph", graph, persistent=False)
        self.register_buffer("block", block, persistent=False)
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, dim)))
        self.users = None
        if trained_users:
            self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_users, dim)))
        for name, raw in features.items():
            self.register_buffer(f"raw_{name}", raw.clone(), persistent=False)
            self.register_buffer(f"near_{name}", knn_graph(raw, neighbours), persistent=False)
        self.features = nn.ParameterDict({n: nn.Parameter(x.clone()) for n, x in features.items()})
        self.linear = nn.ModuleDict({n: nn.Linear(x.shape[1], dim) for n, x in features.items()})
        self.gate = nn.ModuleDict({name: nn.Linear(dim, dim) for name in features})
        widths = {n: x.shape[1] for n, x in features.items() if n != "multimodal"}
        widths |= {"id": dim, "multimodal": dim, "decoder": dim}
        self.heads = nn.ModuleDict(
            {n: _head(w, dim) for n, w in widths.items()} if features else {}
        )

    def raw(self, name: str) -> torch.Tensor:
        """The features of a view as they came, float [N, D_m]: targets, and the heads' input."""
        return self.get_buffer(f"raw_{name}")

    def near(self, name: str) -> torch.Tensor:
        """The item-item graph of a view, sparse float [N, N]."""
        return self.get_buffer(f"near_{name}")

    def forward(self) -> Vectors:
        """Computes every vector; see `Vectors`."""
        ids = light_gcn(self.graph, self.block, self.items, self.users, layers=self.id_layers)
        views = {name: self._branch(name) for name in self.names}
        view_users = {n: torch.sparse.mm(self.block, views[n]) for n in _SCORED if n in views}
        decoded = torch.zeros_like(ids.items)
        if views:
            heads = self.heads
            decoded = DECODER_WEIGHT * heads["decoder"](heads["multimodal"](views["multimodal"]))
        return Vectors(
            users=sum(view_users.values(), ids.users),
            items=sum((views[n] for n in view_users), ids.items) + decoded,
            ids=ids,
            views=views,
            view_users=view_users,
            decoded=decoded,
        )

    def _branch(self, name: str) -> torch.Tensor:
        """S_m: ids gated by the view's features, spread over its graph; the last step only."""
        projected = self.linear[name](self.features[name])
        spread = self.items * torch.sigmoid(self.gate[name](projected))
        for _ in range(self.view_layers):
            spread = torch.sparse.mm(self.near(name), spread)
        return spread


def knn_graph(features: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Returns the frozen item-item graph of a view: D^-1/2 A D^-1/2, A the cosines of the nearest.

    Directed; D holds the row sums. Every item is a neighbour of its own. Ours: negative cosines are no
    edges, for a row sum below zero has no root; so an item without the view (a row of zeros) has its own
    edge only.

    Args:
        features: float [N, D].
        neighbours: k, edges per item at most.

    Returns:
        Sparse float32 [N, N].
    """
    unit = functional.normalize(features, dim=1)
    count = len(unit)
    value, item = [], []
    step = max(1, _MAX_CELLS // max(1, count))
    for start in range(0, count, step):
        cosine = unit[start : start + step] @ unit.T
        own = torch.arange(len(cosine))
        cosine[own, own + start] = 2.0  # first, among exact copies too
        best = cosine.topk(min(neighbours, count), dim=1)
        value.append(best.values)
        item.append(best.indices)
    weight, column = torch.cat(value).clamp(0.0, 1.0), torch.cat(item)
    root = weight.sum(dim=1).rsqrt()
    weight = weight * root[:, None] * root[column]
    row, place = torch.nonzero(weight, as_tuple=True)
    edges = weight[row, place]
    return sparse(row.numpy(), column[row, place].numpy(), edges.numpy(), (count, count))


def _head(width: int, dim: int) -> nn.Sequential:
    head = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return head
