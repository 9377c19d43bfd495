"""Times in every unit: what is read, what is refused, and histories in order to the last digit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from genrec.data import (
    ItemFile,
    LogFile,
    RawData,
    Temporal,
    prepare,
    read_amazon,
    read_files,
    read_movielens,
    read_recbole,
)
from genrec.data.source import BadRows
from genrec.data.timestamps import Unit, date_formats, iso, parse, settle, times_of

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
    times_read, _ = nanoseconds(stored.to_list() if unit != "ns" else stored, dtype=stored.dtype)
    nano = 10**9 // factor
    assert times_read == [NANO + 123 * nano, -nano, None]


def test_days_minutes_and_dates_before_1970() -> None:
    day = MOMENT - MOMENT % 86_400
    times_read, _ = nanoseconds(["2020-01-02", "2020-01-02 03:04"])
    assert times_read == [day * 10**9, (MOMENT - 5) * 10**9]
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
    times_read, _ = nanoseconds([t * 10**decimals for t in times])
    assert times_read == [t * 10**9 for t in times]


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


Row = tuple[int, int]  # item, time in nanoseconds
SECOND = 10**9
START = 1_700_000_000 * SECOND
ITEMS = 12


def decimals(time: int, unit: int) -> str:
    """Writes a time in a unit of so many nanoseconds, with all its decimals."""
    return f"{time // unit}.{time % unit:0{len(str(unit)) - 1}}"


def iso_8601(time: int, places: int) -> str:
    stamp = pl.Series([time // SECOND * 1000]).cast(pl.Datetime("ms")).dt.to_string("%FT%T")[0]
    return f"{stamp}.{f'{time % SECOND:09}'[:places]}+00:00"


# How times are written as text, and how many nanoseconds that tells apart.
TEXTS: dict[str, tuple[Callable[[int], str], int]] = {
    "s": (lambda t: str(t // SECOND), SECOND),
    "ms": (lambda t: str(t // 10**6), 10**6),
    "us": (lambda t: str(t // 10**3), 10**3),
    "ns": (str, 1),
    "s, decimals": (lambda t: decimals(t, SECOND), 1),
    "ms, decimals": (lambda t: decimals(t, 10**6), 1),
    "us, decimals": (lambda t: decimals(t, 10**3), 1),
    "s, scientific": (lambda t: f"{decimals(t, 10**18)}e9", 1),
    "ISO, ms": (lambda t: iso_8601(t, 3), 10**6),
    "ISO, ns": (lambda t: iso_8601(t, 9), 1),
}
# How they stand in parquet.
CELLS: dict[str, tuple[Callable[[pl.Series], pl.Series], int]] = {
    "ns": (lambda t: t, 1),
    "ms": (lambda t: t // 10**6, 10**6),
    "datetime ms": (lambda t: (t // 10**6).cast(pl.Datetime("ms")), 10**6),
    "datetime us": (lambda t: (t // 10**3).cast(pl.Datetime("us", "Asia/Tokyo")), 10**3),
    "datetime ns": (lambda t: t.cast(pl.Datetime("ns")), 1),
    # The nearest float64 of a whole microsecond is another for each.
    "float s": (lambda t: pl.Series([v // 10**3 / 10**6 for v in t]), 10**3),
    "decimal s": (lambda t: pl.Series([decimals(v, SECOND) for v in t]).str.to_decimal(scale=9), 1),
}


def csv(folder: Path, name: str, rows: list[Row], form: str) -> None:
    lines = [f"u,i{item},{TEXTS[form][0](time)}" for item, time in rows]
    (folder / f"{name}.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))


def jsonl(folder: Path, name: str, rows: list[Row], form: str) -> None:
    quote = '"' if form.startswith("ISO") else ""
    lines = [
        f'{{"user_id": "u", "item_id": "i{item}", "timestamp": {quote}{TEXTS[form][0](time)}{quote}}}'
        for item, time in rows
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def parquet(folder: Path, name: str, rows: list[Row], form: str) -> None:
    items, times = zip(*rows, strict=True)
    stamps = CELLS[form][0](pl.Series(times, dtype=pl.Int64))
    table = {"user_id": "u", "item_id": [f"i{i}" for i in items], "timestamp": stamps}
    pl.DataFrame(table).write_parquet(folder / f"{name}.parquet")


def amazon(folder: Path, name: str, rows: list[Row], form: str) -> None:
    names = ("user_id", "parent_asin", "rating", "timestamp")
    if form == "s":
        names = ("reviewerID", "asin", "overall", "unixReviewTime")
    unit = {"s": SECOND, "ms": 10**6}[form]
    reviews = (("u", f"i{item}", 5.0, time // unit) for item, time in rows)
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in reviews]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def recbole(folder: Path, name: str, rows: list[Row], form: str) -> None:
    lines = [f"u\ti{item}\t{TEXTS[form][0](time)}" for item, time in rows]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / f"{name}.inter").write_text("\n".join([head, *lines]))


def movielens(folder: Path, name: str, rows: list[Row], form: str) -> None:
    lines = [f"u,i{item},5,{TEXTS[form][0](time)}" for item, time in rows]
    (folder / f"{name}.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))


def read(folder: Path, source: str) -> RawData:
    titles = [(f"i{n}", f"title {n}") for n in range(ITEMS)]
    if source == "amazon":
        lines = [json.dumps({"parent_asin": i, "title": title}) for i, title in titles]
        (folder / "meta.jsonl").write_text("\n".join(lines))
        return read_amazon(f"{folder}/clicks-*.jsonl", folder / "meta.jsonl", max_unknown=1)
    if source == "recbole":
        lines = [f"{i}\t{title}" for i, title in titles]
        (folder / "a.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]))
        return read_recbole(folder / "clicks-1.inter", folder / "a.item")
    if source == "movielens":
        lines = [f"{i},{title},Drama" for i, title in titles]
        (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *lines]))
        return read_movielens(folder / "clicks-1.csv", folder / "movies.csv")
    (folder / "items.csv").write_text("\n".join(["item_id,title", *map(",".join, titles)]))
    return read_files(
        ItemFile(path=f"{folder}/items.csv"), LogFile(path=f"{folder}/clicks-*.{source}")
    )


CASES: list[tuple[str, Callable[[Path, str, list[Row], str], None], str, int]] = [
    *(("csv", csv, form, unit) for form, (_, unit) in TEXTS.items()),
    *(("jsonl", jsonl, form, unit) for form, (_, unit) in TEXTS.items()),
    *(("parquet", parquet, form, unit) for form, (_, unit) in CELLS.items()),
    *(("amazon", amazon, form, TEXTS[form][1]) for form in ("s", "ms")),
    *(("recbole", recbole, form, unit) for form, (_, unit) in TEXTS.items()),
    *(("movielens", movielens, form, TEXTS[form][1]) for form in ("s", "s, decimals")),
]

# Times within a second and around its ends, down to neighbouring nanoseconds.
times = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 3),
    st.integers(0, 3000).map(lambda t: t * 10**3),
    st.integers(0, 3000).map(lambda t: t * 10**6),
).map(lambda t: START + t)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CASES), st.lists(times, min_size=3, max_size=ITEMS), st.data())
def test_histories_are_in_order_of_time(
    case: tuple[str, Callable[..., None], str, int], moments: list[int], data: st.DataObject
) -> None:
    """The order is that of the times as far as they are written; ties stay as files and rows stand."""
    source, write, form, resolution = case
    rows = list(enumerate(moments))
    number = 1 if source in ("recbole", "movielens") else data.draw(st.integers(1, 11))
    shards: list[list[Row]] = [[] for _ in range(number)]
    for row in rows:
        shards[data.draw(st.integers(0, number - 1))].append(row)
    shards = [shard for shard in shards if shard]
    with tempfile.TemporaryDirectory() as name:
        for place, shard in enumerate(shards, 1):
            write(Path(name), f"clicks-{place}", shard, form)
        raw = read(Path(name), source)
    given_rows = [row for shard in shards for row in shard]
    expected = sorted(given_rows, key=lambda row: row[1] // resolution)
    done = prepare(raw, core=0, repeats="keep")
    own = done.items["item_id"]
    assert [own[i] for i in done.interactions["item"]] == [f"i{item}" for item, _ in expected]
    times_kept = done.interactions["timestamp"].to_list()
    assert times_kept == [time - time % resolution for _, time in expected]
    stats = done.stats["time"]
    assert isinstance(stats, dict)
    equal = [a == b for a, b in pairwise(times_kept)]
    assert stats["equal_neighbours"] == sum(equal)


def history(folder: Path, text: dict[str, str], **options: Any) -> list[str]:
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f"i{n},title {n}\n" for n in range(6))
    )
    for name, lines in text.items():
        (folder / name).write_text("user_id,item_id,timestamp\n" + lines)
    log = LogFile(path=f"{folder}/clicks*.csv", **options)
    done = prepare(read_files(ItemFile(path=f"{folder}/items.csv"), log), core=0)
    return [done.items["item_id"][i] for i in done.interactions["item"]]


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        (["1700000000.75", "1700000000.5", "1700000000.25"], "auto"),
        (["1700000000000.75", "1700000000000.5", "1700000000000.25"], "auto"),
        (["0.75", "0.5", "0.25"], "s"),
        (["0.75", "0.5", "0.25"], "order"),
        ([f"2024-01-01T00:00:00.00000000{n}" for n in (3, 2, 1)], "auto"),
    ],
)
def test_newest_first_within_a_second(tmp_path: Path, written: list[str], unit: str) -> None:
    lines = "".join(f"u,i{2 - n},{time}\n" for n, time in enumerate(written))
    assert history(tmp_path, {"clicks.csv": lines}, unit=unit) == ["i0", "i1", "i2"]


def test_two_files_that_alternate_within_a_second(tmp_path: Path) -> None:
    lines = [f"u,i{n},{1_700_000_000_000 + 100 * n}\n" for n in range(6)]
    files = {"clicks-1.csv": "".join(lines[1::2]), "clicks-2.csv": "".join(lines[::2])}
    assert history(tmp_path, files) == [f"i{n}" for n in range(6)]


def test_the_second_file_comes_before_the_tenth(tmp_path: Path) -> None:
    files = {f"clicks-{n}.csv": f"u,i{n // 4},2024-01-01\n" for n in (10, 2, 5)}
    assert history(tmp_path, files) == ["i0", "i1", "i2"]
    assert history(tmp_path, files, timestamp=None) == ["i0", "i1", "i2"]


def test_fractions_without_a_unit_are_in_order_over_files(tmp_path: Path) -> None:
    files = {"clicks-1.csv": "u,i0,0.1\nu,i2,0.3\n", "clicks-2.csv": "u,i1,.2\nu,i3,7\n"}
    assert history(tmp_path, files, unit="order") == ["i0", "i1", "i2", "i3"]


def test_less_than_a_second_apart_is_not_the_same_and_can_be_cut(tmp_path: Path) -> None:
    rows = [(f"u{n % 3}", f"i{n // 3}", START + n) for n in range(12)]
    rows += [("u0", "i0", START + 12), ("u0", "i0", START + 12)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(4)], "title": "t", "description": ""})
    raw = RawData(items.with_columns(image=pl.lit(None, pl.String)), log)
    done = prepare(raw, core=0, repeats="exact")
    assert done.stats["dropped"] == {"repeated_interaction": 1}
    # 13 interactions within a second: the last three test, the three before them validate.
    cut = prepare(raw, core=0, repeats="exact", split=Temporal(valid=0.25, test=0.25))
    assert cut.stats["split"] == {
        "kind": "temporal",
        "valid_from": "2023-11-14T22:13:20.000000006+00:00",
        "test_from": "2023-11-14T22:13:20.000000009+00:00",
    }
    held = cut.interactions.filter(pl.col("split") == "test")["timestamp"]
    assert sorted(held) == [START + 9, START + 10, START + 11, START + 12]


@pytest.mark.parametrize(
    ("text", "time_format"),
    [
        ("1/2/2020 3:04", "%m/%d/%Y %H:%M"),
        ("02.01.2020 03:04", "%d.%m.%Y %H:%M"),
        ("1/2/2020 3:04 AM", "%m/%d/%Y %I:%M %p"),
        ("20200102", "%Y%m%d"),
        (20200102, "%Y%m%d"),
        ("1/2/2020 03:04:05.250", "%m/%d/%Y %H:%M:%S.%f"),
        ("2020-01-02 05:04+02:00", "%Y-%m-%d %H:%M%z"),
    ],
)
def test_dates_by_their_format(text: Any, time_format: str) -> None:
    table = pl.DataFrame({"timestamp": [text, None]})
    read = parse(table, bad_rows=BadRows(), where="log.csv", time_format=time_format)
    moment = pd.to_datetime(str(text), format=time_format, utc=True)
    assert settle(read, where="x", times="ns")["timestamp"].to_list() == [
        moment.as_unit("ns").value,
        None,
    ]


@pytest.mark.parametrize(
    ("texts", "ways"),
    [
        (["12/1/2010 8:26", "1/13/2011 18:06"], ["%m/%d/%Y %H:%M"]),
        (["12/1/2010 8:26"], ["%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"]),
        (["1.12.2010"], ["%d.%m.%Y"]),
        (["Fri Aug 25 13:55:02 -0700 2017"], ["%a %b %d %H:%M:%S %z %Y"]),
        (["Dec 1, 2010", None], ["%b %d, %Y"]),
        (["2010-12-01"], []),
        ([], []),
    ],
)
def test_the_usual_formats_are_found(texts: list[str | None], ways: list[str]) -> None:
    assert date_formats(pl.Series(texts, dtype=pl.String)) == ways


@pytest.mark.parametrize(
    ("texts", "time_format", "said"),
    [
        (
            ["1/13/2011", "2/2/2011"],
            None,
            "Correct the times, or set S.time_format to '%m/%d/%Y' (which",
        ),
        (["1/2/2011"], None, "set S.time_format to '%m/%d/%Y' or '%d/%m/%Y' (which reads"),
        (["1/13/2011"], "%d/%m/%Y", "expected dates written as '%d/%m/%Y'"),
        (["soon"], None, "or say how dates are written by S.time_format, such as '%m/%d/%Y %H:%M'"),
        (
            ["2011-01-01", "2011-01-02", "soon"],
            None,
            "Correct the times, or say what they are by U",
        ),
        (
            ["1300000000000", "-4287204000"],
            None,
            'such rows out by `where: [[timestamp, ">", 0]]` in S',
        ),
        (
            ["1300000000", "1300000001", "0"],
            None,
            '`where: [[timestamp, ">=", 100000000]]` in S, or',
        ),
        (["1300000000", "1300000001", "1300000001000"], None, "to one unit, or set prepare.on_bad"),
        (["1300000000", "1300000001", "2013-01-01"], None, "to one unit, or set prepare.on_bad"),
        (["20110102"], None, "Of dates name S.time_format, such as '%Y%m%d'"),
    ],
)
def test_the_format_is_proposed(texts: list[str], time_format: str | None, said: str) -> None:
    table = pl.DataFrame({"timestamp": texts})
    options = {"setting": "U", "section": "S", "time_format": time_format}
    with pytest.raises(ValueError, match="time") as error:
        parse(table, bad_rows=BadRows(), where="log.csv", **options)  # type: ignore[arg-type]
    assert said in str(error.value)
