"""What retrievers learn from: sequences of items, from tables, as flat arrays, and their counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]
Sequences = Sequence[npt.ArrayLike]

# Cells of the largest [users, items] block held at once: 2^24 float32 are 64 MiB.
_MAX_CELLS = 2**24
# And the most users: each has vectors too, however few the items are.
_MAX_ROWS = 2**14


class Validation(NamedTuple):
    """Users whose next item is known: what a retriever may choose its epoch by.

    Attributes:
        histories: one int array per user, oldest first.
        targets: int [U], the item that came next.
    """

    histories: Sequences
    targets: npt.NDArray[np.integer]


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


def training_sequences(train: pl.DataFrame) -> list[npt.NDArray[np.int32]]:
    """Returns each user's whole training sequence, history and target, oldest first.

    Args:
        train: the train table of schema `SPLIT`.
    """
    schema.check(train, schema.SPLIT, "training_sequences")
    whole = train.select(pl.concat_list("history", pl.col("target"))).to_series()
    return [row.to_numpy() for row in whole]


def histories_of(split: pl.DataFrame) -> list[npt.NDArray[np.int32]]:
    """Returns the `history` column of a table of schema `SPLIT` as arrays, in row order."""
    schema.check(split, schema.SPLIT, "histories_of")
    return [row.to_numpy() for row in split["history"]]


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


def chunks(num_users: int, num_items: int) -> Iterator[slice]:
    """Yields slices of users such that a [users, items] block stays small, and the users are few."""
    step = min(_MAX_ROWS, max(1, _MAX_CELLS // max(1, num_items)))
    for start in range(0, num_users, step):
        yield slice(start, min(start + step, num_users))
