"""SASRec: causal self-attention over a history, trained on the whole catalogue at every position.

Kang & McAuley 2018, with the cross-entropy over all items that Klenitskiy & Vasilev 2023 found to be
what makes it strong. Ours: a start token before every history, so that a user without one still gets
what users begin with; histories fill rows from the left, so that causal attention alone hides padding.
The block is the authors' own: with torch's pre-norm one, four times as wide inside, NDCG@10 of
Amazon Scientific's validation users was 0.0815 instead of 0.0858, after twice the processor time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from genrec.progress import Progress, silent
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.files import load_retriever, save_retriever, settings_of
from genrec.retrieve.learning import (
    Validation,
    fit_epochs,
    seeded,
    target_measure,
    top_items,
    torch_device,
)
from genrec.retrieve.ranking import flatten
from genrec.retrieve.windows import IGNORED, Window, by_length, collate, windows_of

Floats = npt.NDArray[np.float32]

_MAX_LOGITS = 2**25  # cells of one block of logits: 128 MiB, and as much again for its gradient
_MAX_ROWS = 256  # of one block of histories that are only read


class _Block(nn.Module):
    """Attention and a feed-forward layer of the same width; [B, T, D] to [B, T, D].

    As github.com/kang205/SASRec (`sasrec.py`, `model.py`) has it: queries are normalised and keys are
    not, and each residual carries the normalised state on.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        queries = self.before(x)
        seen, _ = self.attention(queries, x, x, attn_mask=mask, is_causal=True, need_weights=False)
        x = self.between(queries + seen)
        return x + self.feed_forward(x)


