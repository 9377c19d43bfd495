"""What the learned retrievers share: device, seed, item views, the best epoch on validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from genrec.progress import Progress, silent
from genrec.retrieve.base import mask
from genrec.retrieve.sequences import Sequences, Validation, chunks, flatten

Floats = npt.NDArray[np.float32]


def torch_device(device: str) -> torch.device:
    """Returns the device that a setting names: "auto" is a GPU where there is one.

    Raises:
        ValueError: no such device name, or "cuda" on a machine without a GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu" and not device.startswith("cuda"):
        raise ValueError(f"device is {device!r}; expected 'auto', 'cpu' or 'cuda'")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU; use 'auto' or 'cpu'")
    return torch.device(device)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch inside the block and leaves the caller's generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def fit_epochs(
    module: nn.Module,
    train: Callable[[int], float],
    measure: Callable[[], float] | None,
    *,
    epochs: int,
    patience: int,
    step: str,
    progress: Progress = silent,
) -> list[dict[str, float]]:
    """Trains epoch by epoch and leaves the weights of the best measured epoch in `module`.

    Args:
        module: trained in place.
        train: called with the epoch's number; trains one epoch and returns its mean loss.
        measure: validation metric, higher is better; None keeps the last epoch.
        epochs: at most.
        patience: epochs without a gain before stopping.
        step: the name that `progress` is told.
        progress: told how many epochs are done.

    Returns:
        Per epoch: loss, and valid where it is measured.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    log: list[dict[str, float]] = []
    best, kept, since = -np.inf, None, 0
    for epoch in range(epochs):
        module.train()
        loss = train(epoch)
        if not np.isfinite(loss):
            raise FloatingPointError(f"{step}: the loss is {loss} in epoch {epoch}; lower lr")
        log.append({"loss": loss})
        progress(step, epoch + 1, epochs)
        if measure is None:
            continue
        module.eval()
        with torch.no_grad():
            value = measure()
        log[-1]["valid"] = value
        if value > best:
            best, since = value, 0
            kept = copy.deepcopy(module.state_dict())
        else:
            since += 1
        if since >= patience:
            break
    if len(log) < epochs:
        progress(step, epochs, epochs)
    if kept is not None:
        module.load_state_dict(kept)
    module.eval()
    return log


def taken(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Returns vectors[rows], [..., D], with gradients that are the same in every run.

    Where a row is taken more than once, the gradient of plain indexing adds its floats in whatever
    order the threads of a CPU come; an embedding's does not.
    """
    return functional.embedding(rows, vectors)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the indices 0..count-1 in a random order, `size` at a time."""
    order = rng.permutation(count)
    yield from (order[start : start + size] for start in range(0, count, size))


def target_measure(
    score: Callable[[Sequences], torch.Tensor],
    valid: Validation,
    *,
    num_items: int,
    users: int,
    seed: int,
    k: int = 10,
    metric: Literal["ndcg", "recall"] = "ndcg",
    before: Callable[[], None] | None = None,
) -> Callable[[], float]:
    """Returns a function that measures NDCG@k or recall@k of next items, seen items masked.

    With one target a user, a target at a place up to k gives 1/log2(1 + place), or 1; else 0. Places
    follow score, then item number, as `top_k` ranks. A target that the user has seen, or whose score
    is NaN, has no place.

    Args:
        score: histories of B users to scores [B, N]; may be overwritten here.
        valid: the validation users.
        num_items: N.
        users: at most so many users are measured, always the same ones.
        seed: of their choice.
        k: cut-off.
        metric: which of the two.
        before: called before each measurement, such as to take over the vectors of the epoch.

    Raises:
        ValueError: no users, as many histories as targets are wanted, or an unknown item.
    """
    targets = np.asarray(valid.targets, dtype=np.int64)
    if len(valid.histories) != len(targets) or not len(targets):
        raise ValueError(
            f"valid: {len(valid.histories)} histories and {len(targets)} targets; expected one of "
            "each per user, and one user or more (valid=None: the last epoch is kept)"
        )
    flatten([targets], num_items=num_items)  # refuses unknown items
    flatten(valid.histories, num_items=num_items)
    chosen = np.arange(len(targets))
    if len(chosen) > users:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, users, replace=False))
    histories = [valid.histories[int(u)] for u in chosen]
    targets = targets[chosen]

    def measure() -> float:
        if before is not None:
            before()
        total = 0.0
        for part in chunks(len(targets), num_items):
            places = _places(score(histories[part]), histories[part], targets[part])
            gains = 1 / np.log2(1 + places) if metric == "ndcg" else np.ones(len(places))
            total += float(gains[places <= k].sum())
        return total / len(targets)

    return measure


def _places(scores: torch.Tensor, histories: Sequences, targets: np.ndarray) -> np.ndarray:
    """The place of each target among all items, 1 the best, inf if it is never listed; float64 [B]."""
    mask(scores, flatten(histories, num_items=scores.shape[1]))
    target = torch.from_numpy(targets).to(scores.device)[:, None]
    own = scores.gather(1, target)
    earlier = torch.arange(scores.shape[1], device=scores.device) < target
    better = (scores > own) | ((scores == own) & earlier)
    places = torch.where(own[:, 0].isfinite(), 1 + better.sum(1), torch.inf)
    return places.double().cpu().numpy()
