"""`genrec init`: what it says, writes and refuses. tests/data/test_public_layouts.py has the layouts."""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from genrec.cli import cli
from genrec.data import read_source
from genrec.recipe import load

ROWS = [(u, (u * k) % 13, k) for u in range(1, 9) for k in range(1, 9)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = ["customer,sku,when", *(f"{u},s{i},2024-01-{k:02}" for u, i, k in ROWS)]
    (tmp_path / "clicks.csv").write_text("\n".join(lines))
    lines = ["sku,name,about", *(f's{i},"Thing, No. {i}",Made of {i} parts' for i in range(13))]
    (tmp_path / "things.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def genrec(*words: str) -> Result:
    return CliRunner().invoke(cli, ["init", *words])


def test_it_says_what_it_understood_and_writes_two_recipes(folder: Path) -> None:
    done = genrec("clicks.csv", "things.csv")
    assert done.exit_code == 0, done.exception
    for part in (
        "clicks.csv: csv, separator ',', utf-8, header, 3 columns",
        "user        customer             such as '1'",
        "item        sku                  such as 's1'",
        "timestamp   when                 such as '2024-01-01'",
        "title       name                 such as 'Thing, No. 0'",
        "read: 8 users, 12 items, 64 interactions",
        "wrote clicks.yaml, and clicks-quick.yaml",
        "next: genrec run clicks-quick.yaml",
    ):
        assert part in done.output
    recipe, quick = load("clicks.yaml"), load("clicks-quick.yaml")
    assert recipe.prepare == quick.prepare
    assert recipe.train.epochs > quick.train.epochs
    assert [r.kind for r in recipe.retrieve][:2] == ["popular", "cooccurrence"]


def test_recipes_that_are_there_are_not_replaced(folder: Path) -> None:
    (folder / "clicks-quick.yaml").write_text("mine: true")
    done = genrec("clicks.csv")
    assert "clicks-quick.yaml is there already" in str(done.exception)
    assert (folder / "clicks-quick.yaml").read_text() == "mine: true"
    assert not (folder / "clicks.yaml").exists()
    assert genrec("clicks.csv", "--force").exit_code == 0
    assert genrec("clicks.csv", "--out", "other.yaml").exit_code == 0
    assert (folder / "other-quick.yaml").exists()


def test_files_in_the_other_order_are_told_apart(folder: Path) -> None:
    assert genrec("things.csv", "clicks.csv").exit_code == 0
    source = yaml.safe_load(Path("clicks.yaml").read_text())["prepare"]["source"]
    assert source["interactions"]["path"] == "clicks.csv"
    assert source["items"]["path"] == "things.csv"


def test_columns_can_be_named_or_counted(folder: Path) -> None:
    assert genrec("clicks.csv", "--user", "sku", "--item", "1").exit_code == 0
    log = load("clicks.yaml").prepare.source.interactions
    assert (log.user, log.item) == ("sku", "customer")
    done = genrec("clicks.csv", "--user", "nobody", "--force")
    assert "--user nobody: clicks.csv has no such column; it has ['customer', 'sku'" in str(
        done.exception
    )


def test_images_of_a_folder(folder: Path) -> None:
    (folder / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "photos" / "s1.png")
    assert genrec("clicks.csv", "things.csv", "--images", "photos").exit_code == 0
    recipe = load("clicks.yaml")
    assert recipe.prepare.source.images == "photos"
    assert recipe.embed.image.kind == "descriptors"
    assert "no such folder" in str(genrec("clicks.csv", "--images", "none", "--force").exception)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("just\nsome\nlines\n", "no separator splits its lines"),
        ('{"a": 1}\n{"a": \n', "not an object per line"),
    ],
)
def test_what_is_no_table(folder: Path, text: str, problem: str) -> None:
    Path("odd.txt").write_text(text)
    assert problem in str(genrec("odd.txt").exception)
    assert "no such file" in str(genrec("none.csv").exception)


