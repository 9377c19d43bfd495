"""Batches of at most so many tokens, the same whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from genrec.lm.batch import IGNORED
from genrec.lm.packing import spread


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
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        tokens_per_batch: int,
        *,
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
        ascending = np.sort(self.classes) * multiple
        plan = spread if packing else _like_length
        owner = plan(ascending, tokens_per_batch)  # the batch of the i-th shortest example
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
        ascending = np.lexsort((noise, self.classes))
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
