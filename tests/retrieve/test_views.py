from __future__ import annotations

import numpy as np
import pytest

from genrec.retrieve.views import check_view, unit_rows


def test_a_view_comes_as_float32_in_one_piece() -> None:
    view = check_view("text", np.arange(6).reshape(3, 2)[::-1], num_items=3, width=2)
    assert (view.dtype, view.flags.c_contiguous) == (np.float32, True)
    assert view.tolist() == [[4, 5], [2, 3], [0, 1]]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (np.zeros((2, 4)), r"features\['text'\] has the shape \(2, 4\); expected \(3, 4\)"),
        (np.zeros((3, 5)), r"the shape \(3, 5\); expected \(3, 4\)"),
        (np.zeros(3), r"the shape \(3,\)"),
        (np.full((3, 4), [[0], [np.nan], [np.inf]]), r"item 1 holds NaN or infinity \(2 items do"),
    ],
)
def test_another_shape_and_what_is_no_number_are_refused(view: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_view("text", view, num_items=3, width=4)


def test_rows_of_length_one_and_rows_of_zeros() -> None:
    rows = np.array([[3.0, 4.0], [0, 0], [1e-6, 0]])
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    np.testing.assert_allclose(unit_rows(rows, least=1e-5)[2], [0, 0])
