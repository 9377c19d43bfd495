"""`genrec export` and back by a recipe: the same tables, the same SIDs, in every format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from genrec import Pipeline
from genrec.cli import cli
from genrec.data.formats import FORMATS
from genrec.recipe import RecipeError
from genrec.sid import SIDSets

TABLES = ("users", "train", "valid", "test")
BACK = sorted(name for name, format_ in FORMATS.items() if format_.read)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over published SIDs, of which two collide; users and items have ids of their own."""
    folder = tmp_path_factory.mktemp("shop")
    ids = [f"item-{n}" for n in range(8)]
    files: dict[str, Any] = {
        "inter": {
            f"user-{u}": [ids[(u + n * (u + 1)) % 8] for n in range(4 + u)] for u in range(4)
        },
        "item": {i: {"title": f"Thing {i}", "description": "", "price": 2} for i in ids},
        "index": {i: [f"<a_{n // 4}>", f"<b_{n % 3}>", "<c_5>"] for n, i in enumerate(ids)},
    }
    for name, content in files.items():
        (folder / f"S.{name}.json").write_text(json.dumps(content))
    recipe = folder / "shop.yaml"
    recipe.write_text(
        f"""
name: my shop
prepare:
  source: {{kind: interchange, interactions: {folder}/S.inter.json, items: {folder}/S.item.json,
            index: {folder}/S.index.json}}
  core: 0
  repeats: keep
quantize: {{kind: published}}
runtime: {{store: {folder}/store}}
"""
    )
    Pipeline.load(recipe).run(to="quantize")
    return recipe


def export(recipe: Path, name: str, *more: str) -> list[Path]:
    result = CliRunner().invoke(cli, ["export", str(recipe), "--format", name, *more])
    assert result.exception is None, result.output
    return [Path(line) for line in result.output.splitlines()]


