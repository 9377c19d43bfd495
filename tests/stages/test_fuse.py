"""A fusion that has nothing to fit goes on with equal weights, and says so everywhere."""

import json
import logging
from pathlib import Path

import pytest

from genrec import Pipeline
from genrec.retrieve.fusion import Fusion, reciprocal_rank, weighted


def shop(folder: Path, **own: list[str]) -> Path:
    """Forty users whose validation and test targets nobody else has, but for those in `own`.

    Returns:
        The path of the recipe.
    """
    users = {
        f"u{n}": [f"i{n}", f"i{n + 1}", f"i{n + 2}", f"valid{n}", f"test{n}"] for n in range(40)
    } | own
    items = sorted({item for history in users.values() for item in history})
    (folder / "i.json").write_text(json.dumps(users))
    (folder / "t.json").write_text(json.dumps({item: {"title": item} for item in items}))
    path = folder / "shop.yaml"
    path.write_text(
        f"prepare:\n  core: 0\n  source: {{kind: interchange, interactions: {folder}/i.json, "
        f"items: {folder}/t.json}}\n"
        "retrieve: [{kind: popular, k: 20}, {kind: itemknn, k: 20}]\n"
        "recommend: {enabled: false}\nprobe: {enabled: false}\n"
        "evaluate: {samples: 100, baselines: [popular]}\n"
        f"runtime: {{store: {folder}/store, threads: 1}}\n"
    )
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("unfit"))


@pytest.mark.parametrize(
    ("method", "used"),
    [
        ("zscore", "zscore"),
        ("reciprocal_rank", "reciprocal_rank"),
        ("gate", "zscore"),
        ("lambdarank", "zscore"),
    ],
)
def test_equal_weights_where_no_source_lists_a_target(
    recipe: Path, method: str, used: str, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "lambdarank":
        pytest.importorskip("lightgbm", reason="in the extra `fuse`")
    pipeline = Pipeline.load(recipe, f"fuse.method={method}")
    with caplog.at_level(logging.WARNING):
        pipeline.run()  # to the end: evaluate is reached
    stats = pipeline["fuse"].load("stats.json")
    assert (stats["method"], stats["weights"]) == (used, {"itemknn": 0.5, "popular": 0.5})
    assert "no source lists the target of any of 40 users" in stats["fallback"]
    assert stats["validation"]["lists"] == "nothing was fitted"
    assert f"fuse: all sources have equal weights, by {used}" in caplog.text
    tables = {name: pipeline[f"retrieve.{name}"].load() for name in ("popular", "itemknn")}
    by_hand = reciprocal_rank(tables, k=20)
    if used == "zscore":
        by_hand = weighted(tables, k=20, normalise="zscore")
    assert pipeline["fuse"].load().equals(by_hand)
    users = pipeline["prepare"].load("test.parquet")
    served = Fusion.load(pipeline["fuse"] / "fusion")
    assert served.fuse(tables, users, k=20).equals(by_hand)
    diagnostics = pipeline["evaluate"].load("diagnostics.json")
    assert diagnostics["fusion"]["fallback"] == stats["fallback"]
    report = (pipeline["evaluate"] / "report.html").read_text("utf-8")
    assert f"all sources have equal weights, by {used}" in report


def test_given_weights_need_no_fit_and_no_warning(
    recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline.load(recipe, "fuse.weights={popular: 3, itemknn: 1}")
    with caplog.at_level(logging.WARNING):
        pipeline.run("fuse")
    stats = pipeline["fuse"].load("stats.json")
    assert "fallback" not in stats
    assert stats["validation"]["lists"] == "nothing was fitted"
    assert "fuse:" not in caplog.text


def test_one_user_to_learn_from_is_fused_by_a_fit_to_itself_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """User 0 alone wants what another had: without it the others teach nothing."""
    path = shop(tmp_path, u0=["i0", "i1", "i2", "i3", "test0"])
    pipeline = Pipeline.load(path)
    with caplog.at_level(logging.WARNING):
        pipeline.run("fuse")
    stats = pipeline["fuse"].load("stats.json")
    assert stats["validation"]["lists"] == "in sample"
    assert "fused by a fit to themselves" in caplog.text
    assert "fallback" not in stats
