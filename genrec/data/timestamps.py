"""Times as owners write them, to whole seconds: epochs in any unit, ISO 8601, or an order.

The unit is read off the size of the numbers, never guessed row by row: a file has one, and rows in
another are bad rows. A dataset in which some times are off by a thousand splits without an error
and trains on nonsense.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import polars as pl

from genrec.data.source import BadRows

Unit = Literal["auto", "s", "ms", "us", "ns", "iso", "order"]
PER_SECOND = {"order": 1, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "iso": 10**6}
# Where each unit begins. 1e8 seconds is 1973; the same moment in the next unit is a thousand times
# that, so a unit ends in the year 5138. Smaller numbers are places in a list, and stay as they are.
_STARTS = {"s": 10**8, "ms": 10**11, "us": 10**14, "ns": 10**17}
_NAMES = {
    "order": "plain order (below 100,000,000)",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "iso": "ISO 8601",
}
_FORMATS = (
    ("%Y-%m-%d", None),
    ("%Y-%m-%d %H:%M", None),
    ("%Y-%m-%d %H:%M:%S%.f", None),
    ("%Y-%m-%d %H:%M%z", "UTC"),
    ("%Y-%m-%d %H:%M:%S%.f%z", "UTC"),
)


def to_seconds(
    table: pl.DataFrame,
    *,
    unit: Unit = "auto",
    bad_rows: BadRows,
    where: str | Path,
    field: str = "timestamp",
) -> tuple[pl.DataFrame, str]:
    """Returns `table` with `timestamp` in whole seconds, and the unit that it was in.

    Args:
        table: has `timestamp`: text, whole or real numbers, dates or datetimes; null stays null.
            Times without a zone are UTC.
        unit: "auto" finds it by the size of the numbers; "order" are places in a list, kept as
            they are; any other is taken at its word.
        bad_rows: what to do with a time that cannot be read or is in another unit than most.
        where: the file, for messages.
        field: the owner's name of the column, for messages.

    Returns:
        The rows in their order, or by time where times within one second differ (rounding would
        lose that order); and one of "s", "ms", "us", "ns", "iso", "order".

    Raises:
        ValueError: a bad time, unless such rows are dropped; no such unit.
    """
    if unit not in get_args(Unit):
        raise ValueError(f"timestamp unit: found {unit!r}, expected one of {get_args(Unit)}")
    table = table.with_columns(_numbers(table.schema["timestamp"])).with_columns(_unit(unit))
    shown = ("user_id", "item_id", "timestamp")
    unread = pl.col("timestamp").is_not_null() & (
        pl.col("_unit").is_null() | (pl.col("_time") < 0) & (pl.col("_unit") != "iso")
    )
    table = bad_rows.reject(
        table,
        unread,
        reason="bad_timestamp",
        where=where,
        problem=f"time in '{field}' that cannot be read; expected "
        + (_NAMES[unit] if unit != "auto" else "epoch seconds, ms, us or ns, or ISO 8601"),
        mend="Correct the times, or say what they are by `unit`",
        show=shown,
    )
    found = (
        table["_unit"]
        .drop_nulls()
        .value_counts()
        .sort(["count", "_unit"], descending=[True, False])
    )
    main = str(found["_unit"][0]) if len(found) else "s"
    counts = ", ".join(f"{n:,} in {_NAMES[u]}" for u, n in sorted(found.rows()))
    table = bad_rows.reject(
        table,
        pl.col("_unit") != main,
        reason="mixed_timestamp_unit",
        where=where,
        problem=f"times in '{field}' in more than one unit ({counts}); expected one",
        mend="Bring them to one unit",
        show=shown,
    )
    factor = PER_SECOND[main]
    if factor > 1 and (table["_time"] % factor != 0).any():
        table = table.sort("_time", maintain_order=True)
    seconds = (pl.col("_time") // factor).alias("timestamp")
    return table.with_columns(seconds).drop("_time", "_iso", "_unit"), main


def _numbers(dtype: pl.DataType) -> list[pl.Expr]:
    """Returns `_time` (Int64, in the owner's unit; microseconds for dates) and whether it is a date."""
    time, no = pl.col("timestamp"), pl.lit(value=False)
    if dtype.is_temporal():
        micro = time.cast(pl.Datetime("us")).dt.epoch("us")
        return [micro.alias("_time"), pl.lit(value=True).alias("_iso")]
    if dtype == pl.String:
        text = time.str.strip_chars()
        # Through pandas, whole numbers beside a gap become "1577836800.0".
        number = pl.coalesce(
            text.cast(pl.Int64, strict=False),
            text.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
        )
        date = pl.when(number.is_null()).then(text)
        return [
            pl.coalesce(number, _iso(date)).alias("_time"),
            (number.is_null() & text.is_not_null()).alias("_iso"),
        ]
    return [time.cast(pl.Int64, strict=False).alias("_time"), no.alias("_iso")]


def _iso(text: pl.Expr) -> pl.Expr:
    plain = (
        text.str.replace("[Tt]", " ")
        .str.replace(r"\s*[Zz]$", "+00:00")
        .str.replace(r"\s+([+-]\d{2}:?\d{2})$", "$1")
    )
    return pl.coalesce(
        plain.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False).dt.epoch("us")
        for form, zone in _FORMATS
    )


def _unit(unit: Unit) -> pl.Expr:
    """Returns the column `_unit` of each row; null where the time fits no unit."""
    found: pl.Expr = pl.when(pl.col("_iso")).then(pl.lit("iso"))
    if unit == "auto":
        for name, start in reversed(_STARTS.items()):
            found = found.when(pl.col("_time") >= start).then(pl.lit(name))  # type: ignore[attr-defined]
        found = found.otherwise(pl.lit("order"))  # type: ignore[attr-defined]
    elif unit == "iso":
        found = pl.when(pl.col("_iso")).then(pl.lit("iso"))
    else:
        found = pl.when(~pl.col("_iso")).then(pl.lit(unit))
    known = pl.when(pl.col("_time").is_not_null()).then(found)
    return known.cast(pl.Enum(list(_NAMES))).alias("_unit")