@pytest.mark.parametrize("name", BACK)
def test_a_recipe_reads_what_was_exported(name: str, shop: Path, tmp_path: Path) -> None:
    files = export(shop, name, "--out", str(tmp_path / "out"))
    assert all(path.is_file() for path in files)
    recipe = tmp_path / "back.yaml"
    source = f"{{kind: exchange, format: {name}, folder: {tmp_path}/out, name: my-shop}}"
    recipe.write_text(
        f"prepare:\n  source: {source}\n  split: {{kind: given}}\n"
        f"quantize: {{kind: published}}\nruntime: {{store: {tmp_path}/store}}\n"
    )
    there, back = Pipeline.load(shop), Pipeline.load(recipe)
    back.run(to="quantize")
    for table in TABLES:
        assert (
            back["prepare"]
            .load(f"{table}.parquet")
            .equals(there["prepare"].load(f"{table}.parquet"))
        )
    items = [p["prepare"].load().select("item", "item_id", "title", "price") for p in (there, back)]
    assert items[0].equals(items[1])
    logs = [p["prepare"].load("interactions.parquet").drop("timestamp") for p in (there, back)]
    assert logs[0].equals(logs[1])
    assert (back["quantize"].load() == there["quantize"].load()).all()
    stats = back["prepare"].load("stats.json")
    assert stats["split"] == {"kind": "given"}
    assert stats["time"] == "no times"
    if name == "minionerec":  # split anew by leave-last-out it is the same: that is what it was
        more = ["prepare.split={kind: last_out}", "prepare.core=0", "prepare.repeats=keep"]
    elif name == "id2sid":
        more = ["prepare.hash_users.salt=0123456789abcdef"]
    else:
        return
    anew = Pipeline.load(recipe, *more)
    anew.run(only="prepare")
    assert anew["prepare"].load("test.parquet").equals(there["prepare"].load("test.parquet"))
    lengths = set(anew["prepare"].load("users.parquet")["user_id"].str.len_chars())
    assert lengths == ({64} if name == "id2sid" else {6})


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_is_written_under_a_default_name(
    name: str, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = export(shop, name)
    assert files
    assert all(path.parts[:2] == ("exports", f"my-shop-{name}") for path in files)


def test_sids_travel_as_far_as_they_are_there(shop: Path, tmp_path: Path) -> None:
    export(shop, "rectools", "--out", str(tmp_path / "with"))
    features = pl.read_parquet(tmp_path / "with" / "item_features.parquet")
    assert {"sid_a", "sid_b", "sid_c"} <= set(features["feature"])
    without = f"runtime.store={tmp_path}/store"
    Pipeline.load(shop, without).run(to="prepare")
    export(shop, "rectools", without, "--out", str(tmp_path / "without"))
    features = pl.read_parquet(tmp_path / "without" / "item_features.parquet")
    assert not [f for f in features["feature"].unique() if f.startswith("sid_")]
    result = CliRunner().invoke(cli, ["export", str(shop), without, "--format", "id2sid"])
    assert "genrec quantize" in str(result.exception)
    alone = ("recommend.enabled=false", "probe.enabled=false")
    more = (without, *alone)
    result = CliRunner().invoke(cli, ["export", str(shop), *more, "--format", "id2sid"])
    assert "recommend.enabled=true, or take one of recbole" in str(result.exception)
    export(shop, "rectools", *more, "--out", str(tmp_path / "alone"))
    result = CliRunner().invoke(cli, ["export", str(shop), "--format", "id2sidd"])
    assert "expected one of index-json" in str(result.exception)


def test_several_published_sets(shop: Path, tmp_path: Path) -> None:
    """From files that count from 0, from those of a model, and from what was exported."""
    folder = shop.parent
    second = {f"item-{n}": [f"<a_{n % 2}>", f"<b_{n // 2}>"] for n in range(8)}
    as_model = {
        i: [f"<a_{int(a[3:-1]) + 2}>", f"<b_{int(b[3:-1]) + 3}>"] for i, (a, b) in second.items()
    }
    first, paths = f"{folder}/S.index.json", [tmp_path / "zero.json", tmp_path / "model.json"]
    for path, content in zip(paths, (second, as_model), strict=True):
        path.write_text(json.dumps(content))
    alone = Pipeline.load(shop)
    made = []
    for path in paths:
        index = f"prepare.source.index=[{first}, {path}]"
        pipeline = Pipeline.load(shop, index, f"runtime.store={tmp_path}/store")
        pipeline.run(to="quantize")
        made.append(SIDSets.load(pipeline["quantize"].path))
        assert pipeline.graph.fingerprint("prepare") != alone.graph.fingerprint("prepare")
    for number, sids in enumerate((alone["quantize"].load(), [[n % 2, n // 2] for n in range(8)])):
        for sets in made:
            assert sets.own(number).tolist() == np.array(sids).tolist()

    more = [index, f"runtime.store={tmp_path}/store"]
    export(shop, "index-json", "--out", str(tmp_path / "out"), *more, "prepare.split.kind=last_out")
    source = f"{{kind: exchange, format: index-json, folder: {tmp_path}/out, name: my-shop}}"
    again = Pipeline.load(
        shop,
        f"prepare={{source: {source}, split: {{kind: given}}}}",
        f"runtime.store={tmp_path}/again",
    )
    again.run(to="quantize")
    for own, expected in zip(SIDSets.load(again["quantize"].path), made[0], strict=True):
        assert own.tolist() == expected.tolist()


def test_where_an_index_lies_does_not_matter_and_what_it_says_does(
    shop: Path, tmp_path: Path
) -> None:
    first = shop.parent / "S.index.json"
    prints = []
    for name, change in (("a", ""), ("b", ""), ("c", "<c_5>")):
        path = tmp_path / f"{name}.json"
        path.write_text(first.read_text().replace("<c_5>", "<c_6>", bool(change)))
        index = f"prepare.source.index=[{first}, {path}]"
        prints.append(Pipeline.load(shop, index).graph.fingerprint("prepare"))
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(RecipeError, match="index"):
        Pipeline.load(shop, "prepare.source.index=[]")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prepare.core=5", r"\['core'\]: a given split is taken whole"),
        ("prepare.repeats=keep", r"\['repeats'\]: a given split is taken whole"),
        ("prepare.source={kind: demo}", "a source of kind demo brings no split"),
        ("prepare.source.format=lenskit", "format"),
    ],
)
def test_a_given_split_goes_with_nothing_else(override: str, said: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    source = "{kind: exchange, format: id2sid, folder: x, name: y}"
    recipe.write_text(f"prepare: {{source: {source}, split: {{kind: given}}}}\n")
    Pipeline.load(recipe)
    with pytest.raises(RecipeError, match=said):
        Pipeline.load(recipe, override)
