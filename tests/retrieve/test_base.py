from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from genrec import schema
from genrec.retrieve import histories_of, to_recommendations, training_sequences


def split_table(histories: list[list[int]], targets: list[int]) -> pl.DataFrame:
    rows = {"user": range(len(targets)), "history": histories, "target": targets}
    return pl.DataFrame(rows, schema=dict(schema.SPLIT))


def test_training_sequences_end_with_the_target() -> None:
    train = split_table([[3, 1], []], [2, 4])
    assert [s.tolist() for s in training_sequences(train)] == [[3, 1, 2], [4]]
    assert [s.tolist() for s in histories_of(train)] == [[3, 1], []]


def test_recommendations_are_sorted_with_unique_ranks_and_no_empty_place() -> None:
    items = np.array([[5, 3, 4], [1, -1, -1], [-1, -1, -1]])
    scores = np.array([[0.9, 0.9, 0.1], [2.0, -np.inf, -np.inf], [-np.inf] * 3])
    table = to_recommendations([7, 2, 4], items, scores)
    schema.check(table, schema.RECOMMENDATIONS, "test")
    assert table.rows() == [
        (2, 1, 2.0, 1),
        (7, 5, pytest.approx(0.9), 1),
        (7, 3, pytest.approx(0.9), 2),
        (7, 4, pytest.approx(0.1), 3),
    ]


def test_no_user_gives_an_empty_table_of_the_right_schema() -> None:
    table = to_recommendations([], np.zeros((0, 5), np.int32), np.zeros((0, 5)))
    assert table.schema == pl.Schema(dict(schema.RECOMMENDATIONS))


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 0], [[1], [2]], "twice"),
        ([0], [[-1, 2]], "follows a -1"),
        ([0, 1], [[1, 2]], "expected"),
    ],
)
def test_bad_arrays_are_refused(users: list[int], items: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_recommendations(users, np.array(items), np.zeros_like(items, dtype=float))


@pytest.mark.parametrize("package", ["genrec.retrieve", "genrec.evaluate"])
def test_importing_loads_no_torch(package: str) -> None:
    code = f"import {package}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
