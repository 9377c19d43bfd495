"""What `prepare.source` may say, and that a fingerprint covers the content of every file of a glob."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec.pipeline import Pipeline
from genrec.recipe import RecipeError, load

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
