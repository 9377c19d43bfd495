"""A retriever of another package: in the list, in a recipe, in the fusion and in the report.

The package is `foreign/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import genrec
from genrec.schema import RECOMMENDATIONS

ROOT = Path(genrec.__file__).parents[1]
RECIPE = """
prepare: {source: {kind: demo, items: 60, users: 120, image_size: 32}, core: 2}
embed: {image: {kind: none}}
retrieve: [{kind: popular}, {kind: cooccurrence}, {kind: nearest, k: 30}]
recommend: {enabled: false}
probe: {enabled: false}
evaluate: {samples: 100}
runtime: {store: STORE, threads: 1}
"""


@pytest.fixture(scope="module")
def run(foreign_package: Callable[[Path], Callable[..., str]]) -> Callable[..., str]:
    return foreign_package(Path(__file__).parent / "foreign")


def test_it_is_listed(run: Callable[..., str]) -> None:
    listed = run("genrec", "list", "retrievers")
    assert "nearest" in listed
    assert "Items whose view is nearest" in listed


def test_it_runs_in_a_recipe_its_fusion_and_its_report(
    run: Callable[..., str], tmp_path: Path
) -> None:
    recipe, store = tmp_path / "shop.yaml", tmp_path / "store"
    recipe.write_text(RECIPE.replace("STORE", str(store)))
    run("genrec", "run", str(recipe))
    (fusion,) = (pl.read_json(f) for f in store.glob("fuse/*/stats.json"))
    assert fusion["sources"].to_list() == [["cooccurrence", "nearest", "popular"]]
    lists = [
        pl.read_parquet(saved.parents[1] / "recommendations.parquet")
        for saved in store.glob("retrieve/*/retriever/retriever.json")
        if '"kind": "nearest"' in saved.read_text()
    ]
    assert lists[0].schema == pl.Schema(dict(RECOMMENDATIONS))
    assert lists[0].group_by("user").len()["len"].max() == 30
    (report,) = store.glob("evaluate/*/report.html")
    assert "nearest" in report.read_text("utf-8")
    assert "nearest" in run("genrec", "show", str(recipe), "evaluate")


def test_it_keeps_the_contract(run: Callable[..., str]) -> None:
    suite = str(Path(__file__).parent / "test_contract.py")
    options = ["-k", "nearest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    assert " passed" in run("pytest", suite, *options)
