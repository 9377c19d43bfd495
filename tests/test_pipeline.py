"""What a run does and does not do: reuse, resume, damage, force, and why. Stages are stand-ins."""

import json
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrec import Pipeline
from genrec.pipeline import STAGES, MissingArtifact
from genrec.stages import Context
from genrec.store import DamagedArtifact


class Stages:
    """Stand-ins for `genrec.stages.*`: write each stage's main file and remember the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail: str | None = None
        for stage in STAGES:
            module: Any = types.ModuleType(f"genrec.stages.{stage.name}")
            module.run = self._stage(stage.name, stage.main)
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def _stage(self, name: str, main: str) -> Callable[[Context], None]:
        def run(context: Context) -> None:
            self.calls.append(f"{name}.{context.section.label}" if name == "retrieve" else name)
            if self.fail == name:
                (context.out / "half").write_text("half")
                raise ValueError("bad input")
            (context.out / main).write_text(json.dumps(sorted(context.inputs)))

        return run


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(
        f"prepare:\n  source: {{kind: demo}}\nruntime: {{store: {tmp_path / 'store'}}}\n"
    )
    return path


ALL = ["prepare", "embed", "quantize", "compose", "train"]
ALL += ["retrieve.popular", "retrieve.cooccurrence", "recommend", "fuse", "probe", "evaluate"]


def statuses(pipeline: Pipeline) -> dict[str, str]:
    return {row.key: row.status for row in pipeline.plan()}


def test_a_second_run_does_nothing(stages: Stages, recipe: Path) -> None:
    Pipeline.load(recipe).run()
    assert stages.calls == ALL
    assert set(statuses(Pipeline.load(recipe)).values()) == {"done"}
    Pipeline.load(recipe).run()
    assert stages.calls == ALL


def test_stages_get_what_they_read(stages: Stages, recipe: Path) -> None:
    pipeline = Pipeline.load(recipe)
    pipeline.run()
    assert json.loads((pipeline["evaluate"] / "metrics.json").read_text()) == [
        "fuse",
        "prepare",
        "probe",
        "quantize",
        "recommend",
        "retrieve.cooccurrence",
        "retrieve.popular",
    ]


def test_a_change_rebuilds_what_depends_on_it_only(stages: Stages, recipe: Path) -> None:
    Pipeline.load(recipe).run()
    stages.calls.clear()
    changed = Pipeline.load(recipe, "quantize.levels=3")
    plans = {row.key: row for row in changed.plan()}
    assert [key for key, row in plans.items() if row.status == "run"] == [
        "quantize",
        "compose",
        "train",
        "recommend",
        "fuse",
        "probe",
        "evaluate",
    ]
    assert plans["quantize"].why == ("config.levels: 4 -> 3",)
    assert any(why.startswith("inputs.quantize: ") for why in plans["train"].why)
    changed.run()
    assert stages.calls == [
        "quantize",
        "compose",
        "train",
        "recommend",
        "fuse",
        "probe",
        "evaluate",
    ]


def test_the_seed_reaches_only_what_draws_numbers(stages: Stages, recipe: Path) -> None:
    base, other = Pipeline.load(recipe), Pipeline.load(recipe, "seed=1")
    assert base.graph.fingerprint("prepare") == other.graph.fingerprint("prepare")
    assert base.graph.fingerprint("retrieve.popular") == other.graph.fingerprint("retrieve.popular")
    assert base.graph.fingerprint("quantize") != other.graph.fingerprint("quantize")


def test_runtime_never_enters_a_fingerprint(recipe: Path) -> None:
    base, other = Pipeline.load(recipe), Pipeline.load(recipe, "runtime.threads=1")
    assert base.graph.fingerprint("evaluate") == other.graph.fingerprint("evaluate")


def test_published_sids_need_no_embedding(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "prepare:\n  source: {kind: interchange, interactions: a, items: b, index: c}\n"
        "quantize: {kind: published}\n"
    )
    pipeline = Pipeline.load(path)
    assert "embed" not in pipeline.nodes
    with pytest.raises(KeyError, match="unused by this recipe"):
        pipeline.graph.keys("embed")


def test_files_count_by_content_not_by_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.json").write_text("{}")
    path = tmp_path / "r.yaml"
    path.write_text("prepare:\n  source: {kind: interchange, interactions: a, items: b}\n")

    def mark(a: str, b: str) -> str:
        overrides = [f"prepare.source.interactions={tmp_path / a / 'x.json'}"]
        overrides += [f"prepare.source.items={tmp_path / b / 'x.json'}"]
        return Pipeline.load(path, *overrides).graph.fingerprint("prepare")

    before = mark("one", "one")
    assert mark("two", "one") == before
    (tmp_path / "two" / "x.json").write_text('{"changed": 1}')
    assert mark("two", "one") != before
    assert mark("one", "two") != mark("two", "one")


def test_missing_raw_file_blocks_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "prepare:\n  source: {kind: interchange, interactions: nowhere.json, items: b}\n"
        f"runtime: {{store: {tmp_path / 'store'}}}\n"
    )
    assert statuses(Pipeline.load(path))["prepare"] == "blocked"
    with pytest.raises(
        FileNotFoundError, match=r"prepare\.source\.interactions.*nowhere\.json.*=PATH"
    ):
        Pipeline.load(path).run()


def test_one_verb_names_the_command_for_a_missing_input(stages: Stages, recipe: Path) -> None:
    pipeline = Pipeline.load(recipe, "seed=3")
    with pytest.raises(MissingArtifact, match=r"genrec prepare .*r\.yaml seed=3"):
        pipeline.run(only="embed")
    pipeline.run(only="prepare")
    pipeline.run(only="embed")
    assert stages.calls == ["prepare", "embed"]
    with pytest.raises(MissingArtifact, match=r"genrec run .* --to evaluate"):
        pipeline["evaluate"]


def test_run_to_stops_there(stages: Stages, recipe: Path) -> None:
    Pipeline.load(recipe).run(to="quantize")
    assert stages.calls == ["prepare", "embed", "quantize"]


def test_force_builds_it_and_all_that_reads_it(stages: Stages, recipe: Path) -> None:
    Pipeline.load(recipe).run()
    stages.calls.clear()
    Pipeline.load(recipe).run(force="train")
    assert stages.calls == ["train", "recommend", "fuse", "probe", "evaluate"]


def test_a_failed_stage_keeps_what_was_done(stages: Stages, recipe: Path) -> None:
    stages.fail = "quantize"
    with pytest.raises(ValueError, match="bad input"):
        Pipeline.load(recipe).run()
    assert statuses(Pipeline.load(recipe))["embed"] == "done"
    assert statuses(Pipeline.load(recipe))["quantize"] == "run"
    stages.fail = None
    stages.calls.clear()
    Pipeline.load(recipe).run()
    assert stages.calls[0] == "quantize"


@pytest.mark.parametrize("name", ["sids.npy", "artifact.json"])
def test_damage_is_rebuilt_and_never_used(
    stages: Stages, recipe: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from genrec.console import Console

    Pipeline.load(recipe).run()
    folder = Pipeline.load(recipe)["quantize"].path
    text = (folder / name).read_text()
    (folder / name).write_text(text[:-3] + "xxx")
    with pytest.raises(DamagedArtifact, match=name):
        Pipeline.load(recipe)["quantize"]
    with pytest.raises(DamagedArtifact, match="build it again with: genrec quantize"):
        Pipeline.load(recipe).run(only="compose")
    stages.calls.clear()
    with Console() as console:
        Pipeline.load(recipe, console=console).run()
    assert stages.calls == ["quantize"]
    assert name in capsys.readouterr().err.replace("\n", "")


def test_unknown_stage(recipe: Path) -> None:
    with pytest.raises(KeyError, match="no such stage"):
        Pipeline.load(recipe).run(to="trian")
    with pytest.raises(KeyError, match=r"retrieve\.popular, retrieve\.cooccurrence; name one"):
        Pipeline.load(recipe)["retrieve"]


RETRIEVERS = "retrieve=[{kind: popular}, {kind: cooccurrence}, {kind: sasrec}]"


def test_without_an_llm_nothing_is_built_for_one(stages: Stages, recipe: Path) -> None:
    Pipeline.load(recipe, "recommend.enabled=false", "probe.enabled=false").run()
    expected = ["prepare", "retrieve.popular", "retrieve.cooccurrence", "fuse", "evaluate"]
    assert stages.calls == expected


def test_only_what_learns_depends_on_the_seed(stages: Stages, recipe: Path) -> None:
    args = [RETRIEVERS, "recommend.enabled=false", "probe.enabled=false"]
    Pipeline.load(recipe, *args).run()
    again = {row.key: row.status for row in Pipeline.load(recipe, *args, "seed=1").plan()}
    assert again == {
        "prepare": "done",
        "retrieve.popular": "done",
        "retrieve.cooccurrence": "done",
        "retrieve.sasrec": "run",
        "fuse": "run",
        "evaluate": "run",
    }


def test_a_retriever_reads_what_it_needs(stages: Stages, recipe: Path) -> None:
    kinds = "{kind: anchorrec}, {kind: anchorrec, name: ids, use_features: false}"
    words = "{kind: magnitude, queries: [title, interest]}"
    args = [f"retrieve=[{kinds}, {words}]", "evaluate.baselines=[]", "mine.engine.kind=openai"]
    args += ["mine.engine.base_url=http://x", "mine.engine.model=m"]
    args += ["recommend.candidates={mode: restrict, from: [ids], size: 50}", "fuse.sources=[ids]"]
    nodes = Pipeline.load(recipe, *args).nodes
    assert nodes["retrieve.anchorrec"].reads == ("prepare", "embed")
    assert nodes["retrieve.ids"].reads == ("prepare",)
    assert nodes["retrieve.magnitude"].reads == ("prepare", "mine", "embed")
    assert nodes["recommend"].reads[-1] == "retrieve.ids"
    assert nodes["fuse"].reads == ("prepare", "retrieve.ids")


def test_a_plan_shows_the_size_that_the_data_gives(stages: Stages, recipe: Path) -> None:
    auto = ("train.model={kind: scratch, size: auto}", "train.lr=auto")

    def notes() -> dict[str, tuple[str, ...]]:
        return {row.key: row.notes for row in Pipeline.load(recipe, *auto).plan() if row.notes}

    assert notes() == {"train": ("model.size=auto and lr=auto: known when prepare is done",)}
    prepared = Pipeline.load(recipe, *auto)
    prepared.run(to="prepare")
    (prepared["prepare"].path / "stats.json").write_text(
        json.dumps({"users": 9, "items": 5, "interactions": 60_000})
    )
    assert notes() == {
        "train": (
            "model.size=auto and lr=auto: model.hidden 256, model.layers 2, model.heads 8, "
            "model.dropout 0.2, lr 0.001, for 9 users, 5 items, 60,000 interactions",
        )
    }


def test_what_another_process_builds_is_waited_for(stages: Stages, recipe: Path) -> None:
    first, second = Pipeline.load(recipe), Pipeline.load(recipe)
    waits = threading.Event()
    second._says_it_waits = lambda key: waits.set  # type: ignore[method-assign]
    other = threading.Thread(target=second.run, kwargs={"to": "prepare"})
    with first.store.turn("prepare", first.graph.fingerprint("prepare")):
        other.start()
        assert waits.wait(20)
        with first.store.building(
            "prepare", first.graph.fingerprint("prepare"), {}, resumes=False
        ) as out:
            (out / "items.parquet").write_text("built by the first")
    other.join(20)
    assert "prepare" not in stages.calls
