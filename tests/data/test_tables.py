"""Owners' files in every format and compression, and each way in which one can be broken."""

import gzip
import json
import sys
import zipfile
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
    path = put(tmp_path / "meta.json", "{u'asin': u'a', u'x': u\"it's\"}\n{u'asin': u'b'}\n")
    assert read(path, None)["asin"].to_list() == ["a", "b"]
    path = put(tmp_path / "meta.json", "{'asin': 'a'}\n{'asin': __import__('os').getcwd()}\n")
    with pytest.raises(ValueError, match=r"meta\.json: line 2 is not a JSON object"):
        read(path, None)


@pytest.mark.parametrize("columns", [COLUMNS, None])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.data", {"form": "tsv"}),
        ("a", {"form": "tsv"}),
        ("a.txt.gz", {"form": "csv", "separator": "\t"}),
        ("a.dat", {"form": "csv", "separator": "\t", "encoding": "latin-1"}),
        ("a.tsv", {"encoding": "utf-16"}),
        ("a.tsv.zst", {"quoting": "backslash"}),
        ("a.tsv", {"quoting": "none"}),
    ],
)
def test_files_without_a_header(tmp_path: Path, name: str, options: Any, columns: Any) -> None:
    encoding = options.get("encoding", "utf-8")
    path = put(tmp_path / name, "1\té\t3\n\n4\tb\t6\n".encode(encoding))
    table = read(path, columns, header=["u", "i", "x"], **options)
    assert table.select("row", *columns or "ui").rows() == [(1, "1", "é"), (3, "4", "b")]


def test_a_header_of_another_width(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "1,2,3\n4,5,6\n")
    for header, separator in ((["u", "i"], None), (["u", "i"], "::"), (["u"] * 4, ";")):
        with pytest.raises(ValueError, match=r"a\.csv: `columns` has \d names .*'1,2,3'"):
            read(path, header=header, separator=separator)
    path = put(tmp_path / "b.csv", "1,2\n3,4,5\n6,7\n")
    with pytest.raises(ValueError, match=r"than the 2 of `columns` .*row 2, cells 3"):
        read(path, header=["u", "i"])
    table, dropped = read(path, header=["u", "i"], on_bad="drop")
    assert table["row"].to_list() == [1, 3]
    assert dropped == {"ragged_row": 1}


def test_a_missing_header_is_suspected_where_there_is_an_option(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "1,7,1700000000\n1,8,1700000001\n")
    with pytest.raises(
        ValueError, match="looks like data: name the columns, such as `columns: "
    ) as e:
        read(path, options=True, field="prepare.source.interactions")
    assert "[user, item, rating]` in prepare.source.interactions" in str(e.value)
    path = put(tmp_path / "a.csv", "1,1,5\n1,8,5\n")
    with pytest.raises(ValueError, match=r"has a column twice: '1'.*looks like data"):
        read(path, options=True)
    with pytest.raises(ValueError, match="column 'u' is missing") as e:
        read(put(tmp_path / "a.csv", "1,7\n1,8\n"))
    assert "columns:" not in str(e.value)


ESCAPED = 'u;i\n"a \\"b\\"; c";"1\\\\2"\n"d\ne";f\n'


@pytest.mark.parametrize("packing", ["", ".gz", ".zip"])
def test_backslash_escapes(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.csv{packing}"
    if packing == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", ESCAPED)
    else:
        put(path, ESCAPED)
    table = read(path, separator=";", quoting="backslash")
    assert table.rows() == [(2, 'a "b"; c', "1\\2"), (3, "d\ne", "f")]


def test_zip_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    pl.DataFrame({"u": [1], "i": [2]}).write_parquet(tmp_path / "x.parquet")
    members = {"log.csv": TEXT.encode(), "log.parquet": (tmp_path / "x.parquet").read_bytes()}
    members |= {"log.jsonl": LINES.encode()}
    for name, content in members.items():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("folder")
            archive.writestr(f"folder/{name}", content)
        assert read(path)["user"][0] in (1, "1")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.csv", "")
    with pytest.raises(
        ValueError, match=r"found 2 files in the archive \(folder/log\.jsonl, b\.csv\)"
    ):
        read(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"a\.zip: the compressed file is cut off or damaged"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le"])
def test_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    text = "u,i\n1,é\n" if "csv" in name else '{"u": 1, "i": "é"}\n'
    path = put(tmp_path / name, text.encode(encoding))
    assert read(path, encoding=encoding)["item"].to_list() == ["é"]
    with pytest.raises(ValueError, match=rf"{name}: (not UTF-8|the file is UTF-16|.*JSON|column)"):
        read(path)
    with pytest.raises(ValueError, match=rf"{name}: not ascii"):
        read(path, encoding="ascii")


def test_several_characters_in_another_encoding(tmp_path: Path) -> None:
    path = put(tmp_path / "a.dat", "1::é\n".encode("latin-1"))
    options = {"form": "csv", "separator": "::", "header": ["u", "i"]}
    assert read(path, encoding="latin-1", **options)["item"].to_list() == ["é"]
    with pytest.raises(ValueError, match=r"a\.dat: not UTF-8 at line 1, byte 4"):
        read(path, **options)


def test_a_folder_of_parts(tmp_path: Path) -> None:
    for name in ("b=2/part-10.csv", "b=2/part-2.csv", "_SUCCESS", ".part-2.csv.crc"):
        (tmp_path / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        put(tmp_path / "log" / name, TEXT)
    names = [path.name for path in tables.files(tmp_path / "log", what="a log")]
    assert names == ["part-2.csv", "part-10.csv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no files in this folder; expected a log"):
        tables.files(tmp_path / "empty", what="a log")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.parquet", {"separator": ";"}, "`separator` and `quoting` are for text files"),
        ("a.jsonl", {"quoting": "none"}, "`separator` and `quoting` are for text files"),
        ("a.parquet", {"header": ["u"]}, "parquet has names"),
    ],
)
def test_options_of_other_formats(tmp_path: Path, name: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(put(tmp_path / name, "x"), **options)


def test_swallowed_rows_are_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path / "a.tsv", 'u\ti\tx\n1\t"Foo\tx\n2\ta\ty\n3\tBar"\tz\n')
    assert len(read(path, options=True)) == 1
    assert "row 2 has a cell with a line break and the separator in it" in caplog.text
    assert "Set `quoting: none` in prepare.source if quotes are ordinary" in caplog.text
    assert read(path, quoting="none")["item"].to_list() == ['"Foo', "a", 'Bar"']


@pytest.mark.parametrize(
    ("text", "line"),
    [('u,i\n1,2\n3,"4\n5,6\n', 3), ('u,i\n"1"x,2\n', 2), ('u,i\n"a\nb",1\n"c\n', 4)],
)
def test_an_open_quote_is_named(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"a\.csv: line {line} opens a quote") as error:
        read(put(tmp_path / "a.csv", text), options=True)
    assert "Set `quoting: none` in prepare.source" in str(error.value)


def test_without_the_package_that_reads_excel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"a\.xlsx: reading Excel needs fastexcel; run: pip .*\[excel\]"
    ):
        read(put(tmp_path / "a.xlsx", "x"))
