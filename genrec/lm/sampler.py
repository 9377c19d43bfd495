"""Batches of at most so many tokens, the same whatever the number of processes; padded or packed.

Packing puts several examples in one row, none of which sees another, and hardly a token of padding.
Position ids start anew with every example. transformers reads that from them: for sdpa it makes the
block-diagonal causal mask, for flash attention it takes the variable-length kernel (as behind its own
`DataCollatorWithFlattening`). A mask costs attention over the whole row, so its rows are kept short;
the kernel wants everything in one row.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel

from genrec.lm.batch import IGNORED


class Collator:
    """Pads encoded examples on the right, for training.

    Args:
        pad: the padding token's id.
        tasks: all task names; a batch carries indices into them.
    """

    def __init__(self, pad: int, tasks: Sequence[str]) -> None:
        self.pad = pad
        self.task_index = {name: index for index, name in enumerate(tasks)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns input_ids, attention_mask, labels and tasks, all int64 [B, T]."""
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        input_ids = np.full(shape, self.pad)
        labels = np.full(shape, IGNORED)
        attention_mask, tasks = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            labels[index, :length] = row["labels"]
            attention_mask[index, :length] = 1
            tasks[index] = self.task_index[row["task"]]
        labels[:, 0] = IGNORED  # nothing stands before it
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(labels),
            "tasks": torch.from_numpy(tasks),
        }


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of at most so many tokens: of like length once padded, or packed.

    Lengths are rounded up to classes of `multiple` tokens; how many of each class are in a batch is
    settled once, every epoch shuffles within a class and then shuffles the batches. So each epoch has
    other batches but the same number of them, which Trainer needs for its schedule. Batches to be
    padded have one class or neighbouring ones; batches to be packed have some of every class and are
    equally full. A batch is global: with several processes each takes a share of the rows, so that
    the steps are the same whatever their number.

    Args:
        lengths: int [n], tokens of each example.
        tokens_per_batch: rows x longest row of a batch, or its tokens if packed, over all processes;
            an example longer than this makes a batch of its own.
        seed: with the epoch, decides the order.
        shuffle: False gives the batches always in the same order, by ascending length if padded.
        rank: index of this process.
        processes: how many there are; a batch of fewer rows repeats all of them equally often.
        packing: batches will be packed.
        multiple: width of a length class, tokens.
        groups: int [n]; examples of different groups are never in one batch. None: all are of one.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        tokens_per_batch: int,
        *,
        groups: npt.ArrayLike | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
        packing: bool = False,
        multiple: int = 8,
    ) -> None:
        self.classes = -(-np.asarray(lengths, dtype=np.int64) // multiple)
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.processes = rank, processes
        self.epoch = 0
        self._groups = np.zeros_like(self.classes) if groups is None else np.asarray(groups)
        plan = spread if packing else _like_length
        owner = np.empty(0, dtype=np.int64)  # the batch of the i-th shortest example, by group
        for group in np.unique(self._groups):
            ascending = np.sort(self.classes[self._groups == group]) * multiple
            first = owner.max(initial=-1) + 1
            owner = np.concatenate([owner, first + plan(ascending, tokens_per_batch)])
        self._slots = np.argsort(owner, kind="stable")
        self._ends = np.cumsum(np.bincount(owner))[:-1]

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return len(self._ends) + 1

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        noise = rng.random(len(self.classes)) if self.shuffle else np.arange(len(self.classes))
        ascending = np.lexsort((noise, self.classes, self._groups))
        batches = np.split(ascending[self._slots], self._ends)
        for index in rng.permutation(len(batches)) if self.shuffle else range(len(batches)):
            batch = batches[index]
            if len(batch) < self.processes:
                # Each row equally often, that the mean over the batch stays what it is.
                batch = np.resize(batch, math.lcm(len(batch), self.processes))
            yield batch[self.rank :: self.processes].tolist()


def _like_length(ascending: np.ndarray, tokens_per_batch: int) -> np.ndarray:
    """Returns the batch of each row, of ascending padded length: neighbours, within the budget."""
    owner, start, number = np.zeros(len(ascending), dtype=np.int64), 0, 0
    for index, length in enumerate(ascending.tolist()):
        if index > start and (index + 1 - start) * length > tokens_per_batch:
            start, number = index, number + 1
        owner[index] = number
    return owner


# Shortest row under a mask. On a CPU, 64 tokens of packed rows cost attention what rows of 13 tokens
# cost unpacked, and 128 twice that.
ROW = 64
_LEAK = 1e-3  # of the largest logit; a neighbour that is seen moves logits by far more


def spread(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Packs examples into as few bins as their tokens need, each about equally full.

    Longest first, each into the emptiest bin; a new one is opened where it does not fit. So long and
    short examples, and with them the tasks, spread over all bins.

    Args:
        lengths: int [n], tokens.
        capacity: tokens of a bin; a longer example gets a bin of its own.

    Returns:
        int64 [n], the bin of each example, 0 to bins - 1; every bin has at least one.
    """
    owner = np.empty(len(lengths), dtype=np.int64)
    bins = max(1, -(-int(np.minimum(lengths, capacity).sum()) // capacity))
    heap = [(0, number) for number in range(bins)]  # (tokens, bin)
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        if heap[0][0] and heap[0][0] + length > capacity:
            heapq.heappush(heap, (length, bins))
            owner[index], bins = bins, bins + 1
        else:
            tokens, number = heap[0]
            heapq.heapreplace(heap, (tokens + length, number))
            owner[index] = number
    return np.unique(owner, return_inverse=True)[1]


class PackingCollator:
    """Packs encoded examples into rows.

    Args:
        pad: the padding token's id.
        tasks: all task names; a batch carries indices into them.
        row: tokens of a row, or its longest example's; None puts all examples into one row.
    """

    def __init__(self, pad: int, tasks: Sequence[str], *, row: int | None = ROW) -> None:
        self.pad, self.row = pad, row
        self.task_index = {name: index for index, name in enumerate(tasks)}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns input_ids, position_ids, attention_mask, labels and tasks, all int64 [R, T].

        `attention_mask` only says which tokens are real; the model is not to get it, for then
        transformers would not look at the position ids.
        """
        lengths = np.array([len(row["input_ids"]) for row in rows])
        owner = np.zeros(len(rows), dtype=np.int64)
        if self.row is not None:
            owner = spread(lengths, max(self.row, int(lengths.max())))
        fill = np.zeros(owner.max() + 1, dtype=np.int64)  # tokens of each row so far
        width = int(np.bincount(owner, weights=lengths).max())
        shape = (len(fill), width)
        batch = {
            "input_ids": np.full(shape, self.pad),
            "position_ids": np.zeros(shape, dtype=np.int64),
            "attention_mask": np.zeros(shape, dtype=np.int64),
            "labels": np.full(shape, IGNORED),
            "tasks": np.zeros(shape, dtype=np.int64),
        }
        for row, length, at in zip(rows, lengths.tolist(), owner.tolist(), strict=True):
            place = slice(int(fill[at]), int(fill[at]) + length)
            fill[at] += length
            batch["input_ids"][at, place] = row["input_ids"]
            batch["position_ids"][at, place] = np.arange(length)
            batch["attention_mask"][at, place] = 1
            batch["labels"][at, place] = row["labels"]
            batch["labels"][at, place.start] = IGNORED  # nothing of its own stands before it
            batch["tasks"][at, place] = self.task_index[row["task"]]
        for at, start in enumerate(
            fill.tolist()
        ):  # the rest of a row is one more example, of no task
            batch["position_ids"][at, start:] = np.arange(width - start)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def row_for(model: PreTrainedModel) -> int | None:
    """Returns `PackingCollator`'s `row` for a model: one row for flash attention, else short ones."""
    return None if "flash" in (model.config._attn_implementation or "") else ROW


@contextmanager
def masked_attention(model: PreTrainedModel) -> Iterator[None]:
    """Gives a model with flash attention sdpa for a `with` block: a decoder's 4D masks need it."""
    usual = model.config._attn_implementation or ""
    if "flash" not in usual:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


@torch.no_grad()
def check_packing(model: PreTrainedModel, *, vocabulary: int) -> None:
    """Makes sure that a model keeps packed examples apart: two of them, the first one exchanged.

    Args:
        model: any causal LM; on its device.
        vocabulary: token ids are below it.

    Raises:
        ValueError: what stands before an example changes its logits.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    ids = torch.arange(1, 13, device=device) % vocabulary
    positions = torch.tensor([[*range(5), *range(7)]], device=device)
    logits = []
    for first in (ids[:5], ids[:5].flip(0)):
        packed = torch.cat([first, ids[5:]])[None]
        logits.append(
            model(input_ids=packed, position_ids=positions, use_cache=False).logits[0, 5:]
        )
    model.train(training)
    off = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
    if not off < _LEAK:
        raise ValueError(
            f"train.packing: in this model ({model.config.model_type}) an example sees what is packed "
            f"before it (logits move by {off:.1%}); set train.packing=false"
        )
