"""Norm-Concat-Norm (arXiv 2604.22195): two views side by side, each at unit length, never aligned.

Collaborative: LightGCN over item vectors. Semantic: one linear map of frozen item features. Both parts
are L2-normalised, joined and normalised again, so a score is half the sum of two cosines. Ours: users
are made from their histories, so that anybody with a history gets a list; and what has no part in a view
(an item without text, an item without interactions) has zeros there instead of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch.nn import functional as F

from genrec.progress import Progress, silent
from genrec.retrieve.base import Arrays, Retriever
from genrec.retrieve.learning import (
    Floats,
    batches,
    fit_epochs,
    seeded,
    taken,
    target_measure,
    torch_device,
)
from genrec.retrieve.lightgcn import (
    distinct_pairs,
    history_block,
    item_degrees,
    normalised_graph,
)
from genrec.retrieve.linear import binary
from genrec.retrieve.norm_concat.model import Network, Vectors, hard_info_nce, joined
from genrec.retrieve.norm_concat.settings import NormConcatSettings
from genrec.retrieve.sequences import FloatArray, Sequences, Validation, chunks, flatten
from genrec.retrieve.views import check_view, unit_rows

_ROUNDING = 1e-5  # sums of unit rows below this length are nothing but rounding


class NormConcat(Retriever[NormConcatSettings]):
    """Scores by half the sum of a collaborative and a semantic cosine (arXiv 2604.22195).

    Trained by InfoNCE of user and item over the hardest of random negatives; other items that the
    user has may be among them, as published. An empty history is the mean training user's.

    Attributes:
        arrays_: what was learned, by name; set by `fit`.
        log_: loss and validation recall@20 per epoch; set by `fit`.
    """

    arrays_: dict[str, npt.NDArray[Any]]

    def fit(  # type: ignore[override]  # it needs features
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
        settings = self.settings
        if settings.view not in features:
            raise ValueError(
                f"features hold {sorted(features)}; norm_concat wants the view '{settings.view}'"
            )
        texts = unit_rows(check_view(settings.view, features[settings.view], num_items=num_items))
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
                epochs=settings.epochs,
                patience=settings.patience,
                step="norm_concat: fit",
                progress=progress,
            )
            self._keep(network)
        self.arrays_["mean_user"] = self._mean_user(sequences)
        self.num_items_ = num_items
        return self

    def collaborative(self, histories: Sequences) -> tuple[Floats, Floats]:
        """Returns the collaborative halves alone: users [B, D] and items [N, D], float32."""
        self._check_fitted()
        items = self.arrays_["items"]
        width = items.shape[1] // 2
        return self._users(histories)[:, :width], items[:, :width]

    def _scorer(self) -> Callable[[Sequences], torch.Tensor]:
        device = torch_device(self.device)
        items = torch.from_numpy(self.arrays_["items"]).to(device).T
        return lambda histories: torch.from_numpy(self._users(histories)).to(device) @ items

    def _arrays(self) -> Arrays:
        return self.arrays_

    def _restore(self, arrays: Arrays) -> None:
        self.arrays_ = arrays
        self.num_items_ = len(arrays["degrees"])

    def _network(self, sequences: Sequences) -> Network:
        degrees = self.arrays_["degrees"]
        buffers = {
            "graph": normalised_graph(sequences, len(degrees)),
            "block": history_block(sequences, degrees),
            "texts": torch.from_numpy(self.arrays_["texts"]),
            "warm": torch.from_numpy(degrees > 0).float()[:, None],
        }
        trained = self.settings.user_vectors == "trained"
        return Network(buffers, dim=self.settings.dim, trained_users=trained)

    @torch.no_grad()
    def _keep(self, network: Network) -> None:
        """Takes over the vectors that the network now gives."""
        made = network(self.settings.layers)
        learned = {
            "items": made.items,
            "history": made.history,
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
        return target_measure(
            lambda histories: self._scorer()(histories),
            valid,
            num_items=num_items,
            users=self.settings.valid_users,
            seed=self.seed,
            k=20,
            metric="recall",
            before=lambda: self._keep(network),
        )

    def _epoch(
        self,
        network: Network,
        pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        matrix: sparse.csr_array,
    ) -> Callable[[int], float]:
        """Returns what trains one epoch over all distinct pairs and gives its mean loss."""
        settings = self.settings
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        device, num_items = network.ids.device, len(self.arrays_["degrees"])

        def train(epoch: int) -> float:
            rng, total = np.random.default_rng([self.seed, epoch]), torch.zeros((), device=device)
            for batch in batches(len(pairs[0]), settings.batch_size, rng):
                user, item = pairs[0][batch], pairs[1][batch]
                made = network(settings.layers)
                drawn = rng.integers(num_items, size=(len(item), settings.candidates))
                loss = hard_info_nce(
                    self._training_users(network, made, matrix, user, item),
                    made.items,
                    torch.from_numpy(item).to(device),
                    torch.from_numpy(drawn),
                    hard=settings.hard,
                    temperature=settings.temperature,
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
        made: Vectors,
        matrix: sparse.csr_array,
        user: npt.NDArray[np.int64],
        item: npt.NDArray[np.int64],
    ) -> torch.Tensor:
        """The vectors of training users as they are set against an item of theirs, float [B, 2D].

        With `leave_out` they are those of the history without that item.
        """
        device, texts = network.ids.device, self.arrays_["texts"]
        collaborative = taken(made.users, torch.from_numpy(user).to(device))
        means = matrix[user] @ texts
        if self.settings.leave_out:
            means = means - texts[item]
            length = matrix.indptr[user + 1] - matrix.indptr[user]
            weight = torch.from_numpy(1 / np.sqrt(length * self.arrays_["degrees"][item])).float()
            own = taken(made.history, torch.from_numpy(item).to(device))
            collaborative = collaborative - weight.to(device)[:, None] * own
            others = torch.from_numpy(length > 1).to(device)[:, None]
            collaborative = collaborative * others  # not rounding, blown up by a norm
        units = torch.from_numpy(unit_rows(means, least=_ROUNDING)).to(device)
        return joined(collaborative, network.semantic(units))