def test_dates_that_can_be_read_in_two_ways_are_said(folder: Path) -> None:
    lines = ["user,item,date", *(f"{u},s{i},{k}/{u}/2024" for u, i, k in ROWS)]
    Path("log.csv").write_text("\n".join(lines))
    done = genrec("log.csv")
    assert done.exit_code == 0, done.exception
    assert "times are read by %m/%d/%Y" in done.output
    assert "? these dates could also be ['%d/%m/%Y']" in done.output
    lines = ["user,item,date", *(f"{u},s{i},{k + 12}/{u}/2024" for u, i, k in ROWS)]
    Path("log.csv").write_text("\n".join(lines))
    done = genrec("log.csv", "--force")
    assert "times are read by %d/%m/%Y" in done.output
    assert "?" not in done.output


def test_dates_are_told_by_the_whole_file(folder: Path) -> None:
    """The first 500 rows fit both ways; a later one does not."""
    lines = [f"{n % 40},s{n % 13},1/2/2024" for n in range(600)] + ["1,s1,25/2/2024"]
    Path("log.csv").write_text("\n".join(["user,item,date", *lines]))
    done = genrec("log.csv")
    assert "times are read by %d/%m/%Y" in done.output
    assert "could also be" not in done.output


def made(name: str, text: str, encoding: str = "utf-8") -> dict[str, Any]:
    """Writes a file, inits it, and returns the section `interactions` of the recipe."""
    Path(name).write_bytes(text.encode(encoding))
    done = genrec(name, "--out", "made.yaml", "--force")
    assert done.exit_code == 0, done.exception
    section = yaml.safe_load(Path("made.yaml").read_text())["prepare"]["source"]
    return {**section["interactions"], "items": section.get("items"), "said": done.output}


def test_a_german_export(folder: Path) -> None:
    lines = [f"{u};A{i};T\xfcr {i};{k:02}.01.2024 10:30;1;{i},{k}0" for u, i, k in ROWS]
    head = "Kundennummer;Artikelnummer;Bezeichnung;Bestelldatum;Menge;Preis"
    log = made("bestellungen.csv", "\r\n".join([head, *lines]), "cp1252")
    assert (log["user"], log["item"], log["timestamp"]) == (
        *("Kundennummer", "Artikelnummer", "Bestelldatum"),
    )
    assert log["time_format"] == "%d.%m.%Y %H:%M"
    assert "explode" not in log
    assert log["items"] == {"title": "Bezeichnung"}


def test_large_user_numbers_are_no_times_and_words_that_come_again_are_kinds(folder: Path) -> None:
    rows = [
        f'{151603712 + u},"Game, {i}",{("purchase", "play")[k % 2]},{u * k / 10},0'
        for u, i, k in ROWS
    ]
    log = made("steam-200k.csv", "\n".join(rows))
    assert (log["user"], log["item"], log["timestamp"]) == ("user", "item", None)
    assert log["columns"] == ["user", "item", "type", "column_4", "column_5"]
    assert "kinds of events ['play', 'purchase']: all count alike" in log["said"]
    rows = [f"{u},{i},{4 + i % 2},{('pv', 'buy')[k % 2]},{1511544070 + k}" for u, i, k in ROWS]
    log = made("UserBehavior.csv", "\n".join(rows))
    assert log["columns"] == ["user", "item", "column_3", "type", "timestamp"]
    assert "ratings" not in log["said"]


def test_dates_of_other_programs(folder: Path) -> None:
    objects = [
        {
            "user_id": f"u{u}",
            "book_id": str(i),
            "date_added": f"{datetime(2017, 6, k):%a %b %d} 06:18:27 -0700 2017",
        }
        for u, i, k in ROWS
    ]
    log = made("goodreads.json", "".join(f"{json.dumps(each)}\n" for each in objects))
    assert log["timestamp"] == "date_added"
    assert log["items"] is None  # a date is no title
    raw = read_source(load("made.yaml").prepare.source, folder=folder)
    assert raw.interactions["timestamp"].min() == 1496323107 * 10**9


def test_rows_with_empty_cells_are_left_out_and_said(folder: Path) -> None:
    lines = [f"{'' if k == 3 else u},{'' if k == 4 else i},{k}" for u, i, k in ROWS]
    log = made("gaps.csv", "\n".join(["user,item,ts", *lines]))
    assert log["where"] == [["user", "!=", None], ["item", "!=", None]]
    assert "left out: rows but those where" in log["said"]


