"""Every format there and back: ids, order, splits and SIDs stay what they are."""

import ast
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from genrec.data import ColdUsers, LastOut, Temporal
from genrec.data.formats import FORMATS, Bundle, read, write
from genrec.schema import ITEMS, USERS

SPLITS = ("train", "valid", "test")
THERE_AND_BACK = [name for name, format_ in FORMATS.items() if format_.read]


def bundle(
    sequences: list[list[int]],
    *,
    item_ids: list[str],
    user_ids: list[str],
    protocol: Any = None,
    sids: np.ndarray | None = None,
    titles: list[str] | None = None,
    times: list[list[int]] | None = None,
) -> Bundle:
    rows = [
        (u, i, times[u][n] if times else 1_500_000_000 * 10**9 + n)
        for u, items in enumerate(sequences)
        for n, i in enumerate(items)
    ]
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64}
    protocol = protocol or LastOut()
    parts = protocol.split(pl.DataFrame(rows, schema=schema, orient="row"))
    titles = titles or [f'A "title", {n}' for n in range(len(item_ids))]
    items = [(n, own, t, "", None, "brand") for n, (own, t) in enumerate(zip(item_ids, titles))]  # noqa: B905
    if sids is None:
        sids = np.array([[n % 4, n // 4, 7] for n in range(len(item_ids))], dtype=np.int32)
    return Bundle(
        "shop",
        pl.DataFrame(items, schema={**ITEMS, "brand": pl.String}, orient="row"),
        pl.DataFrame(list(enumerate(user_ids)), schema=dict(USERS), orient="row"),
        parts.train,
        parts.valid,
        parts.test,
        interactions=parts.interactions,
        sids=sids,
    )


# User 1 has one item to learn from; ids look like numbers, have spaces, quotes and commas in them.
SMALL: dict[str, Any] = {
    "sequences": [[2, 0, 1, 0, 4], [3, 2, 5]],
    "item_ids": ["7", "007", "b c", 'd"e', "=1+1", "f,g"],
    "user_ids": ["u,1", "2"],
}
WITHOUT_SPACES = ["7", "007", "b", 'd"e', "=1+1", "f,g"]


SECOND = np.array([[n % 3, 5 - n] for n in range(6)], dtype=np.int32)


def same(again: Bundle, given: Bundle) -> None:
    assert again.items.select("item", "item_id", "title").equals(
        given.items.select("item", "item_id", "title")
    )
    assert again.users.equals(given.users)
    for part in SPLITS:
        assert getattr(again, part).equals(getattr(given, part)), part
    assert again.sids is not None
    assert given.sids is not None
    assert again.sids.dtype == np.int32
    assert again.sids.tolist() == given.sids.tolist()


@pytest.mark.parametrize("name", ["index-json", "recbole", "rectools"])
def test_several_sets_of_sids_travel(name: str, tmp_path: Path) -> None:
    """Each in codes from 0, in a place of its own; the first stands where the only one does."""
    given = bundle(**SMALL | {"item_ids": WITHOUT_SPACES})
    several = replace(given, further_sids=(SECOND, SECOND[::-1] + 1))
    write(several, name, tmp_path / "several")
    again = read(tmp_path / "several", name, "shop")
    same(again, several)
    assert [sids.tolist() for sids in again.sets] == [sids.tolist() for sids in several.sets]
    assert again.items.columns == given.items.columns
    write(given, name, tmp_path / "one")
    assert read(tmp_path / "one", name, "shop").further_sids == ()


def test_a_further_index_is_what_lc_rec_has(tmp_path: Path) -> None:
    given = replace(bundle(**SMALL), further_sids=(SECOND,))
    files = {path.name for path in write(given, "index-json", tmp_path)}
    assert {"shop.index.json", "shop.index-1.json"} <= files
    index = json.loads((tmp_path / "shop.index-1.json").read_text())
    assert index["4"] == ["<a_1>", "<b_1>"]


@pytest.mark.parametrize(
    ("name", "toolkit"), [("minionerec", "MiniOneRec"), ("id2sid", "MIMIGenRec")]
)
def test_several_sets_are_refused_where_there_is_place_for_one(
    name: str, toolkit: str, tmp_path: Path
) -> None:
    given = replace(bundle(**SMALL), further_sids=(SECOND,))
    with pytest.raises(ValueError, match=rf"{toolkit} has one SID .* 2 sets .*quantize\.sets=1"):
        write(given, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_there_and_back_by_hand(name: str, tmp_path: Path) -> None:
    more = {"item_ids": WITHOUT_SPACES} if name == "recbole" else {}
    given = bundle(**SMALL | more)
    files = write(given, name, tmp_path / "out")
    assert files
    again = read(tmp_path / "out", name, "shop")
    same(again, given)
    assert again.items["brand"].to_list() == ["brand"] * 6
    if name in ("rectools", "recbole"):
        assert again.interactions is not None
        assert again.interactions.equals(given.interactions)


words = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\t\n"), min_size=1, max_size=6
).filter(lambda text: bool(text.strip()))


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    item_ids = draw(st.lists(words, min_size=2, max_size=6, unique=True))
    user_ids = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    item = st.integers(0, len(item_ids) - 1)
    sequences = [draw(st.lists(item, min_size=3, max_size=7)) for _ in user_ids]
    levels = draw(st.integers(1, 4))
    code = st.integers(0, 300)
    sids = [[draw(code) for _ in range(levels)] for _ in item_ids]
    titles = [" ".join(draw(words).split()) for _ in item_ids]
    return bundle(
        sequences,
        item_ids=item_ids,
        user_ids=user_ids,
        sids=np.array(sids, dtype=np.int32),
        titles=titles,
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles(), st.sampled_from(THERE_AND_BACK))
def test_there_and_back(given: Bundle, name: str) -> None:
    ids = pl.concat([given.items["item_id"], given.users["user_id"]])
    assume(name != "recbole" or not ids.str.contains(r"\s").any())
    with tempfile.TemporaryDirectory() as folder:
        write(given, name, folder)
        same(read(folder, name, "shop"), given)


@pytest.mark.parametrize("name", ["minionerec", "id2sid", "rectools", "recbole"])
def test_other_splits_travel_too(name: str, tmp_path: Path) -> None:
    """User 1 is in train only, user 2 not in train's steps (one item), user 3 in test only."""
    sequences = [[0, 1, 2, 3], [1, 0, 2], [4, 5], [5, 3, 0]]
    times = [[1, 2, 90, 95], [3, 4, 5], [6, 91], [92, 96, 97]]
    protocol = Temporal(valid=0.25, test=0.25)
    given = bundle(
        sequences,
        times=times,
        item_ids=list("abcdef"),
        user_ids=list("wxyz"),
        protocol=protocol,
    )
    assert [set(getattr(given, part)["user"]) for part in SPLITS] == [{0, 1, 2}, {0, 2}, {0, 3}]
    write(given, name, tmp_path)
    same(read(tmp_path, name, "shop"), given)


def test_index_json_is_what_lc_rec_has(tmp_path: Path) -> None:
    write(bundle(**SMALL), "index-json", tmp_path)
    written = {p.name: json.loads(p.read_text()) for p in tmp_path.glob("*.json")}
    assert written["shop.inter.json"] == {"0": [2, 0, 1, 0, 4], "1": [3, 2, 5]}
    assert written["shop.index.json"]["5"] == ["<a_1>", "<b_1>", "<c_7>"]
    assert written["shop.item.json"]["1"] == {
        **{"title": 'A "title", 1', "description": "", "brand": "brand"},
    }
    assert (tmp_path / "shop.item2id").read_text().splitlines()[2] == "b c\t2"
    with pytest.raises(ValueError, match=r"no place for a split.*leave-last-out, which"):
        write(
            bundle(
                [[0, 1, 2]] * 3, item_ids=list("abc"), user_ids=list("uvw"), protocol=ColdUsers()
            ),
            "index-json",
            tmp_path / "b",
        )


def test_minionerec_is_what_its_loader_reads(tmp_path: Path) -> None:
    write(bundle(**SMALL), "minionerec", tmp_path)
    table = pl.read_csv(tmp_path / "train" / "shop.csv")
    assert table.columns == [
        *("user_id", "history_item_title", "item_title", "history_item_id", "item_id"),
        *("history_item_sid", "item_sid"),
    ]
    assert table["item_id"].to_list() == [0, 1]  # [2] -> 0, [2, 0] -> 1; user 1 has no step
    assert ast.literal_eval(table["history_item_id"][1]) == [2, 0]
    assert ast.literal_eval(table["history_item_title"][1]) == ['A "title", 2', 'A "title", 0']
    assert ast.literal_eval(table["history_item_sid"][0]) == ["<a_2><b_0><c_7>"]
    assert table["item_sid"][1] == "<a_1><b_0><c_7>"
    assert (tmp_path / "train" / "shop.single.csv").is_file()
    info = (tmp_path / "info" / "shop.txt").read_text().splitlines()
    assert info[5] == '<a_1><b_1><c_7>\tA "title", 5\t5'


def test_minionerec_files_of_others(tmp_path: Path) -> None:
    """Histories cut to two items, several questions of one user, lists of texts."""
    write(bundle(**SMALL), "minionerec", tmp_path)
    for file in (tmp_path / "shop.item2id", tmp_path / "shop.user2id"):
        file.unlink()
    (tmp_path / "train" / "shop.single.csv").unlink()
    head = "user_id,history_item_id,item_id\n"
    steps = 'A,[0],1\nB,"[\'5\', \'4\']",3\nA,"[0, 1]",2\nA,"[1, 2]",3\n'
    (tmp_path / "train" / "shop.csv").write_text(head + steps)
    (tmp_path / "valid" / "shop.csv").write_text(head + 'A,"[2, 3]",4\nA,"[3, 4]",5\n')
    (tmp_path / "test" / "shop.csv").write_text(head + 'C,"[1]",0\n')
    foreign = read(tmp_path, "minionerec", "shop")
    assert foreign.users["user_id"].to_list() == ["A", "B", "C"]
    assert foreign.items["item_id"].to_list() == list("012345")
    assert foreign.train.rows() == [(0, [0, 1, 2], 3), (1, [5, 4], 3)]
    assert foreign.valid.rows() == [(0, [2, 3], 4)]
    assert foreign.test.rows() == [(2, [1], 0)]
    (tmp_path / "train" / "shop.csv").write_text(head + 'A,[0],1\nA,"[0, 2]",2\n')
    with pytest.raises(ValueError, match=r"user 'A': the row with target '2' has a history that"):
        read(tmp_path, "minionerec", "shop")
    (tmp_path / "train" / "shop.csv").write_text(head + 'A,"__import__(""os"")",1\n')
    with pytest.raises(ValueError, match="row 2: history_item_id is '__import__"):
        read(tmp_path, "minionerec", "shop")
    (tmp_path / "train" / "shop.csv").write_text(head + "A,[0],77\n")
    with pytest.raises(ValueError, match="'77' is no item of the catalogue"):
        read(tmp_path, "minionerec", "shop")


def test_id2sid_is_what_mimigenrec_has(tmp_path: Path) -> None:
    write(bundle(**SMALL), "id2sid", tmp_path)
    assert json.loads((tmp_path / "id2sid.json").read_text())["0"] == ["<a_0>", "<b_0>", "<c_7>"]
    tokens = json.loads((tmp_path / "new_tokens.json").read_text())
    assert tokens == sorted(["<a_0>", "<a_1>", "<a_2>", "<a_3>", "<b_0>", "<b_1>", "<c_7>"])
    lines = (tmp_path / "shop" / "shop.train.inter").read_text().split("\n")
    assert lines == [
        "user_id:token\titem_id_list:token_seq\titem_id:token",
        *("0\t2\t0", "0\t2 0\t1", "1\t\t3", ""),
    ]
    (tmp_path / "shop" / "shop.test.inter").write_text("user\titem\n")
    with pytest.raises(ValueError, match=r"test.inter: the first line is 'user\\titem', expected"):
        read(tmp_path, "id2sid", "shop")


def test_recbole_files_say_the_same(tmp_path: Path) -> None:
    given = bundle(SMALL["sequences"], item_ids=WITHOUT_SPACES, user_ids=["u,1", "2"])
    write(given, "recbole", tmp_path)
    # As RecBole does it: the header as it stands, then a delimited file with quotes.
    header = (tmp_path / "shop.inter").read_text().split("\n")[0]
    assert header == "user_id:token\titem_id:token\ttimestamp:float\tsplit:token"
    inter = tsv(tmp_path / "shop.inter")
    own = given.items["item_id"]
    assert given.interactions is not None
    assert inter["item_id:token"].to_list() == [own[i] for i in given.interactions["item"]]
    assert inter["timestamp:float"].to_list() == [
        *("1500000000", "1500000000.000000001", "1500000000.000000002", "1500000000.000000003"),
        *("1500000000.000000004", "1500000000", "1500000000.000000001", "1500000000.000000002"),
    ]
    assert inter["split:token"].to_list() == given.interactions["split"].to_list()
    for part in ("valid", "test"):
        rows = tsv(tmp_path / f"shop.{part}.inter").rows()
        assert [(u, h.split(), t) for u, h, t in rows] == [
            (given.users["user_id"][u], [own[i] for i in h], own[t])
            for u, h, t in getattr(given, part).rows()
        ]
    steps = tsv(tmp_path / "shop.train.inter").rows()
    assert steps == [("u,1", "b", "7"), ("u,1", "b 7", "007")]
    items = tsv(tmp_path / "shop.item")
    assert items.columns == [
        *("item_id:token", "title:token_seq", "description:token_seq", "brand:token_seq"),
        "sid:token_seq",
    ]
    assert items["sid:token_seq"][4] == "<a_0> <b_1> <c_7>"
    assert items["title:token_seq"][3] == 'A "title", 3'
    with pytest.raises(ValueError, match="item_id 'b c' has white space"):
        write(bundle(**SMALL), "recbole", tmp_path / "other")
    foreign = tmp_path / "shop.inter"
    foreign.write_text(foreign.read_text().replace("split:token", "part:token"))
    with pytest.raises(
        ValueError, match=r"no field \['split:token'\].*prepare.source.kind=recbole"
    ):
        read(tmp_path, "recbole", "shop")
    with pytest.raises(ValueError, match="sentence-transformers: is not read"):
        read(tmp_path, "sentence-transformers", "shop")


@pytest.mark.parametrize("name", ["recbole", "rectools"])
@pytest.mark.parametrize(
    ("times", "moments"),
    [
        ("ns", [-1_500_000_000, -1, 0, 1_700_000_000_123_456_789, 1_700_000_000_123_456_790]),
        ("order", [0, 1, 2, 4, 2**62 + 1]),
        ("none", [0, 1, 2, 3, 4]),
    ],
)
def test_times_travel_whole(name: str, times: Any, moments: list[int], tmp_path: Path) -> None:
    small = {**SMALL, "item_ids": WITHOUT_SPACES, "times": [moments, moments[:3]]}
    given = replace(bundle(**small), times=times)
    write(given, name, tmp_path)
    again = read(tmp_path, name, "shop")
    assert again.times == times
    assert again.interactions is not None
    assert again.interactions.equals(given.interactions)


def tsv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, separator="\t", infer_schema=False)


def test_rectools_columns(tmp_path: Path) -> None:
    write(bundle(**SMALL), "rectools", tmp_path)
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    assert log.columns[:4] == ["user_id", "item_id", "weight", "datetime"]
    assert log["datetime"].dt.to_string("%F %T%.9f").to_list()[:2] == [
        *("2017-07-14 02:40:00.000000000", "2017-07-14 02:40:00.000000001"),
    ]
    features = pl.read_parquet(tmp_path / "item_features.parquet")
    mine = features.filter(pl.col("id") == "f,g").select("feature", "value").rows()
    assert mine == [
        *(("title", 'A "title", 5'), ("description", ""), ("brand", "brand")),
        *(("sid_a", "<a_1>"), ("sid_b", "<b_1>"), ("sid_c", "<c_7>")),
    ]


def test_sentence_pairs_fit_their_trainer_and_evaluator(tmp_path: Path) -> None:
    write(bundle(**SMALL), "sentence-transformers", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["anchor", "positive"]  # the order is what the loss goes by
    assert lines[1] == {"anchor": 'A "title", 2\nA "title", 0', "positive": 'A "title", 1'}
    files = ("corpus", "queries.test", "relevant_docs.test")
    corpus, queries, relevant = (json.loads((tmp_path / f"{f}.json").read_text()) for f in files)
    assert relevant == {"u,1": ["=1+1"], "2": ["f,g"]}
    assert queries.keys() == relevant.keys()
    assert {item for items in relevant.values() for item in items} <= corpus.keys()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    given = bundle(**SMALL)
    write(given, "id2sid", tmp_path / "a")
    with pytest.raises(FileExistsError, match="holds something already"):
        write(given, "id2sid", tmp_path / "a")
    with pytest.raises(KeyError, match="no such format; expected one of index-json"):
        write(given, "json", tmp_path / "b")
    with pytest.raises(ValueError, match="user_id 'a\\\\tb' has a tab"):
        write(bundle(**{**SMALL, "user_ids": ["a\tb", "c"]}), "minionerec", tmp_path / "c")
    bare = Bundle("shop", given.items, given.users, given.train, given.valid, given.test)
    with pytest.raises(ValueError, match="made of SIDs, and there are none"):
        write(bare, "index-json", tmp_path / "d")
    with pytest.raises(ValueError, match=r"name 'a/b'.*names files"):
        Bundle("a/b", given.items, given.users, given.train, given.valid, given.test)


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\t0\nb\t2\n", "for every number from 0 to 1"), ("a\n", "expected a line '<item id>")],
)
def test_broken_id_files(text: str, said: str, tmp_path: Path) -> None:
    write(bundle(**SMALL), "id2sid", tmp_path)
    (tmp_path / "shop" / "shop.item2id").write_text(text)
    with pytest.raises(ValueError, match=said):
        read(tmp_path, "id2sid", "shop")
