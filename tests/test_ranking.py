"""One top-k for numpy and torch: against a plain sort, ties, what is left out, what is refused."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from genrec import schema
from genrec.ranking import (
    RankedLists,
    best_first,
    best_of_rows,
    first_allowed,
    tied_ranks,
    top_k,
)

# Few values, so that ties are common; -0.0 and 0.0 are equal.
SCORES = st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 1e-30, 1.0, 3.0])
BLOCKS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=SCORES)


def plain(scores: np.ndarray, k: int) -> tuple[list[list[int]], list[list[float]]]:
    items, values = [], []
    for row in scores.tolist():
        order = [i for i in sorted(range(len(row)), key=lambda i: (-row[i], i)) if row[i] > -np.inf]
        items.append(order[:k] + [-1] * (k - len(order)))
        values.append([row[i] for i in order[:k]] + [-np.inf] * (k - len(order)))
    return items, values


@given(BLOCKS, st.integers(1, 11))
def test_top_k_is_a_plain_sort_by_score_then_item(scores: np.ndarray, k: int) -> None:
    expected = plain(scores, k)
    for lists in (top_k(scores.copy(), k), top_k(torch.from_numpy(scores.copy()), k)):
        assert (lists.items.tolist(), lists.scores.tolist()) == expected
        assert lists.valid.tolist() == [[i >= 0 for i in row] for row in expected[0]]


def test_float64_is_compared_as_what_is_kept() -> None:
    scores = np.array([[1.0, 1.0 + 1e-12]])
    assert top_k(scores, 1).items.tolist() == [[0]]
    assert top_k(torch.from_numpy(scores), 1).items.tolist() == [[0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_what_is_no_score_is_refused(bad: float, make) -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        top_k(make(np.array([[0.0, bad, 1.0]], dtype=np.float32)), 2)
    with pytest.raises(ValueError, match="k is 0; expected 1 or more"):
        top_k(make(np.zeros((1, 2), dtype=np.float32)), 0)


def test_no_users_and_no_items() -> None:
    assert top_k(np.zeros((0, 5), np.float32), 3).items.shape == (0, 3)
    assert top_k(np.zeros((2, 0), np.float32), 3).items.tolist() == [[-1] * 3] * 2


def test_lists_to_a_table() -> None:
    lists = RankedLists(np.array([[4, 2], [7, -1]]), np.array([[0.5, 0.25], [1.0, -np.inf]]))
    table = lists.to_table([9, 3])
    assert schema.check(table, schema.RECOMMENDATIONS, "test").rows() == [
        (3, 7, 1.0, 1),
        (9, 4, 0.5, 1),
        (9, 2, 0.25, 2),
    ]
    assert RankedLists.concatenated([lists, lists]).items.shape == (4, 2)
    with pytest.raises(ValueError, match="a user stands twice"):
        lists.to_table([1, 1])
    with pytest.raises(ValueError, match="an item follows a -1"):
        RankedLists(np.array([[-1, 2]]), np.zeros((1, 2))).to_table([0])
    with pytest.raises(ValueError, match=r"expected \[U\], \[U, K\] and \[U, K\]"):
        lists.to_table([1])
    assert (
        RankedLists.empty(0, 3)
        .to_table([])
        .equals(pl.DataFrame(schema=dict(schema.RECOMMENDATIONS)))
    )


def test_tied_ranks_and_order() -> None:
    items = np.array([[5, 6, 7, 8], [1, 2, -1, -1]])
    tied = np.array([[False, True, False], [True, True, True]])
    assert tied_ranks(items, tied).tolist() == [[1, 2, 2, 4], [1, 1, 0, 0]]
    assert best_first(np.array([1, 3, 3, 2])).tolist() == [1, 2, 3, 0]


ROWS = st.lists(st.tuples(st.integers(0, 3), SCORES.filter(np.isfinite)), max_size=30)


@given(ROWS, st.integers(1, 9))
def test_best_of_rows_is_a_plain_sort_of_each_row(rows: list[tuple[int, float]], k: int) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    row, score = (np.array([r[i] for r in rows], t) for i, t in ((0, np.int64), (1, np.float32)))
    position, place = best_of_rows(row, score, k)
    expected: list[tuple[int, int]] = []
    for number in range(4):
        own = sorted(np.flatnonzero(row == number), key=lambda i: (-score[i], i))[:k]
        expected += [(i, at) for at, i in enumerate(own)]
    assert list(zip(position.tolist(), place.tolist(), strict=True)) == expected


@given(st.permutations(range(6)), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5))))
def test_first_allowed_leaves_bans_out(order: list[int], bans: list[tuple[int, int]]) -> None:
    row, item = (np.array([ban[i] for ban in bans], np.int64) for i in (0, 1))
    for k in (1, 4, 8):
        items = first_allowed(np.array(order), k, num_rows=3, banned_row=row, banned_item=item)
        for number in range(3):
            left = [i for i in order if (number, i) not in bans][:k]
            assert items[number].tolist() == left + [-1] * (k - len(left))


def test_lists_of_some_users_and_other_numbers() -> None:
    lists = RankedLists.empty(3, 2)
    lists.put(slice(1, 3), top_k(torch.tensor([[0.0, 1, 2], [5, 4, -np.inf]]), 2))
    assert lists.items.tolist() == [[-1, -1], [2, 1], [0, 1]]
    assert (lists.items.dtype, lists.scores.dtype) == (np.int32, np.float32)
    assert lists.renumbered(np.array([7, 8, 9])).items.tolist() == [[-1, -1], [9, 8], [7, 8]]
    assert RankedLists.empty(1, 2, ids=np.int64).items.dtype == np.int64


def test_filtered_takes_the_first_that_each_list_allows() -> None:
    lists = top_k(np.array([[5, 4, 3, 2], [1, 2, 3, -np.inf]], np.float32), 4)
    allowed = np.array([[False, True, True, True], [True, False, True, True]])
    kept = lists.filtered(allowed, 2)
    assert kept.items.tolist() == [[1, 2], [2, 0]]
    assert kept.scores.tolist() == [[4, 3], [3, 1]]
    only_one = lists.filtered(allowed & [[False, True, False, False]], 2)
    assert only_one.items.tolist() == [[1, -1], [-1, -1]]
    with pytest.raises(ValueError, match="zip"):
        lists.filtered(allowed[:1], 2)
