"""Times in any unit become nanoseconds, digit by digit; a file has one unit."""

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec.data.source import BadRows
from genrec.data.timestamps import Unit, iso, parse, settle, times_of

MOMENT = 1_577_934_245  # 2020-01-02 03:04:05 UTC
NANO = MOMENT * 10**9


def nanoseconds(
    values: list, unit: Unit = "auto", *, on_bad: str = "error", dtype: object = None
) -> tuple[list, dict[str, int]]:
    bad_rows = BadRows(on_bad)  # type: ignore[arg-type]
    times = pl.Series("timestamp", values, dtype=dtype, strict=False)  # type: ignore[arg-type]
    table = times.to_frame().with_row_index("row", 2)
    table = parse(
        table, unit=unit, bad_rows=bad_rows, where="log.csv", field="at", setting="x.unit"
    )
    table = settle(table, where="log.csv", times=times_of("at", unit))
    assert table.columns == ["row", "timestamp"]
    return table["timestamp"].to_list(), bad_rows.dropped


@pytest.mark.parametrize(
    "written",
    [
        MOMENT,
        MOMENT * 10**3,
        MOMENT * 10**6,
        MOMENT * 10**9,
        f"{MOMENT}.0",
        float(MOMENT),
        f" {MOMENT}000 ",
        "1.577934245e9",
        "1.5779342450000000000e+09",
        "2020-01-02T03:04:05Z",
        "2020-01-02 03:04:05",
        "2020-01-02T05:04:05+02:00",
        "2020-01-02 05:04:05.000 +0200",
        datetime(2020, 1, 2, 3, 4, 5),
        datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
    ],
)
def test_one_moment_in_every_form(written: object) -> None:
    assert nanoseconds([written]) == ([NANO], {})


@pytest.mark.parametrize(
    ("written", "below"),
    [
        (f"{MOMENT}.75", 750_000_000),
        (f"{MOMENT}.123456789", 123_456_789),
        (f"{MOMENT}.000000001", 1),
        (f"{MOMENT}250.5", 250_500_000),
        (f"{MOMENT}250123.25", 250_123_250),
        (f"{MOMENT}999999999", 999_999_999),
        (f"{MOMENT}123456789.00", 123_456_789),
        (f"1.{str(MOMENT)[1:]}25e+09", 250_000_000),
        (MOMENT + 0.75, 750_000_000),
        (MOMENT + 0.123456, 123_456_000),  # the shortest text of this float64
        (MOMENT * 1000 + 250.5, 250_500_000),
        (Decimal(f"{MOMENT}.123456789"), 123_456_789),
        ("2020-01-02T03:04:05.123456789Z", 123_456_789),
        ("2020-01-02 05:04:05.75+02:00", 750_000_000),
        (datetime(2020, 1, 2, 3, 4, 5, 123_456), 123_456_000),
    ],
)
def test_no_digit_is_lost(written: object, below: int) -> None:
    assert nanoseconds([written]) == ([NANO + below], {})


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_datetimes_keep_their_unit(unit: str) -> None:
    factor = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    stored = pl.Series([MOMENT * factor + 123, -1, None], dtype=pl.Int64).cast(
        pl.Datetime(unit, "Europe/Berlin")  # type: ignore[arg-type]
    )
    found, _ = nanoseconds(stored.to_list() if unit != "ns" else stored, dtype=stored.dtype)
    nano = 10**9 // factor
    assert found == [NANO + 123 * nano, -nano, None]


def test_days_minutes_and_dates_before_1970() -> None:
    day = MOMENT - MOMENT % 86_400
    found, _ = nanoseconds(["2020-01-02", "2020-01-02 03:04"])
    assert found == [day * 10**9, (MOMENT - 5) * 10**9]
    assert nanoseconds([date(2020, 1, 2)])[0] == [day * 10**9]
    assert nanoseconds([None, MOMENT])[0] == [None, NANO]  # judged later, as a missing time
    assert nanoseconds(["1969-12-31T23:59:59.25"])[0] == [-750_000_000]


def test_times_are_shown_with_the_digits_that_they_have() -> None:
    assert iso(NANO) == "2020-01-02T03:04:05+00:00"
    assert iso(NANO + 120) == "2020-01-02T03:04:05.00000012+00:00"
    assert iso(-750_000_000) == "1969-12-31T23:59:59.25+00:00"


@settings(deadline=None)
@given(st.lists(st.integers(10**8, 9 * 10**9), min_size=1), st.sampled_from([0, 3, 6, 9]))
def test_the_unit_is_found_for_all_times_since_1973(times: list[int], decimals: int) -> None:
    found, _ = nanoseconds([t * 10**decimals for t in times])
    assert found == [t * 10**9 for t in times]


