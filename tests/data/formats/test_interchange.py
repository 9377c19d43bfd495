"""The field's JSON files: what is read, and what is refused with which message."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from genrec.data import prepare
from genrec.data.formats.interchange import read_interchange

ITEMS: dict[str, Any] = {
    "0": {"title": " Lamp ", "description": "Warm.", "brand": "Tavo", "price": 3.5},
    "1": {"title": "Mug", "description": None, "tags": ["blue", None, "tea"], "id": 9},
    "2": {"title": "Tent", "description": ["Two", "doors."], "size": {"b": 1, "a": [2]}},
}
INTER: dict[str, Any] = {"u": [2, 0, 1], "v": ["1", "0", "2"]}
INDEX: dict[str, Any] = {
    "0": ["<a_1>", "<b_0>"],
    "1": ["<a_1>", "<b_255>"],
    "2": ["<a_7>", "<b_0>"],
}


def write(folder: Path, **files: Any) -> dict[str, Path]:
    contents = {"inter": INTER, "item": ITEMS, **files}
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"Shop.{name}.json"
        text = content if isinstance(content, str) else json.dumps(content)
        paths[name].write_text(text, encoding="utf-8")
    return paths


def read(folder: Path, *, on_bad: Any = "error", images: Path | None = None, **files: Any):
    paths = write(folder, **files)
    return read_interchange(
        paths["inter"], paths["item"], index=paths.get("index"), images=images, on_bad=on_bad
    )


def test_values_become_text_and_positions_become_time(tmp_path: Path) -> None:
    raw = read(tmp_path)
    assert raw.items.columns == [
        *("item_id", "title", "description", "brand", "price", "tags", "id", "size", "image")
    ]
    assert raw.items["item_id"].to_list() == ["0", "1", "2"]
    assert raw.items["title"].to_list() == ["Lamp", "Mug", "Tent"]
    assert raw.items["description"].to_list() == ["Warm.", "", "Two doors."]
    assert raw.items["price"].to_list() == ["3.5", None, None]
    assert raw.items["tags"].to_list() == [None, "blue, tea", None]
    assert raw.items["size"].to_list() == [None, None, '{"a": [2], "b": 1}']
    assert set(raw.items.dtypes) == {pl.String}
    assert raw.interactions.rows() == [
        *(("u", "2", 0), ("u", "0", 1), ("u", "1", 2)),
        *(("v", "1", 0), ("v", "0", 1), ("v", "2", 2)),
    ]
    assert raw.sids is None
    assert raw.dropped == {}


def test_attributes_named_like_our_columns_are_kept_apart(tmp_path: Path) -> None:
    raw = read(tmp_path, item={k: {"title": "t", "image": "http://x", "item": k} for k in ITEMS})
    assert raw.items["image"].null_count() == 3
    assert raw.items["image_source"].to_list() == ["http://x"] * 3
    assert raw.items["item_source"].to_list() == ["0", "1", "2"]
    assert prepare(raw, core=0).items.columns[:2] == ["item", "item_id"]


def test_published_sids(tmp_path: Path) -> None:
    raw = read(tmp_path, index=INDEX)
    assert raw.sids == {"0": (1, 0), "1": (1, 255), "2": (7, 0)}
    extra = read(tmp_path, index={**INDEX, "9": ["<a_1>", "<b_1>"]})
    assert extra.sids == raw.sids
    assert extra.dropped == {"sid_of_unknown_item": 1}


def test_several_index_files_are_several_sets(tmp_path: Path) -> None:
    second = {"0": ["<a_3>"], "1": ["<a_0>"], "2": ["<a_1>"]}
    (tmp_path / "second.json").write_text(json.dumps(second))
    read(tmp_path, index=INDEX)
    raw = read_interchange(
        *(tmp_path / f"Shop.{what}.json" for what in ("inter", "item")),
        index=[tmp_path / "Shop.index.json", tmp_path / "second.json"],
    )
    assert raw.sids == {"0": (1, 0), "1": (1, 255), "2": (7, 0)}
    assert raw.further_sids == ({"0": (3,), "1": (0,), "2": (1,)},)
    done = prepare(raw, core=0)
    assert [sids.tolist() for sids in done.further_sids] == [[[3], [0], [1]]]


@pytest.mark.parametrize(
    ("sid", "said"),
    [
        (None, "item '1' has no SID; expected one for each of the 3 items"),
        (["<a_1>"], "item '1' has 1 levels, expected 2 like item '0'"),
        (["<a_1>", "<b_2>", "<c_3>"], "item '1' has 3 levels, expected 2"),
        (["<b_1>", "<a_2>"], "item '1': level 0 is '<b_1>', expected '<a_CODE>'"),
        (["<a_1>", "<a_2>"], "item '1': level 1 is '<a_2>', expected '<b_CODE>'"),
        (["<a_-1>", "<b_2>"], "item '1': level 0 is '<a_-1>'"),
        (["<a_99999999999>", "<b_2>"], "item '1': level 0 is '<a_99999999999>'"),
        ([1, 2], "item '1': level 0 is 1, expected"),
        ("<a_1><b_2>", "item '1': found '<a_1><b_2>', expected a list"),
        ([], "item '1': found [], expected a list"),
    ],
)
def test_misshapen_index(tmp_path: Path, sid: Any, said: str) -> None:
    index = {k: v for k, v in {**INDEX, "1": sid}.items() if v is not None}
    for on_bad in ("error", "drop"):
        with pytest.raises(ValueError, match=r"Shop\.index\.json") as error:
            read(tmp_path, index=index, on_bad=on_bad)
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("inter", "", "the file is empty; expected {user: [item, ...]}"),
        ("item", "", "the file is empty"),
        ("inter", "{}", "the object is empty"),
        ("item", '{\n"0": {"title": }', "invalid JSON at line 2, column 16"),
        ("inter", "[1, 2]", "found a JSON list, expected {user: [item, ...]}"),
        ("item", '{"0": "Lamp"}', "item '0' is a str, expected an object"),
        ("item", '{"0": {"name": "x"}}', "item '0' has no field 'title'; found ['name']"),
        ("inter", '{"u": 3}', "user 'u' has a int, expected a list"),
        ("inter", '{"u": [0, 1.5]}', "user 'u', position 1: found 1.5"),
        ("inter", '{"u": [true]}', "user 'u', position 0: found True"),
    ],
)
def test_misshapen_files(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"Shop\.{name}\.json") as error:
        read(tmp_path, **{name: content})
    assert said in str(error.value)


def test_other_encodings(tmp_path: Path) -> None:
    paths = write(tmp_path)
    paths["item"].write_bytes(b"\xef\xbb\xbf" + paths["item"].read_bytes())  # a BOM does no harm
    assert len(read_interchange(paths["inter"], paths["item"]).items) == 3
    paths["item"].write_bytes('{"0": {"title": "é"}}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"item\.json: not UTF-8 \(byte 17\)"):
        read_interchange(paths["inter"], paths["item"])


def test_half_an_emoji_in_a_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = {**ITEMS, "1": {"title": "Mug \ud83d", "tags": ["\ude00"]}}
    raw = read(tmp_path, item=items)
    assert raw.items["title"].to_list() == ["Lamp", "Mug \ufffd", "Tent"]
    assert raw.items["tags"].to_list() == [None, "\ufffd", None]
    assert raw.dropped == {"broken_character": 2}
    assert r"2 in all; first: item '1', 'title': 'Mug \ud83d'" in caplog.text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"item": {**ITEMS, "x\ud83d": {"title": "X"}}}, r"the id in 'item' is 'x\ud83d'"),
        ({"inter": {**INTER, "w": ["1", "x\ud83d"]}}, r"user 'w': the id in 'user or item' is"),
        ({"inter": {**INTER, "w\ud83d": ["1"]}}, r"user 'w\ud83d': the id in 'user or item' is"),
    ],
)
def test_half_an_emoji_in_an_id(tmp_path: Path, files: dict, said: str) -> None:
    with pytest.raises(ValueError, match=r"half of a character.*prepare\.on_bad=drop") as error:
        read(tmp_path, **files)
    assert said in str(error.value)
    assert read(tmp_path, on_bad="drop", **files).dropped == {"broken_id": 1}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file; expected \{item"):
        read_interchange(write(tmp_path)["inter"], tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("files", "said", "dropped"),
    [
        ({"inter": {**INTER, "w": [0, 77]}}, "item_id '77'", {"unknown_item": 1}),
        (
            {"item": {**ITEMS, "3": {"title": " "}}},
            "empty title; expected some text (1 in all; first: item_id '3')",
            {"empty_title": 1},
        ),
        (
            {"item": json.dumps(ITEMS)[:-1] + ', "0": {"title": "Other"}}'},
            "repeated item_id '0' (1 in all)",
            {"repeated_item_id": 1},
        ),
        (
            {"inter": '{"u": [0, 1, 2], "u": [2], "v": [1, 0, 2]}'},
            "repeated user_id 'u'",
            {"repeated_user_id": 1},
        ),
    ],
)
def test_bad_rows(tmp_path: Path, files: dict, said: str, dropped: dict) -> None:
    with pytest.raises(ValueError, match=r"prepare\.on_bad=drop") as error:
        read(tmp_path, **files)
    assert said in str(error.value)
    raw = read(tmp_path, on_bad="drop", **files)
    assert raw.dropped == dropped
    assert raw.items["title"].to_list() == ["Lamp", "Mug", "Tent"]  # the first of repeats stays


def test_images_by_item_id(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "1.png")
    (folder / "2.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match="the image of item '2' cannot be used"):
        read(tmp_path, images=folder)
    raw = read(tmp_path, images=folder, on_bad="drop")
    assert [p and Path(p).name for p in raw.items["image"]] == [None, "1.png", None]
    assert raw.dropped == {"unreadable_image": 1}


@pytest.mark.e2e
@pytest.mark.parametrize("core", [0, 5])
def test_real_amazon_data(real_data: Path, core: int) -> None:
    folder = real_data / "scientific"
    raw = read_interchange(
        folder / "Scientific.inter.json",
        folder / "Scientific.item.json",
        index=folder / "Scientific.index.json",
    )
    done = prepare(raw, core=core)
    assert (len(done.users), len(done.items), len(done.interactions)) == (8317, 4344, 58492)
    assert done.stats["test_targets_unseen_in_train"] == pytest.approx(0.009, abs=5e-4)
    assert done.stats["test_targets_in_history"] == 0
    assert done.sids is not None
    assert done.sids.shape == (4344, 4)
    assert done.items["item_id"].to_list() == [str(i) for i in range(4344)]
