"""A user's own tables: names, attributes, kinds of interaction, and ids in every type."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec.data import ItemFile, LogFile, RawData, prepare, read_files

ITEMS = """sku,name,short,long,price,stock,category
1,Lamp,warm,"a lamp, old",12.50,3,home
02,"=HYPERLINK(""http://x"")",cold,,7,,home
x3,Mug,,,,1,
"""
LOG = """customer,article,at,event
u1,1,2020-01-01,view
u1,1,2020-01-03,view
u1,02,2020-01-02,buy
u2,x3,2020-01-01,view
u2,x3,2020-01-05,cart
u2,x3,2020-01-06,view
"""
NAMES = {"item": "sku", "title": "name"}
LOG_NAMES = {"user": "customer", "item": "article", "timestamp": "at"}


def read(
    folder: Path,
    items: str = ITEMS,
    log: str = LOG,
    *,
    i: Any = None,
    x: Any = None,
    **options: Any,
) -> RawData:
    (folder / "items.csv").write_text(items, "utf-8")
    (folder / "log.csv").write_text(log, "utf-8")
    return read_files(
        ItemFile(path=str(folder / "items.csv"), **(NAMES | (i or {}))),
        LogFile(path=str(folder / "log.csv"), **(LOG_NAMES | (x or {}))),
        **options,
    )


def test_columns_by_any_name_and_the_rest_as_attributes(tmp_path: Path) -> None:
    raw = read(tmp_path, i={"description": ["short", "long"], "numbers": ["price", "stock"]})
    assert raw.items.columns[4:] == ["price", "stock", "category"]
    assert raw.items.rows() == [
        ("1", "Lamp", "warm a lamp, old", None, 12.5, 3.0, "home"),
        ("02", '=HYPERLINK("http://x")', "cold", None, 7.0, None, "home"),
        ("x3", "Mug", "", None, None, 1.0, None),
    ]
    assert raw.interactions.rows()[:2] == [
        ("u1", "1", 1577836800 * 10**9),
        ("u1", "1", 1578009600 * 10**9),
    ]
    assert raw.dropped == {}


def test_attributes_can_be_chosen_and_never_shadow_ours(tmp_path: Path) -> None:
    raw = read(tmp_path, i={"attributes": ["category"]})
    assert raw.items.columns == ["item_id", "title", "description", "image", "category"]
    raw = read(tmp_path, ITEMS.replace("category", "user").replace("stock", "title"))
    assert raw.items.columns[4:] == ["short", "long", "price", "title_source", "user_source"]


def test_without_times_the_order_of_rows_counts(tmp_path: Path) -> None:
    raw = read(tmp_path, x={"timestamp": None})
    assert raw.interactions["timestamp"].to_list() == [0, 1, 2, 3, 4, 5]
    assert raw.times == "none"


@pytest.mark.parametrize(
    ("weights", "threshold", "kept", "below"),
    [
        # u1 views item 1 twice, buys 02; u2 views x3, puts it into the cart, views it again.
        ({"view": 1, "cart": 3, "buy": 5}, 1, [0, 1, 2, 3, 4, 5], 0),
        ({"view": 1, "cart": 3, "buy": 5}, 2, [1, 2, 4, 5], 2),
        ({"view": 1, "cart": 3, "buy": 5}, 5, [2, 5], 4),  # 1 + 3 + 1: reached by the last view
        ({"view": 0, "cart": 1, "buy": 1}, 1, [2, 4, 5], 3),
        ({"view": 0.1, "cart": 0.7, "buy": 0.8}, 0.8, [2, 4, 5], 3),  # 0.1 + 0.7 is 0.8 here
        ({"view": 2, "cart": -1, "buy": 2}, 2, [0, 1, 2, 3, 5], 1),  # a return takes away
    ],
)
def test_weights_add_up_over_time(
    tmp_path: Path, weights: dict[str, float], threshold: float, kept: list[int], below: int
) -> None:
    raw = read(tmp_path, x={"type": "event", "weights": weights, "threshold": threshold})
    rows = [tuple(line.split(",")[:3]) for line in LOG.splitlines()[1:]]
    expected = sorted((rows[k] for k in kept), key=lambda row: row[2])
    assert [row[:2] for row in raw.interactions.rows()] == [row[:2] for row in expected]
    assert raw.dropped == ({"below_threshold": below} if below else {})


def test_weights_never_look_ahead(tmp_path: Path) -> None:
    options = {"x": {"type": "event", "weights": {"view": 1, "cart": 3, "buy": 5}, "threshold": 2}}
    lines = LOG.splitlines(keepends=True)
    header, rows = lines[0], sorted(lines[1:], key=lambda line: line.split(",")[2])
    whole = read(tmp_path, log=header + "".join(rows), **options).interactions
    for cut in range(4, len(rows)):  # with 3 rows nothing counts yet
        part = read(tmp_path, log=header + "".join(rows[:cut]), **options).interactions
        assert part.equals(whole.head(len(part)))


def test_a_type_without_weight(tmp_path: Path) -> None:
    x = {"type": "event", "weights": {"view": 1, "buy": 1}}
    with pytest.raises(ValueError, match=r"log\.csv: interaction of a type without weight") as e:
        read(tmp_path, x=x)
    assert "['buy', 'cart', 'view']" in str(e.value)
    assert "row 6, user_id 'u2', item_id 'x3', type 'cart'" in str(e.value)
    assert read(tmp_path, x=x, on_bad="drop").dropped == {"unnamed_type": 1}


def test_ratings(tmp_path: Path) -> None:
    log = "customer,article,at,stars\nu,1,1,5\nu,02,2,2.5\nu,x3,3,4\n"
    stars = {"rating": "stars", "unit": "order"}
    raw = read(tmp_path, log=log, x=stars | {"min_rating": 3})
    assert raw.interactions["item_id"].to_list() == ["1", "x3"]
    assert raw.dropped == {"below_min_rating": 1}
    with pytest.raises(ValueError, match=r"row 5, user_id 'u', item_id '1', rating 'good'"):
        read(tmp_path, log=log + "u,1,4,good\n", x=stars)
    with pytest.raises(ValueError, match=r"min_rating=6; the highest found is 5"):
        read(tmp_path, log=log, x=stars | {"min_rating": 6})


@pytest.mark.parametrize("items_are", [int, str, float])
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_ids_that_differ_only_in_type_are_one(tmp_path: Path, items_are: type, form: str) -> None:
    ids = [items_are(k) if items_are is not str else str(k) for k in (12, 7)]
    items, log = tmp_path / f"items.{form}", tmp_path / f"log.{form}"
    table = pl.DataFrame({"item_id": ids, "title": ["a", "b"]})
    times = pl.DataFrame({"user_id": [1, 1], "item_id": [12, 7], "timestamp": [5, 6]})
    for path, frame in ((items, table), (log, times)):
        frame.write_parquet(path) if form == "parquet" else frame.write_ndjson(path)
    raw = read_files(ItemFile(path=str(items)), LogFile(path=str(log), unit="order"))
    assert raw.times == "order"
    assert raw.items["item_id"].to_list() == ["12", "7"]
    assert raw.interactions.rows() == [("1", "12", 5), ("1", "7", 6)]


def test_large_ids_of_json_stay_what_they_are(tmp_path: Path) -> None:
    ids = ["9007199254740993", "9007199254740992", "3.0", "18446744073709551617"]
    items = [f'{{"item_id": {n}, "title": "t", "ean": {2**63 + k}}}' for k, n in enumerate(ids)]
    log = [
        f'{{"user_id": {2**64 + k}, "item_id": {n}, "timestamp": 1700000000}}'
        for k, n in enumerate(ids)
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(items))
    (tmp_path / "log.jsonl").write_text("\n".join(log))
    raw = read_files(
        ItemFile(path=str(tmp_path / "items.jsonl")), LogFile(path=str(tmp_path / "log.jsonl"))
    )
    known = ["9007199254740993", "9007199254740992", "3", "18446744073709551617"]
    assert raw.items["item_id"].to_list() == known
    assert raw.items["ean"].to_list() == [str(2**63 + k) for k in range(4)]
    assert raw.interactions["item_id"].to_list() == known
    assert raw.interactions["user_id"].to_list() == [str(2**64 + k) for k in range(4)]


def test_half_an_emoji_in_a_title_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [r'{"item_id": "a", "title": "cut \ud83d"}', '{"item_id": "b", "title": "B"}']
    (tmp_path / "items.jsonl").write_text("\n".join(items))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1700000001\nu,b,1700000002\n")
    raw = read_files(
        ItemFile(path=str(tmp_path / "items.jsonl")), LogFile(path=str(tmp_path / "log.csv"))
    )
    assert raw.items["title"].to_list() == ["cut \ufffd", "B"]
    assert raw.dropped == {"broken_character": 1}
    assert "items.jsonl: half of a character" in caplog.text
    assert "line 1, field 'title': 'cut \\ud83d'" in caplog.text


def test_mixed_types_of_one_id_are_a_repeated_item(tmp_path: Path) -> None:
    lines = [{"item_id": 12, "title": "a"}, {"item_id": "12", "title": "b"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,12,2020-01-01\n")
    files = ItemFile(path=str(tmp_path / "items.jsonl")), LogFile(path=str(tmp_path / "log.csv"))
    with pytest.raises(ValueError, match=r"items\.jsonl: repeated item_id.*row 2, item_id '12'"):
        read_files(*files)
    assert read_files(*files, on_bad="drop").items["title"].to_list() == ["a"]


def test_several_files_name_the_one_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n2,b\n")
    for name, row in (("log-1", "u,1,100000000\n"), ("log-2", "u,2,100000001\n,1,100000002\n")):
        (tmp_path / f"{name}.csv").write_text("user_id,item_id,timestamp\n" + row)
    files = ItemFile(path=str(tmp_path / "items.csv")), LogFile(path=str(tmp_path / "log-*.csv"))
    with pytest.raises(ValueError, match=r"without user_id .*log-2\.csv', row 3"):
        read_files(*files)
    raw = read_files(*files, on_bad="drop")
    assert raw.interactions["item_id"].to_list() == ["1", "2"]
    (tmp_path / "log-3.csv").write_text("user_id,item_id,timestamp\nu,1,5\n")
    with pytest.raises(
        ValueError, match=r"log-3\.csv: the numbers in 'timestamp' do not tell.*interactions\.unit"
    ):
        read_files(*files, on_bad="drop")


def test_lists_dates_and_objects_become_text(tmp_path: Path) -> None:
    rows = {
        "item_id": ["1"],
        "title": ["a"],
        "tags": [["x", "y"]],
        "since": [pl.Series(["2020-01-02"]).str.to_date()[0]],
        "size": [{"w": 1}],
        "new": [True],
        "photo": [b"\x00"],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,1,2020-01-01\n")
    raw = read_files(
        ItemFile(path=str(tmp_path / "items.parquet")), LogFile(path=str(tmp_path / "log.csv"))
    )
    assert raw.items.columns[4:] == ["tags", "since", "size", "new"]
    assert raw.items.row(0)[4:] == ("x, y", "2020-01-02", '{"w":1}', True)


def test_unknown_items_are_counted_up_to_a_share(tmp_path: Path) -> None:
    log = LOG + "u9,nowhere,2020-01-01,view\n"
    with pytest.raises(ValueError, match=r"1 of 7 interactions \(14.3%\)") as error:
        read(tmp_path, log=log)
    assert "such as ['nowhere']; expected at most 5.0%" in str(error.value)
    assert "raise prepare.source.max_unknown" in str(error.value)
    assert "differ" not in str(error.value)
    with pytest.raises(ValueError, match="1 of 7 interactions"):
        read(tmp_path, log=log, on_bad="drop")  # too many are no matter of single rows
    raw = read(tmp_path, log=log, max_unknown=0.2)
    assert raw.dropped == {"unknown_item": 1}
    assert len(raw.interactions) == 6


def test_a_lost_zero_is_hinted_at(tmp_path: Path) -> None:
    log = LOG.replace(",02,", ",2,").replace(",x3,", ",X3,").replace(",1,", ",1.0,")
    with pytest.raises(ValueError, match=r"Of 3 such ids 3 differ from one there only by case"):
        read(tmp_path, log=log)


@pytest.mark.parametrize(
    ("i", "x", "said"),
    [
        ({"title": "nam"}, {}, "items.csv: column 'nam' is missing; found ['sku', 'name'"),
        ({"title": "nam"}, {}, "Did you mean 'name'? Name the column that holds it in "),
        ({"title": "nam"}, {}, "prepare.source.items.title"),
        ({}, {"user": "client"}, "prepare.source.interactions.user"),
        ({"numbers": ["cost"]}, {}, "prepare.source.items.numbers"),
        ({"numbers": ["category"]}, {}, "row 2, item_id '1', category 'home'"),
        ({"image": "photo"}, {}, "prepare.source.items.image"),
    ],
)
def test_a_column_that_is_not_there(tmp_path: Path, i: Any, x: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"found|number") as error:
        read(tmp_path, i=i, x=x)
    assert said in str(error.value)


def test_a_user_with_one_interaction_is_counted(tmp_path: Path) -> None:
    log = "customer,article,at\n" + "".join(
        f"u1,{k},{n}\n" for n, k in enumerate(("1", "02", "x3"))
    )
    done = prepare(read(tmp_path, log=log + "lonely,1,9\n", x={"unit": "order"}), core=0)
    assert done.stats["users"] == 1
    assert done.stats["dropped"] == {"interaction_of_user_too_short": 1, "user_too_short": 1}


SALES = """who,what,name,price,n,invoice,when
7,1,Mug,2.5,2,10,2020-01-01
7,2,,3.0,-1,11,2020-01-02
8,2,Lamp,3.5,1,C12,2020-01-03
8,3, ,,0,13,2020-01-04
9,3,Rope,1.0,5,14,2020-01-05
8,1,Cup,9.0,,15,2020-01-06
"""
DAY, FIRST = 86_400 * 10**9, 1_577_836_800 * 10**9


def sales(folder: Path, items: Any = None, text: str = SALES, **options: Any) -> RawData:
    (folder / "sales.csv").write_text(text)
    log = {"path": f"{folder}/sales.csv", "user": "who", "item": "what", "timestamp": "when"}
    on_bad = options.pop("on_bad", "error")
    return read_files(items and ItemFile(**items), LogFile(**log | options), on_bad=on_bad)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ([("n", ">", 0)], [0, 2, 4]),
        ([("n", ">=", 0), ("n", "<", 2)], [2, 3]),
        ([("n", "<=", -1.0)], [1]),
        ([("n", "=", 2)], [0]),
        ([("n", "!=", 2)], [1, 2, 3, 4, 5]),
        ([("n", "=", None)], [5]),
        ([("what", "=", "3")], [3, 4]),
        ([("what", "in", (1, "3"))], [0, 3, 4, 5]),
        ([("what", "not in", (1, "3"))], [1, 2]),
        ([("invoice", "starts with", "C")], [2]),
        ([("invoice", "not starts with", "C")], [0, 1, 3, 4, 5]),
        ([("name", "=", None)], [1, 3]),
        ([("name", "!=", None), ("n", "!=", None)], [0, 2, 4]),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_rows_are_kept_by_conditions(
    tmp_path: Path, where: Any, kept: list[int], form: str
) -> None:
    raw = sales(tmp_path, where=where)
    if form == "parquet":  # with numbers as numbers
        pl.read_csv(tmp_path / "sales.csv").write_parquet(tmp_path / "sales.parquet")
        raw = sales(tmp_path, where=where, path=f"{tmp_path}/sales.parquet")
    assert [(time - FIRST) // DAY for time in raw.interactions["timestamp"]] == kept
    assert raw.dropped == {"left_out_by_where": 6 - len(kept)}


def test_what_is_compared_with_a_number_is_one(tmp_path: Path) -> None:
    text = SALES.replace("Cup,9.0,,", "Cup,9.0,many,")
    with pytest.raises(
        ValueError, match=r"cell in 'n' that is not a number.*row 7, where.0 'many'"
    ):
        sales(tmp_path, text=text, where=[("n", ">", 0)])
    raw = sales(tmp_path, text=text, where=[("n", ">", 0)], on_bad="drop")
    assert raw.dropped == {"bad_number": 1, "left_out_by_where": 2}
    with pytest.raises(ValueError, match=r"no usable rows .*'left_out_by_where': 6"):
        sales(tmp_path, where=[("n", ">", 99)])


def test_items_without_a_file_are_those_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for items in (None, {}):
        raw = sales(tmp_path, items)
        assert raw.items.rows() == [(i, i, "", None) for i in "123"]
        assert "sales.csv: the titles of the items are their ids" in caplog.text
        assert prepare(raw, core=0).stats["findings"] == list(raw.findings)
        assert len(raw.findings) == 1
        caplog.clear()
    named = {"title": "name", "numbers": ["price"], "description": ["invoice"]}
    raw = sales(tmp_path, named)
    assert raw.items.columns == ["item_id", "title", "description", "image", "price"]
    assert raw.items.rows() == [
        ("1", "Mug", "10", None, 2.5),
        ("2", "Lamp", "11", None, 3.0),  # of each column the first cell that is not empty
        ("3", "Rope", "13", None, 1.0),
    ]
    assert raw.dropped == {}
    assert caplog.text == ""
    raw = sales(tmp_path, named, where=[("name", "!=", "Rope")])
    assert raw.items["title"].to_list() == ["Mug", "Lamp", "3"]  # without a title, the id
    with pytest.raises(ValueError, match=r"column 'nam' is missing.*prepare\.source\.items\.title"):
        sales(tmp_path, {"title": "nam"})


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ({"title": "name", "separator": ";"}, "['separator'] are of no use without `path`"),
        ({"item": "name"}, "items.item is 'name', and without `path` the items are those of"),
    ],
)
def test_options_that_need_a_file_of_items(tmp_path: Path, items: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"prepare\.source\.items") as error:
        sales(tmp_path, items)
    assert said in str(error.value)
    sales(tmp_path, {"item": "what", "title": "name"})


def test_who_bought_an_item_is_no_attribute_of_it(tmp_path: Path) -> None:
    items = {"path": f"{tmp_path}/sales.csv", "item": "what", "title": "name", "repeats": "first"}
    assert sales(tmp_path, items).items.columns[4:] == []
    assert sales(tmp_path, items | {"numbers": ["price"]}).items.columns[4:] == ["price"]
    assert sales(tmp_path, items | {"attributes": ["who"]}).items.columns[4:] == ["who"]
    (tmp_path / "other.csv").write_text(SALES)
    raw = sales(tmp_path, items | {"path": f"{tmp_path}/other.csv"})
    assert raw.items.columns[4:] == ["who", "price", "n", "invoice", "when"]


def test_one_table_as_catalogue_and_log(tmp_path: Path) -> None:
    items = {"path": f"{tmp_path}/sales.csv", "item": "what", "title": "name", "attributes": []}
    with pytest.raises(
        ValueError, match=r"repeated item_id.*set `repeats: first` in prepare\.source"
    ):
        sales(tmp_path, items)
    raw = sales(tmp_path, items | {"repeats": "first"})
    assert raw.items["title"].to_list() == ["Mug", "Lamp", "Rope"]
    raw = sales(tmp_path, items | {"repeats": "first", "where": [("name", "!=", "Mug")]})
    assert raw.items["title"].to_list() == ["Lamp", "Rope", "Cup"]
    raw = sales(tmp_path, items | {"title": None, "repeats": "first"})
    assert raw.items["title"].to_list() == ["1", "2", "3"]


def test_ids_that_pandas_made_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    floats = (
        SALES.replace("\n7,", "\n7.0,").replace("\n8,2,", "\n8,2.0,").replace("\n9,", "\n9.50,")
    )
    users = sales(tmp_path, text=floats).interactions["user_id"].to_list()
    assert users == ["7.0", "7.0", "8", "8", "9.50", "8"]
    assert "2 of 6 ids in 'who' end in .0, as 17850.0 does" in caplog.text
    assert "1 of 6 ids in 'what' end in .0, as 17850.0 does" in caplog.text
    caplog.clear()
    raw = sales(tmp_path, {"title": "name"}, text=floats, whole_ids=True)
    assert raw.interactions["user_id"].to_list() == ["7", "7", "8", "8", "9.50", "8"]
    assert raw.items["item_id"].to_list() == ["1", "2", "3"]
    assert caplog.text == ""


def test_lists_in_a_cell_become_rows_in_order(tmp_path: Path) -> None:
    text = "who,what,when\n1,3 1  2,2020-01-01\n2,,2020-01-02\n1,1,2020-01-01\n"
    raw = sales(tmp_path, text=text, explode=" ")
    assert raw.interactions["item_id"].to_list() == ["3", "1", "2", "1"]
    raw = sales(tmp_path, text=text, explode=" ", timestamp=None)
    assert raw.interactions["timestamp"].to_list() == [0, 1, 2, 3]
    text = "who,what,when\n1,\"[3, 'b,c', 1.0]\",2020-01-01\n1,[],2020-01-02\n"
    assert sales(tmp_path, text=text, explode="list").interactions["item_id"].to_list() == [
        *("3", "b,c", "1.0")
    ]
    pl.DataFrame({"who": [1], "what": [[3, None, 1]], "when": ["2020-01-01"]}).write_parquet(
        tmp_path / "sales.parquet"
    )
    raw = sales(tmp_path, path=f"{tmp_path}/sales.parquet", explode="list")
    assert raw.interactions["item_id"].to_list() == ["3", "1"]
    with pytest.raises(ValueError, match="a cell of the interactions has several items"):
        sales(tmp_path, {"title": "who"}, text=text, explode="list")


def test_histories_come_once_before_all_else(tmp_path: Path) -> None:
    header = "who,seen,what,when\n"
    parts = {
        "log-1": "u,a b,c-1 d-0,2020-01-05\nv,,e-1,2020-01-01\n",
        "log-2": "u,x,f-0 g-1,2020-01-03\nu,y,h-0,2020-01-03\n",  # the earliest of u, first in the file
    }
    for name, text in parts.items():
        (tmp_path / f"{name}.csv").write_text(header + text)
    options = {"path": f"{tmp_path}/log-*.csv", "history": "seen", "explode": " ", "clicked": "-1"}
    raw = sales(tmp_path, **options)
    ordered = raw.interactions.sort("timestamp", maintain_order=True)
    assert ordered.filter(user_id="u")["item_id"].to_list() == ["x", "g", "c"]
    assert ordered.filter(user_id="v")["item_id"].to_list() == ["e"]
    assert raw.dropped == {"not_clicked": 3}
    raw = sales(tmp_path, **options | {"timestamp": None})
    own = raw.interactions.sort("timestamp").filter(user_id="u")["item_id"].to_list()
    assert own == ["a", "b", "c", "g"]


def test_columns_without_a_name_are_no_attributes(tmp_path: Path) -> None:
    items = "sku,name,Unnamed: 0,\n1,Lamp,0,\n02,Mug,1,\nx3,Cup,2,\n"
    assert read(tmp_path, items).items.columns == ["item_id", "title", "description", "image"]
    raw = read(tmp_path, items, i={"attributes": ["Unnamed: 0"]})
    assert raw.items["Unnamed: 0"].to_list() == ["0", "1", "2"]
