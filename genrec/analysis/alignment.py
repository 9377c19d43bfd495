"""Alignment probes: how much of the collaborative space can be read off the semantic one?

Frozen semantic vectors are mapped to frozen collaborative ones by a linear map and by MLPs, and looked
at on items that the map never saw (arXiv 2604.22195, its code). Where the facts at hand are silent the
choice is ours: see `probe_alignment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from sklearn.metrics import r2_score
from torch import nn
from torch.nn import functional

from genrec.analysis.content import unit
from genrec.progress import Progress, silent
from genrec.ranking import top_k

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

# Widths of the hidden layers (ReLU), by name.
PROBES: Mapping[str, tuple[int, ...]] = {
    "linear": (),
    "mlp-1": (512,),
    "mlp-2": (2048, 2048),
    "mlp-3": (2048, 2048, 2048),
}
_MAX_CELLS = 2**24
_DECIMALS = 6


class Users(NamedTuple):
    """Whose recommendations tell what the map costs.

    Attributes:
        vectors: float [U, d], in the collaborative space; a score is a dot product.
        histories: one int array per user, masked.
        targets: one int array per user, the held-out items.
    """

    vectors: Floats
    histories: Sequence[npt.ArrayLike]
    targets: Sequence[npt.ArrayLike]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a probe is trained; the defaults are the paper's.

    Attributes:
        epochs: passes over the seen items.
        batch_size: items per step.
        lr: of Adam.
        unseen: share of the items that are held out.
        seed: of the split, the weights and the order.
        device: a name of torch.
    """

    epochs: int = 400
    batch_size: int = 1024
    lr: float = 1e-3
    unseen: float = 0.2
    seed: int = 2024
    device: str = "cpu"


