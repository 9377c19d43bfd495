"""Owners' files in every format and compression, and each way in which one can be broken."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from genrec.data import tables
from genrec.data.delimited import columns_of
from genrec.data.source import BadRows

COLUMNS = {"user": "u", "item": "i"}
TEXT = "u,i,x\n1,02,=1+1\n2,03,é\n"


def read(path: Path, columns: Any = COLUMNS, *, on_bad: str = "error", **options: Any):
    bad_rows = BadRows(on_bad)  # type: ignore[arg-type]
    table = tables.read(path, columns, bad_rows=bad_rows, **options)
    return (table, bad_rows.dropped) if on_bad == "drop" else table


def put(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(raw)
    else:
        path.write_bytes(raw)
    return path


LINES = '{"u": 1, "i": "02", "x": "=1+1"}\n{"u": 2, "i": "03", "x": "é"}\n'


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("suffix", "content"),
    [(".csv", TEXT), (".tsv", TEXT.replace(",", "\t")), (".jsonl", LINES), (".ndjson", LINES)],
)
def test_text_formats_agree(tmp_path: Path, suffix: str, content: str, packing: str) -> None:
    path = put(tmp_path / f"log{suffix}{packing}", content)
    assert read(path).select("user", "item").rows() == [("1", "02"), ("2", "03")]
    whole = read(path, None)
    assert whole["x"].to_list() == ["=1+1", "é"]  # a formula is text
    assert whole["i"].to_list() == ["02", "03"]  # no id loses a zero


def test_parquet_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"u": [1, 2], "i": ["02", "03"], "row": [5, 6]}).write_parquet(path)
    assert read(path).rows() == [(1, 1, "02"), (2, 2, "03")]
    whole = read(path, None)
    assert whole.columns == ["row", "u", "i", "row_source"]


def test_globs_in_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        put(tmp_path / f"{name}.csv", TEXT)
    paths = tables.files(tmp_path / "*.csv", what="a log")
    assert [p.name for p in paths] == ["a.csv", "b.csv", "c.csv"]
    with pytest.raises(FileNotFoundError, match=r"\*\.tsv: no such file; expected a log"):
        tables.files(tmp_path / "*.tsv", what="a log")
    put(tmp_path / "d.csv", "")
    with pytest.raises(ValueError, match=r"d\.csv: the file is empty; expected a log"):
        tables.files(tmp_path / "*.csv", what="a log")


def test_row_is_the_line_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = put(tmp_path / "log.csv", "u,i,x\n1,2,3\n\n4,5,6\n\n")
    assert read(path)["row"].to_list() == [2, 4]
    path = put(tmp_path / "log.csv", 'u,i,x\n"a,b","q""r","x\ny"\n1,2,3\n')
    assert read(path).rows() == [(2, "a,b", 'q"r'), (3, "1", "2")]


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize(("row", "cells"), [("7,8", 2), ("7,8,9,10", 4)])
def test_ragged_row(tmp_path: Path, row: str, cells: int, packing: str, columns: Any) -> None:
    path = put(tmp_path / f"log.csv{packing}", f"u,i,x\n1,2,3\n\n{row}\n4,5,\n")
    with pytest.raises(ValueError, match="more or fewer cells than the 3 of the header") as error:
        read(path, columns)
    assert f"row 4, cells {cells}" in str(error.value)
    assert '"quotes"' in str(error.value)
    table, dropped = read(path, columns, on_bad="drop")
    assert table["row"].to_list() == [2, 5]
    assert table.columns == (["row", "user", "item"] if columns else ["row", "u", "i", "x"])
    assert dropped == {"ragged_row": 1}


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_not_utf8(tmp_path: Path, suffix: str, columns: Any) -> None:
    lines = "u,i\n1,2\nx\xe9,3\n" if suffix == ".csv" else '{"u":1,"i":2}\n\n{"u":"x\xe9","i":3}\n'
    path = put(tmp_path / f"log{suffix}", lines.encode("latin-1"))
    with pytest.raises(ValueError, match=r"not UTF-8 at line 3, byte \d+ \(0xe9\).*iconv -f"):
        read(path, columns)


def test_byte_order_marks(tmp_path: Path) -> None:
    path = put(tmp_path / "log.csv", "\ufeffu,i\n1,2\n")
    assert read(path).rows() == [(2, "1", "2")]
    path = put(tmp_path / "log.jsonl", '\ufeff{"u": 1, "i": 2}\n')
    assert read(path, None).rows() == [(1, 1, 2)]
    assert read(path).rows() == [(1, "1", "2")]
    for name in ("wide.csv", "wide.csv.gz", "wide.jsonl"):
        path = put(tmp_path / name, "u,i\n1,2\n".encode("utf-16"))
        with pytest.raises(
            ValueError, match=r"wide\.\S+: the file is UTF-16. Set `encoding: utf-16`"
        ):
            read(path)


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz", ".csv.zst", ".jsonl.zst"])
def test_cut_off_archive(tmp_path: Path, suffix: str, columns: Any) -> None:
    rows = [(k, k * 7919 % 1000) for k in range(5000)]
    text = "".join(f"{u},{i}\n" for u, i in rows)
    if ".json" in suffix:
        text = "".join(json.dumps({"u": u, "i": i}) + "\n" for u, i in rows)
    path = put(tmp_path / f"log{suffix}", "u,i\n" + text if ".csv" in suffix else text)
    assert len(read(path)) == 5000
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut off or damaged .*Download or copy it again"):
        read(path, columns)


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("line", ["{oops}", "[1, 2]", '{"u": 1'])
def test_bad_json_line(tmp_path: Path, line: str, columns: Any) -> None:
    path = put(tmp_path / "log.jsonl", LINES + line + "\n")
    with pytest.raises(ValueError, match=r"log\.jsonl: line 3 is not a JSON object"):
        read(path, columns)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_missing_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    pl.DataFrame({"u": [1], "item": [2]}).write_parquet(path)
    put(path, "u,item\n1,2\n") if suffix == ".csv" else None
    put(path, '{"u": 1, "item": 2}\n') if suffix == ".jsonl" else None
    with pytest.raises(ValueError, match=r"column 'items' is missing; found \['u', 'item'\]") as e:
        read(path, {"user": "u", "item": "items"}, field="prepare.source.interactions")
    assert "Did you mean 'item'?" in str(e.value)
    assert "prepare.source.interactions.item." in str(e.value)


def test_a_field_may_begin_later_in_json_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "log.jsonl", '{"u": 1}\n{"u": 2, "i": 5}\n')
    assert read(path)["item"].to_list() == [None, "5"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "u;i\n1;2\n", "one column only: name its `separator`"),
        ("a.csv", "u,i,u\n1,2,3\n", "the header has a column twice: 'u'"),
        ("a.csv", "u,i\n", "no rows; expected at least one"),
        ("a.csv", 'u,i\n"1,2\n3,4\n', "a.csv: line 2 opens a quote that is not closed"),
        ("a.parquet", "u,i\n1,2\n", "not readable as parquet"),
        ("a.dat", "u,i\n1,2\n", "unknown kind of file; expected a name that ends in .csv"),
    ],
)
def test_misshapen_file(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: ") as error:
        read(put(tmp_path / name, content))
    assert said in str(error.value)


def test_separator_and_quote_can_be_named(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a.csv", "u;i\n1;2\n"), separator=";").rows() == [(2, "1", "2")]
    path = put(tmp_path / "a.tsv", 'u\ti\n"1\t2\n')
    assert read(path, quoting="none").rows() == [(2, '"1', "2")]


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("u,i\r1,2\r3,u\r", [(2, "1", "2"), (3, "3", "u")]),  # polars alone: 'u' stands twice
        ('u,i\r1,"2\n3"\r', [(2, "1", "2\n3")]),
        ("u,i\r\n1,2\r\n", [(2, "1", "2")]),
        ('u,"i"\n1,"2\r3"\n', [(2, "1", "2\r3")]),
    ],
)
def test_lines_that_end_in_a_carriage_return(
    tmp_path: Path, text: str, rows: Any, packing: str, columns: Any
) -> None:
    path = put(tmp_path / f"log.csv{packing}", text)
    assert read(path, columns).rows() == rows
    assert columns_of(path) == ["u", "i"]


def test_line_ends_of_two_kinds_lose_no_row(tmp_path: Path) -> None:
    path = put(tmp_path / "log.csv", "u,i\r\n1,2\r\n3,4\r5,6\r\n")
    with pytest.raises(
        ValueError, match=r"log\.csv: row 3 holds a carriage return outside of quotes"
    ):
        read(path)
    path = put(tmp_path / "log.jsonl", '{"u": 1, "i": 2}\r{"u": 3, "i": 4}\r')
    assert read(path).rows() == [(1, "1", "2"), (2, "3", "4")]


@pytest.mark.parametrize("columns", [COLUMNS, None])
def test_separator_of_several_letters(tmp_path: Path, columns: Any) -> None:
    path = put(tmp_path / "log.csv", 'u::i::t\n1::2:3::"x\n\n4::5::\n')
    table = read(path, columns, separator="::")
    assert table.select("row", *columns if columns else "ui").rows() == [
        (2, "1", "2:3"),
        (4, "4", "5"),
    ]
    if columns is None:
        assert table["t"].to_list() == ['"x', None]
    put(path, "u::i::t\n1::2::3::4\n")
    with pytest.raises(ValueError, match=r"row 2, cells 4.*replace a '::' within a cell"):
        read(path, columns, separator="::")
    put(path, "u::i::u\n1::2::3\n")
    with pytest.raises(ValueError, match="the header has a column twice: 'u'"):
        read(path, columns, separator="::")


BIG = [2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**25]


@pytest.mark.parametrize("columns", [COLUMNS, None])
def test_whole_numbers_of_json_are_exact(tmp_path: Path, columns: Any) -> None:
    lines = [f'{{"u": {n}, "i": {n}}}\n' for n in BIG]
    path = put(tmp_path / "a.jsonl", "".join(lines) + '{"u": 3.0, "i": null}\n')
    first = read(path, columns, ids=("user", "item") if columns else ("u", "i"))
    assert first.to_series(1).to_list() == [*map(str, BIG), "3"]
    assert first.to_series(2).to_list() == [*map(str, BIG), None]


def test_numbers_stay_numbers_where_they_can(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"p": 3, "q": 9007199254740993}\n{"p": 3.5, "q": 0.5}\n')
    table = read(path, None)
    assert table["p"].to_list() == [3.0, 3.5]
    assert table["q"].to_list() == ["9007199254740993", "0.5"]


def test_float_ids_that_may_be_two_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"u": [float(2**53), 1.0, float("nan")], "i": [1, 2, 3]}).write_parquet(path)
    with pytest.raises(ValueError, match=r"ids in 'u' are floating.* 1 of them .*9007199254740992"):
        read(path, ids=("user", "item"))
    pl.DataFrame({"u": [7.0, 1.0, float("nan")], "i": [1, 2, 3]}).write_parquet(path)
    assert read(path, ids=("user",))["user"].to_list() == ["7", "1", None]


def test_a_decimal_without_fraction_keeps_its_digits() -> None:
    table = pl.DataFrame({"ean": [Decimal(2**53 + 1)]}, schema={"ean": pl.Decimal(20, 0)})
    kept = table.select(tables.as_attribute("ean", table.schema["ean"]))
    assert kept["ean"].to_list() == ["9007199254740993"]


HALVES = [r"cut \ud83d", r"\ude00x", r"\ud83d\u0041", r"\ud83d\ud83d\ude00"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("columns", [COLUMNS, None])
def test_half_of_a_character_in_an_id(tmp_path: Path, half: str, columns: Any) -> None:
    path = put(
        tmp_path / "a.jsonl", f'{{"u": 1, "i": "\\ud83d\\ude00"}}\n{{"u": 2, "i": "{half}"}}\n'
    )
    ids = ("user", "item") if columns else ("u", "i")
    with pytest.raises(
        ValueError, match=r"a\.jsonl: line 2: the id in 'i' is '.*half of a character"
    ):
        read(path, columns, ids=ids)
    table, dropped = read(path, columns, ids=ids, on_bad="drop")
    assert table.to_series(2).to_list() == ["😀"]
    assert dropped == {"broken_id": 1}


def test_half_of_a_character_in_a_text_is_replaced_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f'{{"u": {n}, "t": "{half}", "l": ["{half}"]}}\n' for n, half in enumerate(HALVES)]
    path = put(tmp_path / "a.jsonl", '{"u": 9, "t": "\\ud83d\\ude00", "l": []}\n' + "".join(lines))
    table, dropped = read(path, None, ids=("u",), on_bad="drop")
    texts = ["cut \ufffd", "\ufffdx", "\ufffdA", "\ufffd😀"]
    assert table["t"].to_list() == ["😀", *texts]
    assert table["l"].to_list() == [[], *([text] for text in texts)]
    assert dropped == {"broken_character": 4}
    assert "a.jsonl: half of a character" in caplog.text
    assert "4 in all; first: line 2, field 't': 'cut \\ud83d'" in caplog.text
    assert read(path, {"user": "u"})["user"].to_list() == ["9", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [('[{"u": 1}]', "`jq -c '.[]' a.json`"), ('{\n"u": 1\n}', "`jq -c . a.json`")],
)
def test_json_that_is_not_lines_gets_advice(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"a\.json: line 1 is not a JSON object") as error:
        read(put(tmp_path / "a.json", text))
    assert said in str(error.value)


def test_values_of_json_lines_keep_what_they_are(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.jsonl",
        '{"n": 1, "f": 1, "b": true, "l": ["x", "y"], "m": "12", "o": {"k": 1}}\n'
        '{"n": 2, "f": 2.5, "b": null, "l": null, "m": 12, "o": {}}\n',
    )
    table = read(path, None)
    assert table.schema["n"] == pl.Int64
    assert table.schema["f"] == pl.Float64
    assert table.schema["b"] == pl.Boolean
    assert table["l"].to_list() == [["x", "y"], []]
    assert table["m"].to_list() == ["12", "12"]
    assert table["o"].to_list() == ['{"k": 1}', None]


def test_python_literals_are_data_and_never_run(tmp_path: Path) -> None:
    path = put(
        tmp_path / "meta.json", "{'asin': 'a', 'price': 3.5}\n{'asin': 'b', 'price': None}\n"
    )
    assert read(path, None)["asin"].to_list() == ["a", "b"]
    path = put(tmp_path / "meta.json", "{'asin': 'a'}\n{'asin': __import__('os').getcwd()}\n")
    with pytest.raises(ValueError, match=r"meta\.json: line 2 is not a JSON object"):
        read(path, None)
