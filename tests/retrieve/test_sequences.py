"""Sequences from tables and end to end, their counts, and blocks of users."""

from __future__ import annotations

import polars as pl
import pytest

from genrec import schema
from genrec.retrieve import histories_of, training_sequences
from genrec.retrieve.sequences import chunks, flatten, training_popularity


def split_table(histories: list[list[int]], targets: list[int]) -> pl.DataFrame:
    rows = {"user": range(len(targets)), "history": histories, "target": targets}
    return pl.DataFrame(rows, schema=dict(schema.SPLIT))


def test_training_sequences_end_with_the_target() -> None:
    train = split_table([[3, 1], []], [2, 4])
    assert [s.tolist() for s in training_sequences(train)] == [[3, 1, 2], [4]]
    assert [s.tolist() for s in histories_of(train)] == [[3, 1], []]


def test_end_to_end_by_hand() -> None:
    flat = flatten([[4, 2], [], [4]], num_items=5)
    assert flat.row.tolist() == [0, 0, 2]
    assert flat.item.tolist() == [4, 2, 4]
    assert flat.back.tolist() == [1, 0, 0]
    assert flat.num_rows == 3
    with pytest.raises(ValueError, match=r"sequence 8: item -1 is unknown; expected 0\.\.4"):
        flatten([[1], [2, -1]], num_items=5, first=7)


def test_training_popularity_counts_histories_and_targets() -> None:
    train = split_table([[3, 3], []], [1, 3])
    assert training_popularity(train, num_items=5).tolist() == [0, 1, 0, 3, 0]


def test_blocks_of_users_are_small() -> None:
    assert max(p.stop - p.start for p in chunks(10**6, 3)) <= 2**14
    assert next(chunks(9, 2**25)) == slice(0, 1)