@settings(deadline=None)
@given(
    st.lists(st.integers(10**17, 9 * 10**18).map(lambda t: t - t % 10**3), min_size=1, max_size=20),
    st.sampled_from([9, 6, 3]),
)
def test_decimals_are_exact_in_every_unit(times: list[int], decimals: int) -> None:
    written = [f"{t // 10**decimals}.{t % 10**decimals:0{decimals}}" for t in times]
    assert nanoseconds(written)[0] == times


@pytest.mark.parametrize(
    "values",
    [[3, 1, 2], [0.25, 0.5], ["0.25", "0.5"], ["12.5", None], [99_999_999], [1, 2, MOMENT]],
)
@pytest.mark.parametrize("on_bad", ["error", "drop"])
def test_numbers_that_do_not_tell_their_unit(values: list, on_bad: str) -> None:
    with pytest.raises(
        ValueError, match=r"log\.csv: the numbers in 'at' do not tell their"
    ) as error:
        nanoseconds(values, on_bad=on_bad)
    assert "by x.unit: s, ms, us or ns (since 1970), or order" in str(error.value)


def test_numbers_without_a_unit_keep_their_order() -> None:
    assert nanoseconds([3, 1, 2], "order")[0] == [3, 1, 2]
    assert nanoseconds([2**62, 0], "order")[0] == [2**62, 0]
    # Fractions become ranks: exact where float64 is not.
    digits = "0.1234567890123456789"
    assert nanoseconds([f"{digits}2", f"{digits}1", "0.5", ".50", "0", "7"], "order")[0] == [
        *(2, 1, 3, 3, 0, 4)
    ]
    assert nanoseconds([0.3, 0.1 + 0.2, None, 1e-7], "order")[0] == [1, 2, None, 0]


def test_a_named_unit_is_taken_at_its_word() -> None:
    assert nanoseconds([4_000_000], "ms")[0] == [4_000 * 10**9]
    assert nanoseconds([0.25, 3], "s")[0] == [250_000_000, 3 * 10**9]
    with pytest.raises(ValueError, match="expected ISO 8601"):
        nanoseconds(["12"], "iso")
    with pytest.raises(ValueError, match="found 'hours', expected one of"):
        nanoseconds([1], "hours")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="numbers from 0 on"):
        nanoseconds(["2020-01-01"], "order")


def test_less_than_a_nanosecond_is_refused_where_it_tells_two_times_apart() -> None:
    assert nanoseconds([f"{MOMENT}.1234567891", f"{MOMENT}.5"])[0] == [
        NANO + 123_456_789,
        NANO + 500_000_000,
    ]
    with pytest.raises(ValueError, match="less than a nanosecond, such as at 2020-01-02T03:04:05"):
        nanoseconds([f"{MOMENT}.1234567891", f"{MOMENT}.1234567892"])


@pytest.mark.parametrize("value", [50_000_000_000, "9999-12-31", "0001-01-01", date(9999, 1, 1)])
def test_times_that_nanoseconds_cannot_hold(value: object) -> None:
    with pytest.raises(
        ValueError, match=r"not within the years 1678 to 2261 \(1 in all; first: row 2"
    ):
        nanoseconds([value])
    assert nanoseconds([value], on_bad="drop") == ([], {"bad_timestamp": 1})


@pytest.mark.parametrize("bad", ["yesterday", "2020-02-31", "03/04/2020", "", "-5", "nan"])
def test_unreadable_time(bad: str) -> None:
    values = [str(MOMENT), bad]
    with pytest.raises(ValueError, match=r"log\.csv: time in 'at' that cannot be read") as error:
        nanoseconds(values)
    assert f"row 3, timestamp {bad!r}" in str(error.value)
    assert "epoch seconds" in str(error.value)
    assert nanoseconds(values, on_bad="drop") == ([NANO], {"bad_timestamp": 1})


@pytest.mark.parametrize("other", [f"{MOMENT}000", "2020-01-02", "0"])
def test_mixed_units(other: str) -> None:
    values = [str(MOMENT), other, str(MOMENT + 1)]
    with pytest.raises(ValueError, match="in more than one unit") as error:
        nanoseconds(values)
    assert f"row 3, timestamp {other!r}" in str(error.value)
    assert "2 in seconds" in str(error.value)
    done = nanoseconds(values, on_bad="drop")
    assert done == ([NANO, NANO + 10**9], {"mixed_timestamp_unit": 1})


def test_32_bit_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"log\.csv: the times in 'at' are 32-bit floats"):
        nanoseconds([float(MOMENT)], dtype=pl.Float32)
    assert nanoseconds([5.0, 7.0], "s", dtype=pl.Float32)[0] == [5 * 10**9, 7 * 10**9]
