"""Times as owners write them, to whole nanoseconds: epochs in any unit, dates, or an order.

Nothing is rounded: text is read digit by digit, since float64 cannot hold an epoch in nanoseconds. The
size of the numbers tells their unit. A file has one unit, and rows in another are bad rows: a dataset
in which some times are off by a thousand splits without an error and trains on nonsense.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from genrec.data.source import BadRows, Times

Unit = Literal["auto", "s", "ms", "us", "ns", "iso", "order"]
# How many decimals of each unit make nanoseconds.
_DECIMALS = {"s": 9, "iso": 9, "ms": 6, "us": 3, "ns": 0, "order": 0}
# Where each unit begins. 1e8 seconds is 1973; the same moment in the next unit is a thousand times
# that. Smaller numbers may be seconds since the first click, shares of a range or places in a list.
_STARTS = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
_NAMES = {
    "order": "numbers below 100,000,000",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "iso": "ISO 8601",
}
_LARGEST = 2**63 - 1
_NUMBER = r"^\+?(\d*)\.?(\d*)$"
_FRACTION = r"(:\d{2}:\d{2})\.(\d+)"  # of a second
# Three digits of exponent: numbers of a million digits are no times.
_EXPONENT = r"^\+?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{1,3}$"
_FORMATS = (
    ("%Y-%m-%d", None),
    ("%Y-%m-%d %H:%M", None),
    ("%Y-%m-%d %H:%M:%S", None),
    ("%Y-%m-%d %H:%M%z", "UTC"),
    ("%Y-%m-%d %H:%M:%S%z", "UTC"),
)
# Ways to write dates that are looked for where ISO 8601 does not fit.
_DATES = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%b %d, %Y"),
)
_WHOLE_DATES = ("%a %b %d %H:%M:%S %z %Y",)  # of Unix, such as Foursquare's and Goodreads'
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def times_of(timestamp: str | None, unit: Unit) -> Times:
    """Returns what the timestamps of a source are, from the recipe's `timestamp` and `unit`."""
    if timestamp is None:
        return "none"
    return "order" if unit == "order" else "ns"