@pytest.mark.parametrize("count", [1, 2, 2000])
def test_a_json_array_is_named(folder: Path, count: int) -> None:
    Path("array.json").write_text(json.dumps([{"user": n, "item": n} for n in range(count)]))
    error = str(genrec("array.json").exception)
    assert "one JSON array; expected an object per line" in error
    assert "jq -c '.[]' array.json > array.jsonl" in error


def test_a_problem_of_the_files_comes_with_what_was_guessed(folder: Path) -> None:
    lines = [f"{u},{i},{1700000000 + n}" for n, (u, i, _) in enumerate(ROWS * 10)] + ["1,2,soon"]
    Path("odd.csv").write_text("\n".join(["user,item,time", *lines]))
    error = str(genrec("odd.csv").exception)
    assert "user        user" in error
    assert "time in 'time' that cannot be read" in error
    assert "name columns by --user" in error
    assert not Path("odd.yaml").exists()
    Path("head.csv").write_text("user,item\n")
    assert "a header and no rows" in str(genrec("head.csv").exception)


def test_parts_by_a_glob_and_parts_that_are_taken_for_two_files(folder: Path) -> None:
    frame = pl.DataFrame(ROWS, ["user", "item", "time"], orient="row").with_columns(
        pl.col("time") + 1_700_000_000
    )
    for n in range(2):
        frame[n::2].write_parquet(f"part-{n}.parquet")
    done = genrec("part-*.parquet", "--out", "parts.yaml")
    assert done.exit_code == 0, done.exception
    assert "read: 8 users, 12 items, 64 interactions" in done.output
    error = str(genrec("part-0.parquet", "part-1.parquet").exception)
    assert "have the same columns ['user', 'item', 'time']" in error
    assert "a glob in quotes" in error
    assert "is this folder" in str(genrec(".").exception)
    assert "nor files that it matches" in str(genrec("none-*.csv").exception)


def test_a_title_may_be_named_without_a_header(folder: Path) -> None:
    rows = [f"{u}\t{i}\t2024-01-{k:02}\tSong no. {i}" for u, i, k in ROWS]
    Path("log.tsv").write_text("\n".join(rows))
    assert genrec("log.tsv", "--title", "4").exit_code == 0
    source = load("log.yaml").prepare.source
    assert source.items.title == "column_4"
    titles = read_source(source, folder=folder).items["title"].to_list()
    assert set(titles) == {f"Song no. {i}" for _, i, _ in ROWS}


def test_quotes_that_close_nowhere_are_characters(folder: Path) -> None:
    rows = [f'{u}\t{i}\t{k}\tthe {12 + i}" mix' for u, i, k in ROWS * 12]
    rows[700] = '1\t2\t3\t"Weird'  # after the rows that are looked at
    Path("log.tsv").write_text("\n".join(["user\titem\tt\tname", *rows]))
    done = genrec("log.tsv")
    assert done.exit_code == 0, done.exception
    assert load("log.yaml").prepare.source.interactions.quoting == "none"


@pytest.mark.parametrize("name", ["log.csv.gz", "log.parquet", "log.xlsx", "log.zip"])
def test_damaged_files_are_named(folder: Path, name: str) -> None:
    if name.endswith("xlsx"):
        pytest.importorskip("fastexcel")
    frame = pl.DataFrame(ROWS * 50, ["user", "item", "time"], orient="row")
    frame.write_parquet("whole.parquet")
    whole = {
        "log.csv.gz": gzip.compress(frame.write_csv().encode()),
        "log.parquet": Path("whole.parquet").read_bytes(),
        "log.xlsx": b"PK\x03\x04" + bytes(500),
        "log.zip": b"PK\x03\x04" + bytes(500),
    }[name]
    Path(name).write_bytes(whole[:-40])
    error = genrec(name).exception
    assert isinstance(error, ValueError)
    assert f"{name}: cannot be read, it may be damaged or cut short" in str(error)


def test_which_id_it_is_is_no_doubt_once_it_is_settled(folder: Path) -> None:
    lines = [f"{978000 + i},{i},Book {i}" for i in range(13)]
    Path("books.csv").write_text("\n".join(["isbn,book_id,title", *lines]))
    Path("reads.csv").write_text(
        "\n".join(["user_id,book_id,ts", *(f"{u},{i},{k}" for u, i, k in ROWS)])
    )
    done = genrec("reads.csv", "books.csv")
    assert "item        book_id" in done.output
    assert "isbn'; it could" not in done.output
