"""Ragged sequences as flat arrays, and popularity order: what the count-based retrievers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.retrieve.base import Sequences, training_sequences

# Cells of the largest [users, items] block held at once: 2^24 float32 are 64 MiB.
_MAX_CELLS = 2**24
# And the most users: each has vectors besides, however few the items are.
_MAX_ROWS = 2**14


class Flat(NamedTuple):
    """Sequences end to end.

    Attributes:
        row: int64 [n], the sequence that each value belongs to, ascending.
        item: int64 [n], the values.
        back: int64 [n], steps back from the end of its sequence; 0 is the newest.
        num_rows: the number of sequences, empty ones included.
    """

    row: npt.NDArray[np.int64]
    item: npt.NDArray[np.int64]
    back: npt.NDArray[np.int64]
    num_rows: int


def flatten(sequences: Sequences, *, num_items: int, first: int = 0) -> Flat:
    """Lays sequences end to end.

    Args:
        sequences: int arrays, items.
        num_items: N.
        first: number of the first sequence, where these are a part of more; for the error alone.

    Raises:
        ValueError: there are no items, or one lies outside 0..num_items-1; names the sequence.
    """
    if num_items < 1:
        raise ValueError(f"num_items is {num_items}; expected 1 or more")
    arrays = [np.asarray(s, dtype=np.int64).reshape(-1) for s in sequences]
    lengths = np.array([len(a) for a in arrays], dtype=np.int64)
    item = np.concatenate([np.zeros(0, dtype=np.int64), *arrays])
    row = np.repeat(np.arange(len(arrays)), lengths)
    bad = (item < 0) | (item >= num_items)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"sequence {first + row[at]}: item {item[at]} is unknown; expected 0..{num_items - 1}"
        )
    back = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(item))
    return Flat(row, item, back, len(arrays))


def popularity(flat: Flat, *, num_items: int) -> npt.NDArray[np.int64]:
    """Returns how often each item occurs, int64 [N]."""
    return np.bincount(flat.item, minlength=num_items)


def training_popularity(train: pl.DataFrame, *, num_items: int) -> npt.NDArray[np.int64]:
    """Returns how often each item occurs in the train table of schema `SPLIT`, int64 [N].

    Raises:
        ValueError: it does not fit, or an item lies outside 0..num_items-1.
    """
    return popularity(flatten(training_sequences(train), num_items=num_items), num_items=num_items)


def popularity_order(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns all items, most popular first, equally popular ones by item number; int64 [N]."""
    return np.argsort(-counts, kind="stable")


def chunks(num_users: int, num_items: int) -> Iterator[slice]:
    """Yields slices of users such that a [users, items] block stays small, and the users are few."""
    step = min(_MAX_ROWS, max(1, _MAX_CELLS // max(1, num_items)))
    for start in range(0, num_users, step):
        yield slice(start, min(start + step, num_users))


def first_allowed(
    order: npt.NDArray[np.int64],
    *,
    k: int,
    num_rows: int,
    banned_row: npt.NDArray[np.int64],
    banned_item: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Returns for each row the first k items of `order` that are not banned there.

    Only the head of `order` is looked at: a row with b banned items needs its first k + b.

    Args:
        order: int [N], all items, best first.
        k: how many.
        num_rows: B.
        banned_row: int [n], the row of each ban.
        banned_item: int [n], the item of each ban.

    Returns:
        int64 [B, k], -1 where fewer are left.
    """
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    longest = int(np.bincount(banned_row, minlength=1).max())
    head = min(len(order), k + longest)
    banned = np.zeros((num_rows, head), dtype=bool)
    place = position[banned_item]
    banned[banned_row[place < head], place[place < head]] = True

    first = np.argsort(banned, axis=1, kind="stable")[:, :k]  # allowed places first, in order
    items = np.where(np.take_along_axis(banned, first, axis=1), -1, order[first])
    return np.pad(items, ((0, 0), (0, k - items.shape[1])), constant_values=-1)