def parse(
    table: pl.DataFrame,
    *,
    unit: Unit = "auto",
    bad_rows: BadRows,
    where: str | Path,
    field: str = "timestamp",
    setting: str | None = None,
    time_format: str | None = None,
    section: str | None = None,
) -> pl.DataFrame:
    """Returns `table` with `timestamp` in whole nanoseconds since 1970 (UTC), rows in their order.

    Args:
        table: has `timestamp`: text, whole or real numbers, dates or datetimes; null stays null.
            Times without a zone are UTC.
        unit: "auto" finds it by the size of the numbers, from 100,000,000 on; "order" are numbers
            without a unit, kept as they are; any other unit is not checked.
        bad_rows: what to do with a time that cannot be read, that 64 bits cannot hold in nanoseconds
            (before 1677, after 2262), or that is in another unit than most.
        where: the file, for messages.
        field: the owner's name of the column, for messages.
        setting: where the recipe names the unit, for messages; None where it cannot.
        time_format: how dates are written, in the letters of strptime; None: ISO 8601 or numbers.
        section: the part of the recipe that has `time_format` and `where`, for messages; None where none
            has.

    Returns:
        `timestamp` is Int64. Where digits are left (below a nanosecond; below one, of plain numbers)
        they are in `_below`, as text without trailing zeros: see `settle`.

    Raises:
        ValueError: a bad time, unless such rows are dropped; numbers that do not tell their unit; no
            such unit.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"timestamp unit: found {unit!r}, expected one of {get_args(Unit)}")
    table = table.with_columns(_read(table["timestamp"], time_format)).with_columns(_unit(unit))
    if table.schema["timestamp"] == pl.Float32 and (table["timestamp"].abs().max() or 0) > 2**24:  # type: ignore[operator]
        raise ValueError(
            f"{where}: the times in '{field}' are 32-bit floats, which stand for several moments each "
            "(about two minutes of epoch seconds). Write them as whole numbers, 64-bit floats or text."
        )
    shown = ("user_id", "item_id", "timestamp")
    unread = pl.col("timestamp").is_not_null() & (
        pl.col("_unit").is_null() | (pl.col("_time") < 0) & (pl.col("_unit") != "iso")
    )
    expected = _expected(unit) if unit != "auto" else "epoch seconds, ms, us or ns, or ISO 8601"
    unit_fix = f", or say what they are by {setting}" if setting else ""
    fix = _fix(table["timestamp"], table.filter(unread)["timestamp"], field, section)
    table = bad_rows.reject(
        table,
        unread,
        reason="bad_timestamp",
        where=where,
        problem=f"time in '{field}' that cannot be read; expected "
        + (f"dates written as {time_format!r}" if time_format else expected),
        fix="Correct the times" + (fix or unit_fix),
        show=shown,
    )
    units = (
        table["_unit"]
        .drop_nulls()
        .value_counts()
        .sort(["count", "_unit"], descending=[True, False])
    )
    main = str(units["_unit"][0]) if len(units) else "s"
    if unit == "auto" and main == "order":
        some = table.filter(pl.col("_unit") == "order")["timestamp"].head(3).to_list()
        raise ValueError(
            f"{where}: the numbers in '{field}' do not tell their unit, such as {some}; expected epochs "
            f"from 100,000,000 on, or ISO 8601. Say what they are by {setting}: s, ms, us or ns "
            "(since 1970), or order (numbers without a unit that are larger the later)."
            + (f" Of dates name {section}.time_format, such as '%Y%m%d'." if section else "")
        )
    counts = ", ".join(f"{n:,} in {_NAMES[u]}" for u, n in sorted(units.rows()))
    table = bad_rows.reject(
        table,
        pl.col("_unit") != main,
        reason="mixed_timestamp_unit",
        where=where,
        problem=f"times in '{field}' in more than one unit ({counts}); expected one",
        fix="Bring them to one unit" + _fix_of_small(units["_unit"].to_list(), field, section),
        show=shown,
    )
    decimals = _DECIMALS[main]
    factor = 10**decimals
    most = _LARGEST // factor - (factor > 1)  # a fraction still fits behind it
    table = bad_rows.reject(
        table,
        ~pl.col("_time").is_between(-most, most),
        reason="bad_timestamp",
        where=where,
        problem=f"time in '{field}' (in {_NAMES[main]}) that is not within the years 1678 to 2261",
        fix="Correct the times"
        + (f", or set {setting}=order where they are numbers without a unit" if setting else ""),
        show=shown,
    )
    exact, below = pl.col("_time") * factor, pl.col("_below")
    left = below.str.slice(decimals)
    if (table["_below"] != "").any():
        exact = exact + below.str.head(decimals).str.pad_end(decimals, "0").cast(
            pl.Int64, strict=False
        ).fill_null(0)
    table = table.with_columns(exact.alias("timestamp"), left.alias("_below"))
    table = table.drop("_time", "_iso", "_unit")
    return table if (table["_below"] != "").any() else table.drop("_below")


def settle(log: pl.DataFrame, *, where: str | Path, times: Times) -> pl.DataFrame:
    """Returns a log of all files in which `timestamp` alone gives the order.

    Args:
        log: what `parse` returned; `_below` where digits are left.
        where: the files, for messages.
        times: "order" makes numbers with fractions their ranks from 0, equal ones the same.

    Raises:
        ValueError: times that differ by less than a nanosecond.
    """
    if "_below" not in log.columns:
        return log
    log = log.with_columns(pl.col("_below").fill_null(""))
    keys = log.select("timestamp", "_below").drop_nulls("timestamp").unique()
    keys = keys.sort("timestamp", "_below").with_columns(rank=pl.int_range(pl.len()))
    if times == "order":
        ranked = log.join(keys, on=["timestamp", "_below"], how="left", maintain_order="left")
        return ranked.with_columns(timestamp="rank").drop("_below", "rank")
    if keys["timestamp"].is_duplicated().any():
        first = int(keys.filter(pl.col("timestamp").is_duplicated())["timestamp"][0])
        raise ValueError(
            f"{where}: times that differ by less than a nanosecond, such as at {iso(first)}; expected "
            "nine decimals of a second at most. Set `unit: order`, which keeps their order and no dates."
        )
    return log.drop("_below")


def iso(time: int) -> str:
    """Returns a time in nanoseconds as ISO 8601, with as many decimals as it has."""
    seconds, below = divmod(time, 10**9)
    text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()
    digits = f"{below:09}".rstrip("0")
    return f"{text}{'.' if digits else ''}{digits}+00:00"


def date_formats(texts: pl.Series) -> list[str]:
    """Returns the usual ways to write dates that read all of some texts, in strptime's letters.

    Several where they leave it open, such as 1/2/2024; none where ISO 8601 is needed, or another way.
    """
    known = texts.drop_nulls().unique()
    return [
        form
        for form in (*(date + clock for date in _DATES for clock in _CLOCKS), *_WHOLE_DATES)
        if len(known)
        and (_dates(known, form).dt.year().is_between(1970, 2100).fill_null(False)).all()
    ]


def _fix(times: pl.Series, unread: pl.Series, field: str, section: str | None) -> str:
    """Returns the option that would read some times, or leave them out; "" where there is none."""
    if section is None or unread.is_empty():
        return ""
    if unread.cast(pl.String, strict=False).str.contains(r"^\s*-\d").fill_null(False).all():
        return f', or leave such rows out by `where: [[{field}, ">", 0]]` in {section}'
    if times.dtype != pl.String:
        return ""
    return _format_fix(times, unread, f"{section}.time_format")


def _fix_of_small(units: Sequence[str], field: str, section: str | None) -> str:
    """Returns the condition that leaves out numbers that are too small for the first of the units."""
    if section is None or len(units) < 2 or units[0] not in _STARTS:
        return ""
    main, order = units[0], ["order", *_STARTS]
    if any(unit not in order[: order.index(main)] for unit in units[1:]):
        return ""
    return f', or leave such rows out by `where: [[{field}, ">=", {_STARTS[main]}]]` in {section}'


def _format_fix(texts: pl.Series, unread: pl.Series, setting: str) -> str:
    """Returns the advice to name the way in which dates are written; "" where most could be read."""
    if ways := date_formats(pl.concat([texts.head(1000), unread.head(1000)])):
        return f", or set {setting} to {' or '.join(map(repr, ways))} (which reads them)"
    if 2 * len(unread) < texts.count():
        return ""
    return f", or say how dates are written by {setting}, such as '%m/%d/%Y %H:%M'"


def _dates(texts: pl.Series, time_format: str) -> pl.Series:
    """Returns texts as datetimes, null where they are written in another way.

    Raises:
        ValueError: no date can be read by this.
    """
    chrono = time_format.replace(".%f", "%.f")  # polars' word for a fraction of a second
    try:
        return texts.str.strip_chars().str.to_datetime(chrono, time_unit="us", strict=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"time_format {time_format!r}: no date can be read by it ({str(error).splitlines()[0]}); "
            "expected strptime's letters for year, month and day, such as '%m/%d/%Y %H:%M'"
        ) from error


def _expected(unit: str) -> str:
    return "numbers from 0 on" if unit == "order" else _NAMES[unit]


def _read(times: pl.Series, time_format: str | None = None) -> list[pl.Series]:
    """Returns each time in parts.

    `_time`: Int64, whole units, seconds for dates; `_below`: its decimals as text, without trailing
    zeros; `_iso`: whether it is a date.
    """
    dtype = times.dtype
    if time_format and (dtype == pl.String or dtype.is_integer()):
        times = _dates(times.cast(pl.String), time_format)
        dtype = times.dtype
    if dtype == pl.String:
        return _text(times.str.strip_chars())
    if dtype == pl.Date:
        return _columns(times.cast(pl.Int32).cast(pl.Int64) * 86_400, is_iso=True)
    if isinstance(dtype, pl.Datetime):
        decimals = {"ms": 3, "us": 6, "ns": 9}[dtype.time_unit]
        stored = times.cast(pl.Int64)
        below = stored % 10**decimals
        digits = None
        if (below != 0).any():
            digits = below.cast(pl.String).str.zfill(decimals).str.strip_chars_end("0")
        return _columns(stored // 10**decimals, digits, is_iso=True)
    if dtype.is_float():
        number = times.cast(pl.Float64)
        whole = number.cast(pl.Int64, strict=False)
        if (whole.cast(pl.Float64) == number).all() and whole.null_count() == times.null_count():
            return _columns(whole)
        return _text(number.cast(pl.String))  # the shortest text that is this very number
    if dtype.is_decimal():
        return _text(times.cast(pl.String))
    if dtype.is_integer():
        return _columns(times.cast(pl.Int64, strict=False))
    return _columns(pl.Series([None] * len(times), dtype=pl.Int64))


def _columns(
    time: pl.Series, below: pl.Series | None = None, *, is_iso: bool = False
) -> list[pl.Series]:
    digits = pl.repeat("", len(time), dtype=pl.String, eager=True) if below is None else below
    dates = pl.repeat(is_iso, len(time), dtype=pl.Boolean, eager=True)
    return [time.alias("_time"), digits.alias("_below"), dates.alias("_iso")]


def _text(text: pl.Series) -> list[pl.Series]:
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == text.null_count():
        return _columns(whole)
    scientific = text.str.contains(_EXPONENT)
    if scientific.any():  # rare, and only Python's decimals are exact
        written = text.filter(scientific).unique()
        plain = [f"{Decimal(number):f}" for number in written]
        text = text.replace(written, pl.Series(plain, dtype=pl.String))
    value = pl.col("text")
    # Where a cell is empty, pandas makes whole numbers "1577836800.0".
    front, back = (value.str.extract(_NUMBER, group) for group in (1, 2))
    table = text.alias("text").to_frame().with_columns(front=front, back=back)
    is_number = (pl.col("front").str.len_chars() + pl.col("back").str.len_chars()) > 0
    table = table.with_columns(is_number=is_number.fill_null(False))
    dated = (
        pl.when(~pl.col("is_number"))
        .then(value)
        .str.replace("[Tt]", " ")
        .str.replace(r"\s*[Zz]$", "+00:00")
        .str.replace(r"\s+([+-]\d{2}:?\d{2})$", "$1")
    )
    second = dated.str.replace(_FRACTION, "$1")
    date = pl.coalesce(
        second.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False).dt.epoch("s")
        for form, zone in _FORMATS
    )
    number = pl.when(pl.col("front") == "").then(pl.lit("0")).otherwise("front")
    digits = pl.when("is_number").then("back").otherwise(dated.str.extract(_FRACTION, 2))
    return table.select(
        pl.when("is_number")
        .then(number.cast(pl.Int64, strict=False))
        .otherwise(date)
        .alias("_time"),
        digits.fill_null("").str.strip_chars_end("0").alias("_below"),
        (~pl.col("is_number") & value.is_not_null()).alias("_iso"),
    ).get_columns()


def _unit(unit: Unit) -> pl.Expr:
    """Returns the column `_unit` of each row; null where the time fits no unit."""
    named: pl.Expr = pl.when(pl.col("_iso")).then(pl.lit("iso"))
    if unit == "auto":
        for name, start in reversed(_STARTS.items()):
            named = named.when(pl.col("_time") >= start).then(pl.lit(name))  # type: ignore[attr-defined]
        named = named.otherwise(pl.lit("order"))  # type: ignore[attr-defined]
    elif unit == "iso":
        named = pl.when(pl.col("_iso")).then(pl.lit("iso"))
    else:
        named = pl.when(~pl.col("_iso")).then(pl.lit(unit))
    known = pl.when(pl.col("_time").is_not_null()).then(named)
    return known.cast(pl.Enum(list(_NAMES))).alias("_unit")
