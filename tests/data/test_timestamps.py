"""Times in any unit become seconds; a file has one unit, and what breaks that is named."""

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, strategies as st

from genrec.data.source import BadRows
from genrec.data.timestamps import Unit, to_seconds

MOMENT = 1_577_934_245  # 2020-01-02 03:04:05 UTC


def seconds(
    values: list, unit: Unit = "auto", *, on_bad: str = "error"
) -> tuple[list, str, dict[str, int]]:
    bad_rows = BadRows(on_bad)  # type: ignore[arg-type]
    table = pl.DataFrame({"timestamp": values}, strict=False).with_row_index("row", 2)
    table, found = to_seconds(table, unit=unit, bad_rows=bad_rows, where="log.csv", field="at")
    return table["timestamp"].to_list(), found, bad_rows.dropped


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        (MOMENT, "s"),
        (MOMENT * 10**3, "ms"),
        (MOMENT * 10**6, "us"),
        (MOMENT * 10**9, "ns"),
        (f"{MOMENT}.0", "s"),
        (float(MOMENT), "s"),
        (f" {MOMENT}123 ", "ms"),
        ("2020-01-02T03:04:05Z", "iso"),
        ("2020-01-02 03:04:05", "iso"),
        ("2020-01-02T05:04:05+02:00", "iso"),
        ("2020-01-02 05:04:05.750 +0200", "iso"),
        (datetime(2020, 1, 2, 3, 4, 5), "iso"),
        (datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC), "iso"),
    ],
)
def test_one_moment_in_every_form(written: object, unit: str) -> None:
    assert seconds([written]) == ([MOMENT], unit, {})


def test_days_minutes_and_order() -> None:
    day = MOMENT - MOMENT % 86_400
    assert seconds(["2020-01-02", "2020-01-02 03:04"])[0] == [day, MOMENT - 5]
    assert seconds([date(2020, 1, 2)])[0] == [day]
    assert seconds([3, 1, 2]) == ([3, 1, 2], "order", {})
    assert seconds([None, MOMENT])[0] == [None, MOMENT]  # judged later, as a missing time


@given(st.lists(st.integers(10**8, 10**10), min_size=1), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_the_unit_is_found_for_all_times_since_1973(times: list[int], factor: int) -> None:
    bound = [t for t in times if t * factor < 2**63] or [10**9]
    assert seconds([t * factor for t in bound])[0] == bound


def test_order_within_a_second_is_not_lost_by_rounding() -> None:
    table = pl.DataFrame({"timestamp": [MOMENT * 1000 + 900, MOMENT * 1000 + 100], "n": ["b", "a"]})
    done, _ = to_seconds(table, bad_rows=BadRows(), where="log.csv")
    assert done["n"].to_list() == ["a", "b"]
    assert done["timestamp"].to_list() == [MOMENT, MOMENT]


def test_a_named_unit_is_taken_at_its_word() -> None:
    assert seconds([5_000_000_000_000], "s")[0] == [5_000_000_000_000]
    assert seconds([4_000_000], "ms")[0] == [4_000]
    with pytest.raises(ValueError, match="expected ISO 8601"):
        seconds(["12"], "iso")
    with pytest.raises(ValueError, match="found 'hours', expected one of"):
        seconds([1], "hours")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["yesterday", "2020-02-31", "03/04/2020", "", "-5", "nan"])
def test_unreadable_time(bad: str) -> None:
    values = [str(MOMENT), bad]
    with pytest.raises(ValueError, match=r"log\.csv: time in 'at' that cannot be read") as error:
        seconds(values)
    assert f"row 3, timestamp {bad!r}" in str(error.value)
    assert "epoch seconds" in str(error.value)
    assert seconds(values, on_bad="drop") == ([MOMENT], "s", {"bad_timestamp": 1})


@pytest.mark.parametrize("other", [f"{MOMENT}000", "2020-01-02", "0"])
def test_mixed_units(other: str) -> None:
    values = [str(MOMENT), other, str(MOMENT + 1)]
    with pytest.raises(ValueError, match="in more than one unit") as error:
        seconds(values)
    assert f"row 3, timestamp {other!r}" in str(error.value)
    assert "2 in seconds" in str(error.value)
    done = seconds(values, on_bad="drop")
    assert done == ([MOMENT, MOMENT + 1], "s", {"mixed_timestamp_unit": 1})
