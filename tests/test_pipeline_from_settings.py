"""`Pipeline.from_settings` and `fit`: the whole from a dataset, in the owner's ids."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec import Dataset, Pipeline
from genrec.recipe import RecipeError


def small(times: bool = True) -> Dataset:
    """12 users with 8 whole-number items each."""
    rows = [
        (100 + u, (3 * u + k * (1 + u % 2)) % 15, 10**9 + k) for u in range(12) for k in range(8)
    ]
    log = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    return Dataset.from_frames(log, timestamp="timestamp" if times else None)


SMALL: dict[str, Any] = {
    "quantize": {"kind": "rkmeans", "levels": 2, "codes": 8},
    "train": {"model": {"kind": "scratch", "hidden": 16, "layers": 1, "heads": 2}, "epochs": 1},
}


def test_the_whole_from_a_dataset(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = small()
    pipeline = Pipeline.from_settings(data, store=tmp_path, quick=True, **SMALL).fit()
    assert "train finished" in capfd.readouterr().err  # progress is seen
    table = pipeline.recommend(users=[103, "104"], k=3)
    assert table["user_id"].to_list() == ["103"] * 3 + ["104"] * 3
    history = set(data.histories([103])[0])
    chosen = table.filter(pl.col("user_id") == "103")["item_id"]
    assert not history & {data.item_numbers[int(item)] for item in chosen}
    assert len(pipeline.recommend(histories={"guest": [3, "6"]}, k=5)) == 5
    assert {row.status for row in pipeline.plan() if row.key != "evaluate"} == {"done"}
    again = Pipeline.from_settings(small(), store=tmp_path, quick=True, **SMALL)
    assert again.graph.fingerprint("train") == pipeline.graph.fingerprint("train")
    (recipe,) = (tmp_path / "recipes").glob("*.yaml")
    assert Pipeline.load(recipe).finished("fuse")  # the command line can go on with it


def test_a_dataset_without_times_or_with_images(tmp_path: Path) -> None:
    pipeline = Pipeline.from_settings(small(times=False), store=tmp_path)
    assert pipeline.recipe.prepare.source.interactions.timestamp is None
    pipeline.run("prepare")
    demo = Dataset.demo(items=30, users=30, images=tmp_path / "drawn")
    pictured = Pipeline.from_settings(demo, store=tmp_path, name="pictured")
    pictured.run("prepare")
    assert pictured["prepare"].load()["image"].null_count() == 0
    assert pictured.recipe.embed.image.kind == "descriptors"


def test_settings_without_a_dataset(tmp_path: Path) -> None:
    source = {"source": {"kind": "demo", "items": 30, "users": 20}}
    assert Pipeline.from_settings(store=tmp_path, prepare=source).plan()
    with pytest.raises(RecipeError, match="prepare: missing"):
        Pipeline.from_settings(store=tmp_path)
    with pytest.raises(RecipeError, match="quantise: unknown key; did you mean 'quantize'"):
        Pipeline.from_settings(small(), store=tmp_path, quantise={})
