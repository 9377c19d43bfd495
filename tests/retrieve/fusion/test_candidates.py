"""Several lists to one set of candidates per user."""

import polars as pl
import pytest

from genrec import schema
from genrec.retrieve.fusion import pooled


def table(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    user, item, rank = zip(*rows, strict=True)
    columns = {"user": user, "item": item, "score": [1.0] * len(rows), "rank": rank}
    return pl.DataFrame(columns, schema=dict(schema.RECOMMENDATIONS))


A = table([(3, 10, 1), (3, 11, 2), (3, 12, 3), (5, 20, 1)])
B = table([(3, 12, 1), (3, 13, 2), (7, 30, 1)])


def test_best_places_first_each_item_once() -> None:
    found = pooled({"a": A, "b": B}, [3, 5, 7, 9], size=10)
    assert [row.tolist() for row in found] == [[10, 12, 11, 13], [20], [30], []]
    swapped = pooled({"b": B, "a": A}, [3], size=10)  # of equal ranks the earlier source's first
    assert swapped[0].tolist() == [12, 10, 13, 11]


def test_size_cuts_each_list() -> None:
    assert [len(row) for row in pooled({"a": A, "b": B}, [3, 5], size=3)] == [3, 1]


def test_nothing_to_pool() -> None:
    with pytest.raises(ValueError, match="0 sources"):
        pooled({}, [3], size=3)
    with pytest.raises(ValueError, match="size 0"):
        pooled({"a": A}, [3], size=0)
    with pytest.raises(ValueError, match="b: column 'rank' is missing"):
        pooled({"a": A, "b": B.drop("rank")}, [3], size=3)
    unscored = B.with_columns(score=pl.lit(float("nan"), pl.Float32))
    with pytest.raises(
        ValueError, match=r"b: user 3, item 12 has score nan \(row 1; 3 such rows\)"
    ):
        pooled({"a": A, "b": unscored}, [3], size=3)
    with pytest.raises(ValueError, match="a: user 3 has item 10 twice"):
        pooled({"a": table([(3, 10, 1), (3, 10, 2)])}, [3], size=3)


def test_no_lists_and_no_users() -> None:
    assert [row.tolist() for row in pooled({"a": A.clear()}, [3, 5], size=3)] == [[], []]
    assert pooled({"a": A}, [], size=3) == []
