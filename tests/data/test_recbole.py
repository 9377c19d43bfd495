"""RecBole's atomic files: typed headers, fields by name, quotes as letters."""

from pathlib import Path
from typing import Any

import pytest

from genrec.data import read_recbole

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "1\t10\t4\t978300760\n1\t20\t2\t978300761\n2\t10\t5\t978300762.0\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tprice:float\tclass:token_seq\n"
    '10\tThe "Big" One\t1999\t3.5\tComedy Drama\n20\t"Quoted\t2001\t\tDrama\n'
)


def read(folder: Path, inter: str = INTER, item: str = ITEM, **options: Any):
    (folder / "ml.inter").write_text(inter, "utf-8")
    (folder / "ml.item").write_text(item, "utf-8")
    return read_recbole(folder / "ml.inter", folder / "ml.item", **options)


def test_fields_and_types(tmp_path: Path) -> None:
    raw = read(tmp_path)
    assert raw.items.columns[4:] == ["release_year", "price", "class"]
    assert raw.items.rows() == [
        ("10", 'The "Big" One', "", None, "1999", 3.5, "Comedy Drama"),
        ("20", '"Quoted', "", None, "2001", None, "Drama"),
    ]
    assert raw.interactions.rows() == [
        ("1", "10", 978300760 * 10**9),
        ("1", "20", 978300761 * 10**9),
        ("2", "10", 978300762 * 10**9),
    ]


def test_fields_by_name(tmp_path: Path) -> None:
    raw = read(tmp_path, title="class", description=["movie_title", "release_year"])
    assert raw.items.row(0)[:3] == ("10", "Comedy Drama", 'The "Big" One 1999')
    raw = read(tmp_path, timestamp=None, rating="rating", min_rating=3)
    assert raw.interactions["timestamp"].to_list() == [0, 1]
    assert raw.dropped == {"below_min_rating": 1}


def test_a_tab_in_a_title_gets_advice_that_helps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 4, cells 6") as error:
        read(tmp_path, item=ITEM + "30\tTwo\tParts\t1990\t\tDrama\n")
    assert "read without quotes: replace a '\\t' within a cell" in str(error.value)
    assert "Put cells" not in str(error.value)


@pytest.mark.parametrize(
    ("inter", "item", "options", "said"),
    [
        (INTER.replace(":token", ""), ITEM, {}, "ml.inter: line 1 is 'user_id"),
        (INTER.replace("\t", ","), ITEM, {}, "expected fields by tabs, each with its type"),
        ("", ITEM, {}, "ml.inter: the file is empty"),
        (INTER, ITEM, {"user": "uid"}, "column 'uid' is missing; found ['user_id', 'item_id'"),
        (
            INTER,
            ITEM.replace("movie_title", "name"),
            {},
            "ml.item: no field 'title', nor a single one",
        ),
        (INTER, ITEM + "30\tShort\n", {}, "row 4, cells 2"),
        (INTER, ITEM.replace("3.5", "€3.5"), {}, "row 2, item_id '10', price '€3.5'"),
        (INTER + "3\t10\t1\tnever\n", ITEM, {}, "row 5, user_id '3', item_id '10', timestamp 'n"),
        (INTER + "3\t99\t1\t978300763\n", ITEM, {}, "1 of 4 interactions (25.0%)"),
    ],
)
def test_bad_files(tmp_path: Path, inter: str, item: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"ml\.(inter|item): ") as error:
        read(tmp_path, inter, item, **options)
    assert said in str(error.value)