class _Network(nn.Module):
    """Tokens [B, T] to states [B, T, D]; token N starts a history and pads it."""

    def __init__(
        self, num_items: int, *, dim: int, layers: int, heads: int, dropout: float, max_length: int
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, dim)
        self.positions = nn.Embedding(max_length + 1, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for table in (self.items, self.positions):  # small, so that first logits are near uniform
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        place = torch.arange(length, device=tokens.device)
        x = self.dropout(self.items(tokens) + self.positions(place))  # [B, T, D]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    @property
    def catalogue(self) -> torch.Tensor:
        """The tied item embeddings, [N, D]."""
        return self.items.weight[:-1]


@dataclass(kw_only=True)
class SASRec:
    """Scores the next item by the state of a causal transformer times the item's own embedding.

    Attributes:
        dim: D, width of embeddings and blocks.
        layers: blocks.
        heads: attention heads per block; divides `dim`.
        dropout: on embeddings and inside blocks.
        max_length: newest items of a history that are read; longer training sequences are cut into
            windows of this length, so that every interaction is a target once.
        epochs: at most.
        patience: epochs without a gain on `valid` before stopping.
        batch_size: sequences (windows) per step.
        lr: of AdamW.
        weight_decay: of AdamW.
        valid_users: at most so many validation users are measured per epoch.
        seed: of weights, dropout and order.
        device: "auto", "cpu" or "cuda".
        network_: the trained module; set by `fit`.
        log_: loss and validation NDCG@10 per epoch; set by `fit`.
    """

    kind = "sasrec"
    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.4
    max_length: int = 50
    epochs: int = 100
    patience: int = 8
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    valid_users: int = 5000
    seed: int = 0
    device: str = "auto"
    network_: _Network = field(init=False, repr=False)
    log_: list[dict[str, float]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        counts = ("dim", "layers", "heads", "max_length", "epochs", "patience", "batch_size")
        for name in (*counts, "valid_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} is no multiple of heads={self.heads}")
        if not 0 <= self.dropout < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"dropout={self.dropout}, lr={self.lr}, weight_decay={self.weight_decay}: expected "
                "a dropout of 0 up to below 1, lr above 0 and weight_decay of 0 or more"
            )

    def fit(
        self,
        sequences: Sequences,
        *,
        num_items: int,
        valid: Validation | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Trains on every position of every sequence; see `Retriever.fit`.

        Args:
            sequences: as in `Retriever.fit`.
            num_items: N.
            valid: chooses the epoch by NDCG@10, seen items masked; without it the last one stays.
            progress: told how many epochs are done.

        Raises:
            ValueError: an item lies outside 0..N-1, there are no interactions, or `valid` is bad.
            FloatingPointError: the loss is not finite.
        """
        if not len(flatten(sequences, num_items=num_items).item):
            raise ValueError("sasrec: no training interactions; expected one sequence with an item")
        arrays = [np.asarray(s, dtype=np.int64).reshape(-1) for s in sequences]
        windows = [w for s in arrays for w in windows_of(s, self.max_length, start=num_items)]
        device = torch_device(self.device)
        with seeded(self.seed, device):
            network = self._make(num_items).to(device)
            measure = None
            if valid is not None:
                measure = target_measure(
                    lambda histories: self._score(network, histories),
                    valid,
                    num_items=num_items,
                    users=self.valid_users,
                    seed=self.seed,
                )
            self.log_ = fit_epochs(
                network,
                self._epoch(network, windows),
                measure,
                epochs=self.epochs,
                patience=self.patience,
                step="sasrec: fit",
                progress=progress,
            )
        self.network_ = network
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks by logit, equal ones by item number; see `Retriever.recommend`."""
        network = self._fitted()
        return top_items(
            lambda part: self._score(network, histories[part]),
            histories,
            num_items=len(network.catalogue),
            k=k,
            exclude_seen=exclude_seen,
            step="sasrec: recommend",
            progress=progress,
        )

    @torch.no_grad()
    def collaborative(self, histories: Sequences) -> tuple[Floats, Floats]:
        """Returns vectors whose inner products are the scores: float32 [B, D] and [N, D]."""
        network = self._fitted()
        # Item N would pass for the start token.
        flatten(histories, num_items=len(network.catalogue))
        return self._states(network, histories).cpu().numpy(), network.catalogue.cpu().numpy()

    def save(self, folder: str | Path) -> None:
        """Writes settings and weights; see `Retriever.save`."""
        state = self._fitted().state_dict()
        arrays = {name: tensor.cpu().numpy() for name, tensor in state.items()}
        save_retriever(folder, self.kind, settings=settings_of(self), arrays=arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        network = self._make(len(arrays["items.weight"]) - 1)
        network.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
        self.network_ = network.to(torch_device(self.device)).eval()
        return self

    def _fitted(self) -> _Network:
        network: _Network | None = getattr(self, "network_", None)
        if network is None:
            raise ValueError("this SASRec is not fitted; call fit() first")
        return network

    def _make(self, num_items: int) -> _Network:
        return _Network(
            num_items,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
            max_length=self.max_length,
        )

    def _epoch(self, network: _Network, windows: list[Window]) -> Callable[[int], float]:
        """Returns what trains one epoch and gives its mean loss per target."""
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )

        lengths = np.array([len(w.inputs) for w in windows])

        def train(epoch: int) -> float:
            rng = np.random.default_rng([self.seed, epoch])
            total, targets = torch.zeros((), device=network.items.weight.device), 0
            for batch in by_length(lengths, self.batch_size, rng):
                tokens, labels = collate([windows[i] for i in batch], pad=len(network.catalogue))
                labels = labels.to(total.device)
                states = network(tokens.to(total.device))[labels != IGNORED]  # [M, D]
                loss = full_cross_entropy(states, network.catalogue, labels[labels != IGNORED])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(states)
                targets += len(states)
            return float(total) / targets

        return train

    @torch.no_grad()
    def _score(self, network: _Network, histories: Sequences) -> torch.Tensor:
        """Logits of the item after each history, [B, N]."""
        return self._states(network, histories) @ network.catalogue.T

    def _states(self, network: _Network, histories: Sequences) -> torch.Tensor:
        """The states after each history, [B, D]; blocks of like length, for all are padded to one."""
        newest = [np.asarray(h, dtype=np.int64).reshape(-1)[-self.max_length :] for h in histories]
        order = np.argsort([len(h) for h in newest], kind="stable")
        blocks = np.array_split(order, max(1, -(-len(order) // _MAX_ROWS)))
        found = network.catalogue.new_empty(len(newest), self.dim)
        for rows in blocks:
            if len(rows):
                found[torch.from_numpy(rows)] = _last_states(network, [newest[r] for r in rows])
        return found


def full_cross_entropy(
    states: torch.Tensor, items: torch.Tensor, labels: torch.Tensor, *, max_cells: int = _MAX_LOGITS
) -> torch.Tensor:
    """Mean cross-entropy of `labels` under softmax(states @ items.T), in bounded memory.

    Where [M, N] logits do not fit into `max_cells`, blocks of rows are computed one at a time, and
    again in the backward pass.

    Args:
        states: float [M, D].
        items: float [N, D].
        labels: int64 [M], in 0..N-1.
        max_cells: the most logits held at once.
    """
    rows = max(1, max_cells // len(items))
    if len(states) <= rows:
        return F.cross_entropy(states @ items.T, labels)
    total = states.new_zeros(())
    for part, wanted in zip(states.split(rows), labels.split(rows), strict=True):
        total = total + checkpoint(
            _summed, part, items, wanted, use_reentrant=False, preserve_rng_state=False
        )
    return total / len(states)


def _summed(states: torch.Tensor, items: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(states @ items.T, labels, reduction="sum")


def _last_states(network: _Network, histories: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    """The state after the newest item of each history, [B, D]."""
    start, device = len(network.catalogue), network.items.weight.device
    inputs = [np.concatenate([[start], h]) for h in histories]
    tokens, _ = collate([Window(row, row) for row in inputs], pad=start)
    last = torch.tensor([len(row) - 1 for row in inputs], device=device)
    states = network(tokens.to(device))
    return states[torch.arange(len(inputs), device=device), last]
