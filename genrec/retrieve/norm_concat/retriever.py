"""Norm-Concat-Norm (arXiv 2604.22195): two views side by side, each at unit length, never aligned.

Collaborative: LightGCN over item vectors. Semantic: one linear map of frozen item features. Both parts
are L2-normalised, joined and normalised again, so a score is half the sum of two cosines. Ours: users
are made from their histories, so that anybody with a history gets a list; and what has no part in a view
(an item without text, an item without interactions) has zeros there instead of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch.nn import functional as F

from genrec.progress import Progress, silent
from genrec.retrieve.base import FloatArray, Ranked, Sequences
from genrec.retrieve.features import check_view
from genrec.retrieve.files import load_retriever, save_retriever, settings_of
from genrec.retrieve.learning import (
    Validation,
    batches,
    fit_epochs,
    seeded,
    taken,
    target_measure,
    top_items,
    torch_device,
)
from genrec.retrieve.lightgcn import (
    distinct_pairs,
    history_block,
    item_degrees,
    normalised_graph,
)
from genrec.retrieve.linear import binary
from genrec.retrieve.norm_concat.model import (
    Floats,
    Network,
    Vectors,
    hard_info_nce,
    joined,
    unit_rows,
)
from genrec.retrieve.ranking import chunks, flatten

_ROUNDING = 1e-5  # sums of unit rows below this length are nothing but rounding


@dataclass(kw_only=True)
class NormConcat:
    """Scores by half the sum of a collaborative and a semantic cosine (papers.md 4.5).

    Trained by InfoNCE of user and item over the hardest of random negatives; other items that the
    user has may be among them, as published.

    Attributes:
        view: the name in `features` that the semantic part takes.
        dim: D, width of each of the two parts.
        layers: of LightGCN.
        temperature: tau.
        candidates: uniform negatives drawn per positive.
        hard: how many of them, the best scored, are used.
        user_vectors: "history" makes a user of the items' vectors in training as in `recommend`;
            "trained" also gives each training user a vector of its own, as published, which
            `recommend` has to leave out.
        leave_out: takes the positive out of the history that a training user is made of, so that the
            user is not recognised by the answer. Ours; the published code keeps it.
        epochs: at most.
        patience: epochs without a gain on `valid` before stopping.
        batch_size: pairs per step.
        lr: of AdamW.
        weight_decay: of AdamW.
        valid_users: at most so many validation users are measured per epoch.
        seed: of weights, negatives and order.
        device: "auto", "cpu" or "cuda".
        arrays_: what was learned, by name; set by `fit`.
        log_: loss and validation recall@20 per epoch; set by `fit`.
    """

    kind = "norm_concat"
    view: str = "text"
    dim: int = 64
    layers: int = 2
    temperature: float = 0.15
    candidates: int = 512
    hard: int = 256
    user_vectors: Literal["history", "trained"] = "history"
    leave_out: bool = True
    epochs: int = 200
    patience: int = 25
    batch_size: int = 2048
    lr: float = 1e-3
    weight_decay: float = 1e-4
    valid_users: int = 5000
    seed: int = 0
    device: str = "auto"
    arrays_: dict[str, npt.NDArray[Any]] = field(init=False, repr=False)
    log_: list[dict[str, float]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "hard", "epochs", "patience", "batch_size", "valid_users"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.temperature <= 0 or self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"temperature={self.temperature}, lr={self.lr}, weight_decay={self.weight_decay}: "
                "expected temperature and lr above 0 and weight_decay of 0 or more"
            )
        if self.candidates < self.hard:
            raise ValueError(
                f"hard={self.hard} negatives of candidates={self.candidates}: too many"
            )
        if self.user_vectors not in ("history", "trained"):
            raise ValueError(f"user_vectors is {self.user_vectors!r}; expected history or trained")

    def fit(
        self,
        sequences: Sequences,
        *,
        num_items: int,
        features: Mapping[str, FloatArray],
        valid: Validation | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Trains both parts together; see `Retriever.fit`.

        Args:
            sequences: as in `Retriever.fit`.
            num_items: N.
            features: item views by name, float [N, F]; rows of zeros where an item has none.
            valid: chooses the epoch by recall@20, seen items masked; without it the last one stays.
            progress: told how many epochs are done.

        Raises:
            ValueError: an item lies outside 0..N-1, there are no interactions, the view is missing, has
                another shape or numbers that are not finite, or `valid` is bad.
            FloatingPointError: the loss is not finite.
        """
        if self.view not in features:
            raise ValueError(
                f"features hold {sorted(features)}; norm_concat wants the view '{self.view}'"
            )
        texts = unit_rows(check_view(self.view, features[self.view], num_items=num_items))
        pairs = distinct_pairs(sequences, num_items)
        if not len(pairs[0]):
            raise ValueError(
                "norm_concat: no training interactions; expected one sequence with an item"
            )
        degrees = item_degrees(sequences, num_items)
        self.arrays_ = {"degrees": degrees, "texts": texts}
        device = torch_device(self.device)
        with seeded(self.seed, device):
            network = self._network(sequences).to(device)
            matrix = binary(flatten(sequences, num_items=num_items), num_items=num_items)
            self.log_ = fit_epochs(
                network,
                self._epoch(network, pairs, matrix),
                None if valid is None else self._measure(network, valid, num_items),
                epochs=self.epochs,
                patience=self.patience,
                step="norm_concat: fit",
                progress=progress,
            )
            self._keep(network)
        self.arrays_["mean_user"] = self._mean_user(sequences)
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks by score, then item number; an empty history is the mean training user's.

        See `Retriever.recommend`.
        """
        items = torch.from_numpy(self._fitted()["items"]).to(torch_device(self.device))
        return top_items(
            lambda part: torch.from_numpy(self._users(histories[part])).to(items.device) @ items.T,
            histories,
            num_items=len(items),
            k=k,
            exclude_seen=exclude_seen,
            step="norm_concat: recommend",
            progress=progress,
        )

    def collaborative(self, histories: Sequences) -> tuple[Floats, Floats]:
        """Returns the collaborative halves alone: users [B, D] and items [N, D], float32."""
        items = self._fitted()["items"]
        width = items.shape[1] // 2
        return self._users(histories)[:, :width], items[:, :width]

    def save(self, folder: str | Path) -> None:
        """Writes settings and vectors; see `Retriever.save`."""
        save_retriever(folder, self.kind, settings=settings_of(self), arrays=self._fitted())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        self.arrays_ = arrays
        return self

    def _network(self, sequences: Sequences) -> Network:
        degrees = self.arrays_["degrees"]
        buffers = {
            "graph": normalised_graph(sequences, len(degrees)),
            "block": history_block(sequences, degrees),
            "texts": torch.from_numpy(self.arrays_["texts"]),
            "warm": torch.from_numpy(degrees > 0).float()[:, None],
        }
        return Network(buffers, dim=self.dim, trained_users=self.user_vectors == "trained")

    def _fitted(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = getattr(self, "arrays_", {})
        if "mean_user" not in arrays:  # the last that `fit` learns
            raise ValueError("this NormConcat is not fitted; call fit() first")
        return arrays

    @torch.no_grad()
    def _keep(self, network: Network) -> None:
        """Takes over the vectors that the network now gives."""
        found = network(self.layers)
        learned = {
            "items": found.items,
            "history": found.history,
            "weight": network.linear.weight,
            "bias": network.linear.bias,
        }
        self.arrays_ |= {name: x.detach().cpu().numpy().copy() for name, x in learned.items()}

    @torch.no_grad()
    def _users(self, histories: Sequences) -> Floats:
        """The vectors of any users, float32 [B, 2D]."""
        have = {
            name: torch.from_numpy(self.arrays_[name]) for name in ("history", "weight", "bias")
        }
        block = history_block(histories, self.arrays_["degrees"])
        num_items = len(self.arrays_["degrees"])
        rows = binary(flatten(histories, num_items=num_items), num_items=num_items)
        texts = torch.from_numpy(unit_rows(rows @ self.arrays_["texts"], least=_ROUNDING))
        semantic = F.linear(texts, have["weight"], have["bias"]) * (texts != 0).any(1, keepdim=True)
        users = joined(torch.sparse.mm(block, have["history"]), semantic).numpy()
        if "mean_user" in self.arrays_:
            users[np.diff(rows.indptr) == 0] = self.arrays_["mean_user"]
        return users

    def _mean_user(self, sequences: Sequences) -> Floats:
        """The mean vector of the users that have a history, float32 [2D]."""
        warm = [s for s in sequences if np.size(s)]
        parts = chunks(len(warm), len(self.arrays_["degrees"]))
        total = sum(self._users(warm[part]).sum(axis=0, dtype=np.float64) for part in parts)
        return np.asarray(total / len(warm), dtype=np.float32)

    def _measure(self, network: Network, valid: Validation, num_items: int) -> Callable[[], float]:
        """Recall@20 of the vectors that the network gives when it is called."""

        def score(histories: Sequences) -> torch.Tensor:
            items = torch.from_numpy(self.arrays_["items"]).to(network.ids.device)
            return torch.from_numpy(self._users(histories)).to(items.device) @ items.T

        measure = target_measure(
            score,
            valid,
            num_items=num_items,
            users=self.valid_users,
            seed=self.seed,
            k=20,
            metric="recall",
        )

        def measured() -> float:
            self._keep(network)
            return measure()

        return measured

    def _epoch(
        self,
        network: Network,
        pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        matrix: sparse.csr_array,
    ) -> Callable[[int], float]:
        """Returns what trains one epoch over all distinct pairs and gives its mean loss."""
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        device, num_items = network.ids.device, len(self.arrays_["degrees"])

        def train(epoch: int) -> float:
            rng, total = np.random.default_rng([self.seed, epoch]), torch.zeros((), device=device)
            for batch in batches(len(pairs[0]), self.batch_size, rng):
                user, item = pairs[0][batch], pairs[1][batch]
                found = network(self.layers)
                loss = hard_info_nce(
                    self._training_users(network, found, matrix, user, item),
                    found.items,
                    torch.from_numpy(item).to(device),
                    torch.from_numpy(rng.integers(num_items, size=(len(item), self.candidates))),
                    hard=self.hard,
                    temperature=self.temperature,
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(item)
            return float(total) / len(pairs[0])

        return train

    def _training_users(
        self,
        network: Network,
        found: Vectors,
        matrix: sparse.csr_array,
        user: npt.NDArray[np.int64],
        item: npt.NDArray[np.int64],
    ) -> torch.Tensor:
        """The vectors of training users as they are set against an item of theirs, float [B, 2D].

        With `leave_out` they are those of the history without that item.
        """
        device, texts = network.ids.device, self.arrays_["texts"]
        collaborative = taken(found.users, torch.from_numpy(user).to(device))
        means = matrix[user] @ texts
        if self.leave_out:
            means = means - texts[item]
            length = matrix.indptr[user + 1] - matrix.indptr[user]
            weight = torch.from_numpy(1 / np.sqrt(length * self.arrays_["degrees"][item])).float()
            own = taken(found.history, torch.from_numpy(item).to(device))
            collaborative = collaborative - weight.to(device)[:, None] * own
            others = torch.from_numpy(length > 1).to(device)[:, None]
            collaborative = collaborative * others  # not rounding, blown up by a norm
        units = torch.from_numpy(unit_rows(means, least=_ROUNDING)).to(device)
        return joined(collaborative, network.semantic(units))
