"""Training sequences as windows for a causal network: cut, batched by length, filled from the left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

IGNORED = -100  # F.cross_entropy's own
_POOL = 16  # batches whose sequences are sorted by length together


class Window(NamedTuple):
    """A stretch of a sequence: `inputs` starts with the start token, `labels` are one step ahead."""

    inputs: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def windows_of(sequence: npt.NDArray[np.int64], max_length: int, *, start: int) -> list[Window]:
    """Cuts a sequence from its newest item back, so that every item is a target exactly once.

    A window that begins later than the sequence takes one item more as context, whose own label is
    ignored: with nothing before it but the start token it would pass for a first item.
    """
    found: list[Window] = []
    end = len(sequence)
    while end > 0:
        begin = max(0, end - max_length - 1)
        items = sequence[begin:end]
        labels = items.copy()
        if begin > 0:
            labels[0] = IGNORED
        found.append(Window(np.concatenate([[start], items[:-1]]), labels))
        end = 0 if begin == 0 else begin + 1
    return found


def collate(windows: list[Window], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels [B, T], filled from the left; padding is `pad`, and IGNORED."""
    lengths = np.array([len(w.inputs) for w in windows])
    filled = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(filled.shape, pad, dtype=np.int64)
    labels = np.full(filled.shape, IGNORED, dtype=np.int64)
    tokens[filled] = np.concatenate([w.inputs for w in windows])
    labels[filled] = np.concatenate([w.labels for w in windows])
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def by_length(
    lengths: npt.NDArray[np.int64], size: int, rng: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the indices of all windows in random batches of like length, `size` at a time.

    Padding to the longest of 128 random histories would be most of the work: random pools of some
    batches are sorted by length, and their batches come in random order.
    """
    order = rng.permutation(len(lengths))
    found = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        found += [pool[at : at + size] for at in range(0, len(pool), size)]
    yield from (found[batch] for batch in rng.permutation(len(found)))
