"""Ablations: what is run and what is not, with stand-ins; then one for real, killed and resumed."""

import json
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from genrec.ablate import Ablation
from genrec.cli import cli
from genrec.pipeline import STAGES
from genrec.stages import Context

ROOT = Path(__file__).parents[2]


def write_grid(path: Path, variants: dict[str, Any], **more: Any) -> Path:
    grid = {"reference": next(iter(variants)), "variants": variants} | more
    path.write_text(yaml.safe_dump(grid, sort_keys=False), "utf-8")
    return path


# --- what is run: stages are stand-ins ---------------------------------------------------------


class Stages:
    """Stand-ins for `genrec.stages.*` that count what is built, and can be made to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fails: Callable[[Context], bool] = lambda _: False
        for stage in STAGES:
            module: Any = types.ModuleType(f"genrec.stages.{stage.name}")
            module.run = self._stage(stage.name, stage.main)
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def _stage(self, name: str, main: str) -> Callable[[Context], None]:
        def run(context: Context) -> None:
            if name != "probe":
                self.calls.append(name)
            if name == "train" and self.fails(context):
                raise ZeroDivisionError("no luck")
            (context.out / main).write_text("done")

        return run


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Ablation]:
    recipe = tmp_path / "r.yaml"
    store = tmp_path / "store"
    recipe.write_text(f"prepare:\n  source: {{kind: demo}}\nruntime: {{store: {store}}}\n")
    rows = {
        "full": {},
        "short": {"overrides": {"train.epochs": 1}},
        "coarse": {"overrides": {"quantize.codes": 16}},
    }
    grid = write_grid(tmp_path / "g.yaml", rows)
    return lambda **options: Ablation(recipe, grid, **({"seeds": 2} | options))


def test_shared_artifacts_are_built_once(stages: Stages, planned: Callable[..., Ablation]) -> None:
    ablation = planned()
    assert {key: count for key, count, _ in ablation.plan()}["train"] == 6
    ablation.run()
    counts = {name: stages.calls.count(name) for name in stages.calls}
    assert counts["prepare"] == 1
    assert counts["embed"] == 2  # the seed is part of it
    assert counts["quantize"] == counts["compose"] == 4  # full and short share theirs
    assert counts["train"] == counts["evaluate"] == 6
    assert all(missing == 0 for *_, missing in ablation.plan())
    stages.calls.clear()
    planned().run()
    assert stages.calls == []


def test_a_run_that_fails_is_said_and_the_others_go_on(
    stages: Stages, planned: Callable[..., Ablation]
) -> None:
    stages.fails = lambda context: context.recipe.train.epochs == 1
    ablation = planned()
    ablation.run()
    assert [(run.variant, run.seed) for run in ablation.failed] == [("short", 0), ("short", 1)]
    assert ablation.failed[0].error == "ZeroDivisionError: no luck"
    assert stages.calls.count("evaluate") == 4
    stages.fails = lambda _: False
    stages.calls.clear()
    again = planned()
    again.run()
    assert not again.failed
    assert (
        stages.calls == ["train", "recommend", "fuse", "evaluate"] * 2
    )  # and nothing of what was done


def test_only_some_variants(stages: Stages, planned: Callable[..., Ablation]) -> None:
    ablation = planned(only=["coarse"], seeds=1)
    ablation.run()
    assert stages.calls.count("train") == 1
    assert ablation.folder == planned(seeds=1).folder  # the same table, filled in steps
    assert ablation.folder != planned(seeds=2).folder


def test_what_several_need_comes_first_when_processes_share_the_work(
    stages: Stages,
    planned: Callable[..., Ablation],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ablation, left = planned(), dict[str, list[str]]()

    def spawn(run: Any, *_: Any) -> float:
        left[run.name] = [key for key in run.missing() if key != "probe"]
        run.pipeline.run()
        return 0.0

    monkeypatch.setattr("genrec.ablate.schedule._spawn", spawn)
    ablation.run(processes=2)
    mine = ["train", "recommend", "fuse", "evaluate"]
    assert left["full, seed 0"] == left["short, seed 1"] == mine
    assert left["coarse, seed 0"] == ["quantize", "compose", *mine]
    assert stages.calls.count("embed") == 2


def test_a_shared_artifact_that_fails_fails_all_who_need_it(
    stages: Stages, planned: Callable[..., Ablation], tmp_path: Path
) -> None:
    twins = write_grid(tmp_path / "t.yaml", {"a": {}, "b": {}})
    stages.fails = lambda context: True
    ablation = Ablation(tmp_path / "r.yaml", twins, seeds=1)
    ablation.run(processes=2)
    assert [run.error for run in ablation.runs] == ["ZeroDivisionError: no luck"] * 2
    assert stages.calls.count("train") == 1


def test_who_edits_the_recipe_meanwhile_changes_nothing(
    planned: Callable[..., Ablation], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ablation, read = planned(seeds=1, only=["coarse"]), list[str]()
    before = (tmp_path / "r.yaml").read_text()
    (tmp_path / "r.yaml").write_text("prepare: {source: {kind: nothing}}")

    class Popen:
        def __init__(self, command: list[str], **_: Any) -> None:
            read.append(Path(command[4]).read_text())
            assert command[1:4] == ["-m", "genrec", "run"]
            assert command[5:] == ["quantize.codes=16", "seed=0"]

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("genrec.runs.subprocess.Popen", Popen)
    ablation.run(processes=2)
    assert read == [before]


# --- for real ----------------------------------------------------------------------------------

# No text view, for loading its model is most of the time.
REAL = {
    "full": {"note": "images and behaviour"},
    "blind": {"overrides": {"embed.image": {"kind": "none"}}},
    "broken": {"overrides": {"train.model": {"kind": "pretrained", "name": "/nowhere/at/all"}}},
}


def cells(table: dict[str, Any], row: str, metric: str, group: str | None = None) -> Any:
    (found,) = [r for r in table["rows"] if r["variant"] == row]
    chosen = [m for m in found["metrics"] if (m["metric"], m["group"]) == (metric, group)]
    return chosen[0] if chosen else None


def words(grid: Path, store: Path, tiny: list[str], *more: str) -> list[str]:
    words = [*tiny, "train.epochs=1", "runtime.threads=1", f"runtime.store={store}"]
    return ["ablate", "demo", "--grid", str(grid), *more, *words]


@pytest.fixture(scope="module")
def real(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """A grid of two variants that work and one that does not, run by the command line."""
    folder = tmp_path_factory.mktemp("ablate")
    # `broken` replaces the whole model, so the small one stands in `common`.
    small = {"kind": "scratch", "hidden": 32, "layers": 1, "heads": 2, "vocab": 400}
    common: dict[str, Any] = {"train.model": small, "embed.text": None, "probe.enabled": False}
    common |= {"caption.engine": {"kind": "none"}, "mine.engine": {"kind": "none"}}
    grid = write_grid(folder / "grid.yaml", REAL, description="For a test.", common=common)
    sizes = [t for t in tiny if not t.startswith("train.model")]
    return grid, folder / "store", sizes


@pytest.mark.e2e
def test_an_ablation_for_real(real: tuple[Path, Path, list[str]]) -> None:
    grid, store, tiny = real
    done = CliRunner().invoke(cli, words(grid, store, tiny, "--seeds", "2"))
    assert done.exit_code == 1, done.output  # broken
    (folder,) = (store / "ablate").iterdir()
    assert str(folder / "table.md") in done.output
    assert "/nowhere/at/all" in (folder / "table.md").read_text("utf-8")
    table = json.loads((folder / "table.json").read_text("utf-8"))
    long = pl.read_parquet(folder / "runs.parquet")
    assert set(long["variant"]) == {"full", "blind"}
    for variant in ("full", "blind"):
        for metric, group in (("ndcg", None), ("recall", None), ("ndcg", "visual")):
            same = long.filter(
                variant=variant, system="generative", split="test", metric=metric, k=10
            ).filter(pl.col("group").eq_missing(pl.lit(group)))
            assert sorted(same["seed"]) == [0, 1]
            cell = cells(table, variant, metric, group)
            assert cell["mean"] == pytest.approx(same["value"].mean(), abs=2e-6)
            assert cell["users"] == same["users"][0]
        rates = long.filter(variant=variant, metric="collision_rate")["value"]
        assert cells(table, variant, "collision_rate")["mean"] == pytest.approx(
            rates.mean(), abs=2e-6
        )
    popular = long.filter(
        pl.col("group").is_null(), system="popular", split="test", metric="recall", k=10
    )
    assert len(popular) == 4
    (value,) = popular["value"].unique()
    assert cells(table, "popular", "recall")["mean"] == pytest.approx(value, abs=2e-6)
    again = CliRunner().invoke(cli, words(grid, store, tiny, "--seeds", "2", "--table"))
    assert again.exit_code == 0
    assert json.loads((folder / "table.json").read_text("utf-8"))["rows"][0] == table["rows"][0]


@pytest.mark.e2e
def test_processes_and_a_kill_change_nothing(
    real: tuple[Path, Path, list[str]], tmp_path: Path
) -> None:
    grid, store, tiny = real
    args = words(grid, tmp_path, tiny, "--seeds", "1", "--only", "full", "--only", "blind")
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec", *args],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not list((tmp_path / "evaluate").glob("*/artifact.json")):
        assert process.poll() is None, "the ablation ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ablate").exists()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/artifact.json")}
    done = CliRunner().invoke(cli, [*args, "--processes", "2"])
    assert done.exit_code == 0, done.output
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    (folder,) = (tmp_path / "ablate").iterdir()
    assert [log.name for log in (folder / "logs").iterdir()] == ["blind-seed0.log"]
    one_by_one = Ablation("demo", grid, seeds=1, overrides=args_of(words(grid, store, tiny)))
    expected, found = one_by_one.tabulate(), json.loads((folder / "table.json").read_text("utf-8"))
    for name in ("full", "blind"):
        assert cells(found, name, "ndcg") == cells(expected, name, "ndcg")


def args_of(command: list[str]) -> list[str]:
    return [word for word in command if "=" in word]
