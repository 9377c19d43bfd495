"""Packing: several examples in one row, none of which sees another, and hardly a token of padding.

Position ids start anew with every example. transformers reads that from them: for sdpa it makes the
block-diagonal causal mask, for flash attention it takes the variable-length kernel (as behind its own
`DataCollatorWithFlattening`). A mask costs attention over the whole row, so its rows are kept short;
the kernel wants everything in one row.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from genrec.lm.batch import IGNORED

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
