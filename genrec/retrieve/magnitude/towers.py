"""The two towers of `Magnitude`: documents are items' views, queries are histories or free text.

No layer has a bias, so that a view an item does not have (a zero row) adds nothing to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from genrec.retrieve.magnitude.loss import MagnitudeScore, Variant
from genrec.retrieve.sequences import FloatArray
from genrec.retrieve.views import check_view

TEXT = "text"  # the view whose encoder free text is also read by


class Towers(nn.Module):
    """Document and query vectors of width d, before any normalisation, and their score.

    A document is the sum of its views, each by its own linear map or small MLP, over the root of how
    many it has (so that one view more does not by itself mean a larger norm), plus, with a table, a
    vector of its own that starts at zero. A history is the mean of its items' document vectors *as
    scored*, so that an index of them is all that serving needs, weighted by recency, with a learned
    start vector before the oldest item: it is all there is of an empty history. A text goes
    through the documents' text map, so that text finds items even where no text query was trained.
    Both then go through a d x d matrix of their own, the identity at first.

    Args:
        dims: width of each view by name.
        dim: d.
        hidden: width of the MLP's hidden layer; 0 for a linear map.
        variant: of the score.
        num_items: items with a vector of their own; 0 for none.
    """

    scales: Tensor

    def __init__(
        self, dims: Mapping[str, int], *, dim: int, hidden: int, variant: Variant, num_items: int
    ) -> None:
        super().__init__()
        self.names = sorted(dims)
        self.views = nn.ModuleDict({name: _map(dims[name], hidden, dim) for name in self.names})
        self.register_buffer("scales", torch.ones(len(dims)))
        self.table = nn.Embedding(num_items, dim) if num_items else None
        if self.table is not None:
            nn.init.zeros_(self.table.weight)
        self.start = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.history_head = _identity(dim)
        self.text_head = _identity(dim) if TEXT in dims else None
        self.score = MagnitudeScore(variant)

    def measure(self, features: Mapping[str, Tensor]) -> None:
        """Takes each view's mean norm as its unit: one number, so that relative norms stay."""
        for place, name in enumerate(self.names):
            norms = torch.linalg.vector_norm(features[name], dim=1)
            if (norms > 0).any():
                self.scales[place] = norms[norms > 0].mean()

    def documents(self, features: Mapping[str, Tensor], items: Tensor | None = None) -> Tensor:
        """Returns raw document vectors.

        Args:
            features: float [B, D] by view.
            items: int [B], whose own vectors to add; None for items that training did not know.

        Returns:
            float [B, d].
        """
        views = torch.stack([self._view(name, features[name]) for name in self.names])
        there = torch.stack([(features[name] != 0).any(dim=1) for name in self.names])
        vectors = views.sum(dim=0) / there.sum(dim=0).clamp_min(1).sqrt()[:, None]
        if self.table is not None and items is not None:
            vectors = vectors + self.table(items)
        return vectors

    def histories(self, vectors: Tensor, there: Tensor, *, decay: float) -> Tensor:
        """Returns raw query vectors of histories.

        Args:
            vectors: float [B, R, d], document vectors as scored, newest first.
            there: bool [B, R], False after a history's oldest item.
            decay: weight of an item one step older than the next.

        Returns:
            float [B, d].
        """
        steps = torch.arange(there.shape[1], device=there.device)
        weights = decay**steps * there
        start = decay ** there.sum(dim=1, keepdim=True)
        total = (weights.unsqueeze(1) @ vectors).squeeze(1) + start * self.start
        return self.history_head(total / (weights.sum(dim=1, keepdim=True) + start))

    def texts(self, vectors: Tensor) -> Tensor:
        """Returns raw query vectors of texts. float [B, D] -> [B, d]."""
        assert self.text_head is not None, "checked before: there is a text view"
        return self.text_head(self._view(TEXT, vectors))

    def _view(self, name: str, x: Tensor) -> Tensor:
        return self.views[name](x / self.scales[self.names.index(name)])


def _map(width: int, hidden: int, dim: int) -> nn.Module:
    """A linear map, orthogonal at first: it begins with the encoder's own similarities."""
    sizes = [width, hidden, dim] if hidden else [width, dim]
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layer = nn.Linear(sizes[i], sizes[i + 1], bias=False)
        nn.init.orthogonal_(layer.weight)
        layers += [nn.GELU(), layer] if i else [layer]
    return nn.Sequential(*layers)


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def check_views(
    features: Mapping[str, FloatArray], *, dims: Mapping[str, int] | None = None, num_items: int
) -> dict[str, np.ndarray]:
    """Returns the views as float32 arrays.

    Args:
        features: [N, D] by view.
        dims: the widths to expect; None takes any.
        num_items: N.

    Raises:
        ValueError: no view, or one whose shape does not fit, or NaN or infinity (names view and item).
    """
    if not features or (dims is not None and set(features) != set(dims)):
        expected = "at least one, such as text" if dims is None else sorted(dims)
        raise ValueError(f"features are {sorted(features)}: expected {expected}")
    if bad := [name for name in features if "." in name or not name]:
        raise ValueError(f"features['{bad[0]}']: expected a name without dots")
    widths = dims or {}
    return {
        name: check_view(name, values, num_items=num_items, width=widths.get(name))
        for name, values in sorted(features.items())
    }


def check_texts(vectors: FloatArray, *, dims: Mapping[str, int], name: str) -> np.ndarray:
    """Returns text vectors as a float32 array [n, D].

    Raises:
        ValueError: there is no text view, another width than its own, NaN or infinity.
    """
    if TEXT not in dims:
        raise ValueError(f"{name}: text queries need a '{TEXT}' view; there are {sorted(dims)}")
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dims[TEXT]:
        raise ValueError(
            f"{name} are {array.shape}: expected (n, {dims[TEXT]}), by the encoder of the text view"
        )
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ValueError(f"{name}, row {int(np.argmax(bad))}: NaN or infinity")
    return array