def probe_alignment(
    semantic: Floats,
    collaborative: Floats,
    *,
    users: Users | None = None,
    probes: Mapping[str, Sequence[int]] = PROBES,
    training: Training | None = None,
    k: int = 20,
    anchors: int = 1000,
    max_users: int = 1000,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains every probe and measures it on unseen items.

    Args:
        semantic: float [N, D]; items with a row of zeros here or there stay out of the probes.
        collaborative: float [N, d], from a model that was trained with all items: what is measured
            against is therefore an oracle.
        users: for the measures that need recommendations; None leaves these out.
        probes: widths of the hidden layers by name.
        training: how they are trained.
        k: neighbours, and length of the lists.
        anchors: at most so many seen items for `spearman`, two or more.
        max_users: at most so many users for `jaccard`, the first ones.
        progress: told how many epochs are done.

    Returns:
        JSON values: `k`, `items`, `unseen`, `users` (with an unseen target) and by probe, on unseen
        items unless said otherwise:

        - `r2`, `r2_train`: mean of the dimensions' R2, as scikit-learn's r2_score (ours);
        - `cosine`: of mapped and true vector;
        - `geojac`: mean Jaccard of the k nearest unseen items, by cosine, before and after;
        - `spearman`: of an item's cosines to the anchors, before and after, mean over items (ours: the
          anchors are seen items, and mapped too);
        - `jaccard`: of the users' top k of all items, by true and by mapped item vectors, histories
          masked (0 for a user who has seen all);
        - `recall_true`, `recall_mapped`: recall@k of unseen targets, candidates all items (ours: all
          of them mapped), histories masked; `drop` = (true - mapped) / true in percent, null where
          there is nothing to lose.

    Raises:
        ValueError: shapes do not fit, values are not finite, an item is outside 0..N-1, or there are too
            few items.
    """
    if k < 1 or anchors < 2 or max_users < 1:
        raise ValueError(
            f"k={k}, anchors={anchors}, max_users={max_users}; expected 1, 2 and 1 or more"
        )
    training = training or Training()
    known = _known(semantic, collaborative)
    order = np.random.default_rng(training.seed).permutation(known)
    cut = round(len(order) * training.unseen)
    unseen, seen = np.sort(order[:cut]), np.sort(order[cut:])
    if len(unseen) < 2 or len(seen) < 2:
        raise ValueError(
            f"{len(seen)} seen and {len(unseen)} unseen items; expected two of each or more: give "
            "more items that have both vectors, or another share `unseen`"
        )
    size = min(k, len(unseen) - 1)
    judged = None if users is None else _Judged(users, collaborative, unseen, k, max_users)
    drawn = np.sort(order[cut:][:anchors])
    by_probe: dict[str, dict[str, float | None]] = {}
    for name, hidden in probes.items():
        mapped = _train(semantic, collaborative, seen, tuple(hidden), training, name, progress)
        measured = _fit(collaborative, mapped, unseen, drawn, size)
        measured["r2_train"] = r2_score(collaborative[seen], mapped[seen])
        measured |= judged.measure(mapped) if judged else {}
        by_probe[name] = {
            n: None if v is None else round(float(v), _DECIMALS) for n, v in measured.items()
        }
    return {
        "k": k,
        "items": len(known),
        "unseen": len(unseen),
        "users": judged.count if judged else 0,
        "probes": by_probe,
    }


def _known(semantic: Floats, collaborative: Floats) -> Ints:
    """The items that have both vectors."""
    if semantic.ndim != 2 or collaborative.ndim != 2 or len(semantic) != len(collaborative):
        raise ValueError(
            f"semantic {semantic.shape}, collaborative {collaborative.shape}: expected [N, D], [N, d]"
        )
    _check_finite(semantic, "semantic: item")
    _check_finite(collaborative, "collaborative: item")
    return np.flatnonzero(np.any(semantic != 0, axis=1) & np.any(collaborative != 0, axis=1))


def _check_finite(values: Floats, what: str) -> None:
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise ValueError(f"{what} {row} holds NaN or infinity")


def _fit(
    true: Floats, mapped: Floats, unseen: Ints, anchors: Ints, k: int
) -> dict[str, float | None]:
    """How well mapped vectors [N, d] stand for the true ones, on unseen items."""
    before, after = unit(true[unseen]), unit(mapped[unseen])
    return {
        "r2": r2_score(true[unseen], mapped[unseen]),
        "cosine": float((before * after).sum(axis=1).mean()),
        "geojac": _geojac(before, after, k),
        "spearman": _spearman(before @ unit(true[anchors]).T, after @ unit(mapped[anchors]).T),
    }


def _train(
    semantic: Floats,
    collaborative: Floats,
    seen: Ints,
    hidden: tuple[int, ...],
    training: Training,
    name: str,
    progress: Progress,
) -> Floats:
    """Returns what the trained map makes of every item, float32 [N, d]."""
    device = torch.device(training.device)
    source = torch.from_numpy(semantic.astype(np.float32)).to(device)
    target = torch.from_numpy(collaborative.astype(np.float32)).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        probe = _network((source.shape[1], *hidden, target.shape[1])).to(device)
    optimizer = torch.optim.Adam(probe.parameters(), lr=training.lr)
    rng = np.random.default_rng(training.seed)
    for epoch in range(training.epochs):
        order = rng.permutation(seen)
        for start in range(0, len(order), training.batch_size):
            rows = torch.from_numpy(order[start : start + training.batch_size]).to(device)
            loss = functional.mse_loss(probe(source[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress(f"alignment probe: {name}", epoch + 1, training.epochs)
    with torch.no_grad():
        return probe(source).cpu().numpy()


def _network(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Judged:
    """What recommendations by true item vectors are, to hold those by mapped ones against."""

    def __init__(self, users: Users, items: Floats, unseen: Ints, k: int, max_users: int) -> None:
        counts = (len(users.vectors), len(users.histories), len(users.targets))
        if len(set(counts)) > 1 or users.vectors.shape[1:] != items.shape[1:]:
            raise ValueError(
                f"users: vectors {users.vectors.shape}, {counts[1]} histories, {counts[2]} targets; "
                f"expected one of each per user, and vectors of width {items.shape[1]}"
            )
        _check_finite(users.vectors, "users: user")
        for named in (*users.histories, *users.targets):
            items_named = np.asarray(named, dtype=np.int64)
            if ((items_named < 0) | (items_named >= len(items))).any():
                unknown = items_named[(items_named < 0) | (items_named >= len(items))][0]
                raise ValueError(f"users: item {unknown} is unknown; expected 0..{len(items) - 1}")
        self._users, self._k = users, min(k, len(items))
        held = [np.intersect1d(np.asarray(t, dtype=np.int64), unseen) for t in users.targets]
        self._rows = np.array([u for u, t in enumerate(held) if len(t)], dtype=np.int64)
        self._held = [held[u] for u in self._rows]
        self._sample = np.arange(min(max_users, len(users.vectors)))
        self._tops = self._top(items, self._sample)
        self._recall_true = self._recall(items)

    @property
    def count(self) -> int:
        """The users who have an unseen target."""
        return len(self._rows)

    def measure(self, mapped: Floats) -> dict[str, float | None]:
        """Compares the lists by mapped item vectors with those by true ones."""
        shares = [
            len((a & b) - {-1}) / max(1, len((a | b) - {-1}))
            for a, b in zip(
                map(set, self._tops.tolist()),
                map(set, self._top(mapped, self._sample).tolist()),
                strict=True,
            )
        ]
        true, mapped_recall = self._recall_true, self._recall(mapped)
        drop = None if not true or mapped_recall is None else 100 * (true - mapped_recall) / true
        return {
            "jaccard": float(np.mean(shares)) if shares else None,
            "recall_true": true,
            "recall_mapped": mapped_recall,
            "drop": drop,
        }

    def _recall(self, items: Floats) -> float | None:
        if not len(self._rows):
            return None
        tops = self._top(items, self._rows)
        shares = [np.isin(h, t).mean() for h, t in zip(self._held, tops, strict=True)]
        return float(np.mean(shares))

    def _top(self, items: Floats, rows: Ints) -> Ints:
        """The first k items of each user, int64 [len(rows), k]; equal scores by item number.

        -1 where a user has seen all but fewer than k.
        """
        parts = [np.zeros((0, self._k), dtype=np.int64)]
        step = max(1, _MAX_CELLS // len(items))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            scores = self._users.vectors[part] @ items.T
            for line, user in zip(scores, part, strict=True):
                line[np.asarray(self._users.histories[user], dtype=np.int64)] = -np.inf
            parts.append(top_k(scores, self._k).items.astype(np.int64))
        return np.concatenate(parts)


def _geojac(true: Floats, mapped: Floats, k: int) -> float:
    """Mean Jaccard of the k nearest rows before and after; rows of length 1."""
    step = max(1, _MAX_CELLS // len(true))
    total = 0.0
    for start in range(0, len(true), step):
        rows = np.arange(start, min(start + step, len(true)))
        before, after = (_neighbours(x, rows, k) for x in (true, mapped))
        common = (before & after).sum(axis=1)
        total += float((common / (2 * k - common)).sum())
    return total / len(true)


def _neighbours(unit: Floats, rows: Ints, k: int) -> npt.NDArray[np.bool_]:
    """Whether an item is among the k nearest of each row, bool [len(rows), N]."""
    near = unit[rows] @ unit.T
    near[np.arange(len(rows)), rows] = -np.inf
    nearest = np.zeros(near.shape, dtype=bool)
    np.put_along_axis(nearest, np.argpartition(-near, k - 1, axis=1)[:, :k], True, axis=1)
    return nearest


def _spearman(before: Floats, after: Floats) -> float:
    """Mean over rows of the rank correlation of two tables [n, anchors]."""
    a, b = (rankdata(x, axis=1) for x in (before, after))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0)).mean())
