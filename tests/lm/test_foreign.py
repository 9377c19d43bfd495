"""A task of another package: in the list, in a recipe, and in what `compose` writes.

The package is `foreign/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import genrec
from genrec import schema

ROOT = Path(genrec.__file__).parents[1]
RECIPE = """
prepare: {source: {kind: demo, items: 40, users: 60, image_size: 32}, core: 2}
embed: {image: {kind: none}}
quantize: {kind: rkmeans, codes: 4}
compose: {tasks: {description_to_sid: {rate: 1}}}
runtime: {store: STORE, threads: 1}
"""


@pytest.fixture(scope="module")
def run(foreign_package: Callable[[Path], Callable[..., str]]) -> Callable[..., str]:
    return foreign_package(Path(__file__).parent / "foreign")


def test_it_is_listed(run: Callable[..., str]) -> None:
    listed = run("genrec", "list", "tasks")
    assert "description_to_sid" in listed
    assert "an item's description -> its SID" in listed


def test_it_is_composed(run: Callable[..., str], tmp_path: Path) -> None:
    recipe, store = tmp_path / "shop.yaml", tmp_path / "store"
    recipe.write_text(RECIPE.replace("STORE", str(store)))
    run("genrec", "run", str(recipe), "--to", "compose")
    (file,) = store.glob("compose/*/train.parquet")
    own = [e for e in schema.read_examples(file) if e.task == "description_to_sid"]
    assert len(own) > 30
    assert all(e.prompt[0].text.startswith("About: ") and e.completion[0].sid for e in own)


def test_it_keeps_the_contract(run: Callable[..., str]) -> None:
    suite = str(Path(__file__).parent / "test_contract.py")
    options = [
        "-k",
        "description_to_sid",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    assert " passed" in run("pytest", suite, *options)
