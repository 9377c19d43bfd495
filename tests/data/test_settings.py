"""`prepare.source`, `prepare.split` and `prepare.hash_users` in recipes: defaults and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from genrec import Pipeline, registry
from genrec.data.protocols import SplitProtocol
from genrec.data.settings import ItemFile, LogFile, Split
from genrec.recipe import RecipeError, kinds, load

ITEMS, LOG = {"path": "items.csv"}, {"path": "log-*.csv"}


def recipe(folder: Path, **source: Any) -> Path:
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({"prepare": {"source": source}}))
    return path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"kind": "files", "items": ITEMS}, "prepare.source.files.interactions: missing"),
        ({"kind": "file", "items": ITEMS}, "did you mean 'files'?"),
        (
            {"kind": "files", "items": ITEMS | {"titel": "x"}, "interactions": LOG},
            "prepare.source.files.items.titel: unknown key; did you mean 'title'?",
        ),
        (
            {"kind": "files", "items": ITEMS, "interactions": LOG | {"type": "event"}},
            "type and weights go together",
        ),
        (
            {"kind": "files", "items": ITEMS, "interactions": LOG | {"weights": {"buy": 1}}},
            "type and weights go together",
        ),
        (
            {"kind": "files", "items": ITEMS, "interactions": LOG | {"min_rating": 3}},
            "min_rating needs `rating`",
        ),
        ({"kind": "amazon"}, "name either `category`"),
        ({"kind": "amazon", "reviews": "x.jsonl"}, "name either `category`"),
        (
            {"kind": "amazon", "category": "X", "meta": "m", "reviews": "r"},
            "name either `category`",
        ),
        ({"kind": "recbole", "interactions": "x.inter"}, "prepare.source.recbole.items: missing"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, source: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(recipe(tmp_path, **source))
    assert said in str(error.value)


def fingerprint(path: Path, *overrides: str) -> str:
    pipeline = Pipeline.load(path, *overrides, f"runtime.store={path.parent / 'store'}")
    return pipeline.graph.fingerprint("prepare")


def test_the_fingerprint_follows_every_file_of_a_glob(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n")
    for name in ("log-1.csv", "log-2.csv"):
        (tmp_path / name).write_text(name)
    path = recipe(
        tmp_path,
        kind="files",
        items={"path": str(tmp_path / "items.csv")},
        interactions={"path": str(tmp_path / "log-*.csv")},
    )
    first = fingerprint(path)
    assert fingerprint(path) == first
    (tmp_path / "log-2.csv").write_text("longer than it was")
    second = fingerprint(path)
    (tmp_path / "log-3.csv").write_text("a third")
    assert len({first, second, fingerprint(path)}) == 3
    (tmp_path / "log-3.csv").unlink()
    assert fingerprint(path) == second
    assert fingerprint(path, "prepare.source.items.title=name") != second
    assert fingerprint(path, "runtime.downloads.concurrency=2") == second


SALT = "correct horse battery"


def demo(*overrides: str) -> Pipeline:
    return Pipeline.load("demo", *overrides)


def test_every_kind_is_a_protocol() -> None:
    for kind, settings in kinds(Split).items():
        protocol = registry.implementation(settings)()
        assert isinstance(protocol, SplitProtocol)
        assert (protocol.kind, protocol.settings_class) == (kind, settings)


def test_a_split_is_named_and_part_of_the_fingerprint() -> None:
    plain, timed = demo(), demo("prepare.split.kind=temporal", "prepare.split.test=0.2")
    assert plain.recipe.prepare.split.kind == "last_out"
    assert timed.recipe.prepare.split.test == 0.2  # type: ignore[union-attr]
    assert plain.graph.fingerprint("prepare") != timed.graph.fingerprint("prepare")
    with pytest.raises(RecipeError, match=r"prepare.split.*leave nothing to learn from"):
        demo("prepare.split={kind: cold_users, valid: 0.5, test: 0.5}")
    with pytest.raises(RecipeError, match="did you mean 'temporal'"):
        demo("prepare.split.kind=temporl")


def test_the_salt_stays_out_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALT", SALT)
    overrides = [
        *("prepare.hash_users={salt: '${SALT}'}", f"runtime.store={tmp_path}", "prepare.core=0"),
        *("prepare.source.items=20", "prepare.source.users=20", "prepare.source.image_size=32"),
    ]
    pipeline = demo(*overrides)
    pipeline.run(only="prepare")
    assert SALT not in repr(pipeline.recipe)
    assert SALT not in json.dumps(pipeline.recipe.model_dump(mode="json"))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SALT.encode() not in path.read_bytes(), path
    users = pipeline["prepare"].load("users.parquet")["user_id"]
    assert users.str.contains("^[0-9a-f]{64}$").all()
    choices = pl.read_parquet(pipeline["prepare"] / "truth" / "choices.parquet")
    assert set(choices["user_id"]) >= set(users)
    monkeypatch.setenv("SALT", SALT + "!")
    assert demo(*overrides).graph.fingerprint("prepare") != pipeline.graph.fingerprint("prepare")


@pytest.mark.parametrize("salt", ["short", "123456789", "[a, b]"])
def test_a_bad_salt_is_refused_and_not_shown(salt: str) -> None:
    with pytest.raises(RecipeError, match="fewer than 16 characters") as error:
        load("demo", [f"prepare.hash_users.salt={salt}"])
    assert salt not in str(error.value)


LOG_FILE = {"path": "log.csv"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"where": [["n", ">", "x"]]}, "expected a number"),
        ({"where": [["n", "in", 3]]}, "`in` and `not in` take a list"),
        ({"where": [["n", "=", [3]]]}, "`in` and `not in` take a list"),
        ({"where": [["n", "starts with", 3]]}, "expected a text"),
        ({"where": [["n", "~", 3]]}, "Input should be '=', '!=', '<'"),
        ({"encoding": "latin-x"}, "no such encoding; expected utf-8, latin-1"),
        ({"columns": ["a", "b", "a"]}, "a name is there twice"),
        ({"separator": "::", "quoting": "backslash"}, "needs a separator of one character"),
        ({"time_format": "%Y", "unit": "s"}, "goes with neither timestamp=null nor unit"),
        ({"time_format": "%Y", "timestamp": None}, "goes with neither timestamp=null nor unit"),
        ({"clicked": "-1"}, "need `explode`"),
        ({"history": "seen"}, "need `explode`"),
        ({"history": "a", "explode": " ", "rating": "r"}, "no types, no ratings and no context"),
    ],
)
def test_options_of_a_file_fit_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="LogFile") as error:
        LogFile.from_options(**LOG_FILE | options)
    assert said in str(error.value)


def test_numbers_are_attributes() -> None:
    with pytest.raises(ValueError, match=r"\['price'\] not among `attributes`"):
        ItemFile.from_options(attributes=["stock"], numbers=["price", "stock"])


def test_options_that_were_added_are_in_no_fingerprint_until_they_are_set() -> None:
    """So that what older recipes made stays valid."""
    keys = [
        "path",
        "separator",
        "user",
        "item",
        "timestamp",
        "unit",
        "type",
        "weights",
        "threshold",
    ]
    keys += ["rating", "min_rating"]
    assert sorted(LogFile(path="log.csv").model_dump()) == sorted(keys)
    keys = ["path", "separator", "item", "title", "description", "image", "attributes", "numbers"]
    assert sorted(ItemFile(path="items.csv").model_dump()) == sorted(keys)
    files = [LogFile(path="log.csv", **{name: value}) for name, value in SET.items()]
    assert len({str(file.model_dump(mode="json")) for file in files}) == len(SET)
    assert all(LogFile(**file.model_dump()) == file for file in files)


def test_items_of_the_log_stay_so_when_they_are_written_down() -> None:
    for options in ({}, {"title": "name"}, {"title": "title"}, {"attributes": ["price"]}):
        items = ItemFile(**options)
        again = ItemFile(**items.model_dump(mode="json"))
        assert again == items
        assert {"item", "title"} & again.model_fields_set == {"title"} & options.keys()


SET: dict[str, Any] = {
    "format": "csv",
    "columns": ("a", "b"),
    "quoting": "none",
    "encoding": "latin-1",
    "sheet": "a",
    "where": (("a", "=", None),),
    "whole_ids": True,
    "time_format": "%Y",
    "explode": " ",
}


def test_excel_is_a_package_that_a_recipe_needs() -> None:
    assert "fastexcel" in LogFile(path="log.xlsx").made_with()
    assert "fastexcel" in ItemFile(path="items", format="xlsx").made_with()
    assert "fastexcel" not in LogFile(path="log.xlsx", format="csv").made_with()
    assert "fastexcel" not in ItemFile().made_with()
