"""A task of another package: in the list, in a recipe, and in what `compose` writes.

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

import pytest

import genrec
from genrec import schema

PACKAGE = Path(__file__).parent / "foreign"
ROOT = Path(genrec.__file__).parents[1]
RECIPE = """
prepare: {source: {kind: demo, items: 40, users: 60, image_size: 32}, core: 2}
embed: {image: {kind: none}}
quantize: {kind: rkmeans, codes: 4}
compose: {tasks: {description_to_sid: {rate: 1}}}
runtime: {store: STORE, threads: 1}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the foreign one."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE / "description_task", site / "description_task")
    info = site / f"description_task-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {path}" for name, path in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return site


def run(site: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=site,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed(site: Path) -> None:
    listed = run(site, "genrec", "list", "tasks")
    assert "description_to_sid" in listed
    assert "an item's description -> its SID" in listed


def test_it_is_composed(site: Path, tmp_path: Path) -> None:
    recipe, store = tmp_path / "shop.yaml", tmp_path / "store"
    recipe.write_text(RECIPE.replace("STORE", str(store)))
    run(site, "genrec", "run", str(recipe), "--to", "compose")
    (file,) = store.glob("compose/*/train.parquet")
    own = [e for e in schema.read_examples(file) if e.task == "description_to_sid"]
    assert len(own) > 30
    assert all(e.prompt[0].text.startswith("About: ") and e.completion[0].sid for e in own)


def test_it_keeps_the_contract(site: Path) -> None:
    suite = str(Path(__file__).parent / "test_contract.py")
    options = [
        "-k",
        "description_to_sid",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    assert " passed" in run(site, "pytest", suite, *options)
