"""A retriever of another package: in the list, in a recipe, in the fusion and in the report.

The package is `foreign/`. It is installed as pip would do it, files and metadata into one folder, and
seen by new processes through PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

import genrec
from genrec.schema import RECOMMENDATIONS

PACKAGE = Path(__file__).parent / "foreign"
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
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the foreign one."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE / "nearest_retriever", site / "nearest_retriever")
    info = site / f"nearest_retriever-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {path}" for name, path in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


def run(site: Path, *command: str) -> str:
    path = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=site,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(site: Path) -> None:
    listed = run(site, "genrec", "list", "retrievers")
    assert "nearest" in listed
    assert "Items whose view is nearest" in listed


def test_it_runs_in_a_recipe_its_fusion_and_its_report(site: Path, tmp_path: Path) -> None:
    recipe, store = tmp_path / "shop.yaml", tmp_path / "store"
    recipe.write_text(RECIPE.replace("STORE", str(store)))
    run(site, "genrec", "run", str(recipe))
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
    assert "nearest" in run(site, "genrec", "show", str(recipe), "evaluate")


def test_it_keeps_the_contract(site: Path) -> None:
    suite = str(Path(__file__).parent / "test_contract.py")
    options = ["-k", "nearest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    assert " passed" in run(site, "pytest", suite, *options)
