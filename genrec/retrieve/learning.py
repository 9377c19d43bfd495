"""What the learned retrievers share: device, seed, the best epoch on validation, exact top-k lists."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from genrec.progress import Progress, silent
from genrec.retrieve.base import Ranked, Sequences
from genrec.retrieve.ranking import Flat, chunks, flatten


class Validation(NamedTuple):
    """Users whose next item is known: what a retriever may choose its epoch by.

    Attributes:
        histories: one int array per user, oldest first.
        targets: int [U], the item that came next.
    """

    histories: Sequences
    targets: np.ndarray


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
            found = measure()
        log[-1]["valid"] = found
        if found > best:
            best, since = found, 0
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


@torch.no_grad()
def top_items(
    score: Callable[[slice], torch.Tensor],
    histories: Sequences,
    *,
    num_items: int,
    k: int,
    exclude_seen: bool = True,
    step: str = "recommend",
    progress: Progress = silent,
) -> Ranked:
    """Ranks the whole catalogue for every user, a block of users at a time.

    Args:
        score: float [B, N] for a slice of the users; may be overwritten here.
        histories: one int array per user.
        num_items: N.
        k: length of each list; equal scores stand in the order of item numbers.
        exclude_seen: leave out the items of the user's own history.
        step: the name that `progress` is told.
        progress: told how many users are done.

    Raises:
        ValueError: k below 1, or an item outside 0..N-1.
        FloatingPointError: a score is NaN or infinite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    width = min(k, num_items)
    items = np.full((len(histories), k), -1, dtype=np.int32)
    scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
    for part in chunks(len(histories), num_items):
        # Before the scores: it refuses unknown items, and names the user.
        seen = flatten(histories[part], num_items=num_items, first=part.start)
        block = score(part).float()
        if exclude_seen:
            _mask(block, seen)
        order = _first(block, width)
        top = block.gather(1, order).cpu().numpy()
        if not (top[:, 0] < np.inf).all():  # NaN comes first too
            raise FloatingPointError(
                f"{step}: a score is NaN or infinite; fit again with a lower lr"
            )
        items[part, :width] = np.where(np.isfinite(top), order.cpu().numpy(), -1)
        scores[part, :width] = top
        progress(step, part.stop, len(histories))
    return Ranked(items, scores)


def _mask(scores: torch.Tensor, seen: Flat) -> None:
    """Sets the scores of each user's own items to -inf, in place."""
    scores[torch.from_numpy(seen.row), torch.from_numpy(seen.item)] = -torch.inf


def _first(scores: torch.Tensor, width: int) -> torch.Tensor:
    """The columns of each row's `width` best scores, equal ones in order; int64 [B, width].

    `topk` promises nothing about ties, and a stable sort of everything takes 25 times as long: so
    rows in which a finite score stands twice up to the place after the last are ranked again, by keys.
    """
    best, columns = scores.topk(min(width + 1, scores.shape[1]), dim=1)
    tied = ((best[:, 1:] == best[:, :-1]) & best[:, 1:].isfinite()).any(dim=1)
    columns = columns[:, :width]
    if tied.any():
        columns[tied] = _by_keys(scores[tied], width)
    return columns


def _by_keys(scores: torch.Tensor, width: int) -> torch.Tensor:
    """As `_first`: a score's bits, in an order that integers share, and the column make one key."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: no -0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    column = torch.arange(scores.shape[1], device=scores.device)
    return ((rising << 32) - column).topk(width, dim=1).indices


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
) -> Callable[[], float]:
    """Returns a function that measures NDCG@k or recall@k of next items, seen items masked.

    With one target a user, a target at a place up to k gives 1/log2(1 + place), or 1; else 0. Places
    follow score, then item number, as `top_items` ranks. A target that the user has seen, or whose score
    is NaN, has no place.

    Args:
        score: histories of B users to scores [B, N]; may be overwritten here.
        valid: the validation users.
        num_items: N.
        users: at most so many users are measured, always the same ones.
        seed: of their choice.
        k: cut-off.
        metric: which of the two.

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
        total = 0.0
        for part in chunks(len(targets), num_items):
            places = _places(score(histories[part]), histories[part], targets[part])
            gains = 1 / np.log2(1 + places) if metric == "ndcg" else np.ones(len(places))
            total += float(gains[places <= k].sum())
        return total / len(targets)

    return measure


def _places(scores: torch.Tensor, histories: Sequences, targets: np.ndarray) -> np.ndarray:
    """The place of each target among all items, 1 the best, inf if it is never listed; float64 [B]."""
    _mask(scores, flatten(histories, num_items=scores.shape[1]))
    target = torch.from_numpy(targets).to(scores.device)[:, None]
    own = scores.gather(1, target)
    earlier = torch.arange(scores.shape[1], device=scores.device) < target
    better = (scores > own) | ((scores == own) & earlier)
    places = torch.where(own[:, 0].isfinite(), 1 + better.sum(1), torch.inf)
    return places.double().cpu().numpy()
