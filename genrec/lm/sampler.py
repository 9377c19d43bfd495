"""Padded batches of at most so many tokens, the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

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
        """Returns input_ids, attention_mask, labels int64 [B, T] and tasks int64 [B]."""
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        input_ids = np.full(shape, self.pad)
        labels = np.full(shape, IGNORED)
        attention_mask = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            labels[index, :length] = row["labels"]
            attention_mask[index, :length] = 1
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.from_numpy(labels),
            "tasks": torch.tensor([self.task_index[row["task"]] for row in rows]),
        }


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of examples of like length, each of at most so many tokens once padded.

    Lengths are rounded up to classes of `multiple` tokens; every epoch shuffles within a class and
    then shuffles the batches. So each epoch has other batches but the same number of them, which
    Trainer needs for its schedule. A batch is global: with several processes each takes a share of
    the rows, so that the steps are the same whatever their number.

    Args:
        lengths: int [n], tokens of each example.
        tokens_per_batch: rows x longest row of a batch, over all processes; an example longer than
            this makes a batch of its own.
        seed: with the epoch, decides the order.
        shuffle: False gives the batches by ascending length, always the same.
        rank: index of this process.
        processes: how many there are; a batch of fewer rows repeats some.
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
        multiple: int = 8,
    ) -> None:
        self.classes = -(-np.asarray(lengths, dtype=np.int64) // multiple)
        self.seed, self.shuffle = seed, shuffle
        self.rank, self.processes = rank, processes
        self.epoch = 0
        self.cuts = _cuts(np.sort(self.classes) * multiple, tokens_per_batch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return len(self.cuts) + 1

    def __iter__(self) -> Iterator[list[int]]:
        """Yields the rows of each batch."""
        rng = np.random.default_rng([self.seed, self.epoch])
        noise = rng.random(len(self.classes)) if self.shuffle else np.arange(len(self.classes))
        batches = np.split(np.lexsort((noise, self.classes)), self.cuts)
        for index in rng.permutation(len(batches)) if self.shuffle else range(len(batches)):
            batch = batches[index]
            if len(batch) < self.processes:
                batch = np.resize(batch, self.processes)
            yield batch[self.rank :: self.processes].tolist()


def _cuts(ascending: np.ndarray, tokens_per_batch: int) -> np.ndarray:
    """Returns where to split rows of ascending padded length to keep batches in the budget."""
    cuts, start = [], 0
    for index, length in enumerate(ascending):
        if index > start and (index + 1 - start) * length > tokens_per_batch:
            cuts.append(index)
            start = index
    return np.array(cuts, dtype=np.int64)
