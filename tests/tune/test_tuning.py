"""Studies: what is tried, resumed, ended early, and what they end with; stages are stand-ins."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from optuna.trial import TrialState

from genrec import Pipeline
from genrec.cli import cli
from genrec.lm.settings import SIZE
from genrec.lm.sizes import chosen
from genrec.recipe import load
from genrec.tune import Tuning, result
from genrec.tune.command import duration

ROOT = Path(__file__).parents[2]
# In the place of `-m genrec`: stages that write what the study reads. How good a training is depends on
# its settings alone: lr 0.01 is best, 4 layers are worse than 2, and 3 layers fail.
STAND_IN = """
import json, math, os, sys, time, types
from pathlib import Path
from genrec.cli import main
from genrec.pipeline import STAGES

def run_stage(stage):
    def run(context):
        with open(os.environ["CALLS"], "a") as calls:
            print(stage.name, os.getpid(), file=calls)
        (context.out / stage.main).write_text("done")
        if stage.name == "train":
            train(context)
    return run

def train(context):
    section = context.section
    if section.model.layers == 3:
        raise ValueError("no luck with three")
    value = 0.1 - abs(math.log10(section.lr) + 2) / 50 - section.model.layers / 100
    log = context.out / "log.jsonl"
    done = log.read_text().count("\\n") if log.exists() else 0
    for part in range(done, 10):
        line = {"step": part, "epoch": (part + 1) * section.epochs / 10, "valid": {"ndcg@10": value}}
        with log.open("a") as file:
            print(json.dumps(line), file=file)
        time.sleep(float(os.environ.get("PART", "0")))
    context.write_json("summary.json", {"valid": {"ndcg@10": value}, "resumed": done})

for stage in STAGES:
    module = types.ModuleType(f"genrec.stages.{stage.name}")
    module.run = run_stage(stage)
    sys.modules[module.__name__] = module
main()
"""
LR = {"low": 1e-4, "high": 1.0, "log": True}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has runs run the stand-in; returns the file with its calls."""
    script, calls = tmp_path / "stand_in.py", tmp_path / "calls"
    script.write_text(STAND_IN)
    calls.touch()
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr("genrec.tune.tuning._POLL", 0.05)
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[1:3] == ["-m", "genrec"]
        return popen([command[0], str(script), *command[3:]], **options)

    monkeypatch.setattr("genrec.runs.subprocess", types.SimpleNamespace(Popen=start, STDOUT=-2))
    return calls


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Tuning]:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"prepare:\n  source: {{kind: demo}}\ntrain: {{lr: 0.1, model: {{layers: 2}}}}\n"
        f"runtime: {{store: {tmp_path / 'store'}}}\n"
    )

    def make(
        parameters: dict[str, Any], common: dict[str, Any] | None = None, **options: Any
    ) -> Tuning:
        space = tmp_path / "space.yaml"
        space.write_text(yaml.safe_dump({"parameters": parameters, "common": common or {}}))
        return Tuning(recipe, space, **options)

    return make


def stages(calls: Path) -> list[str]:
    return [line.split()[0] for line in calls.read_text().splitlines()]


def test_a_size_by_the_data_is_written_out_and_tried_first(
    stand_in: Path, study: Callable[..., Tuning], tmp_path: Path
) -> None:
    """Else no choice of a size would fit a recipe that says `size: auto`."""
    auto = ["train.model={kind: scratch, size: auto, sid_init: items}", "train.lr=auto"]
    small = ["prepare.source.items=60", "prepare.source.users=40"]
    widths = {64: {"train.model.hidden": 64, "train.model.layers": 2, "train.model.heads": 2}}
    choices = {str(width): settings for width, settings in widths.items()}
    parameters = {"size": {"choices": choices}, "train.model.dropout": {"low": 0.1, "high": 0.5}}
    tuning = study(parameters, overrides=[*small, *auto])
    stats = tuning.base["prepare"].load("stats.json")
    values = chosen(load(tuning.recipe, [*small, *auto]).train, stats)
    assert tuning.own["train.model.dropout"] == values["model.dropout"]
    tuning.run(trials=1)
    tuned = load(result.write_recipe(tuning, tmp_path / "tuned.yaml")).train
    found = tuned.model
    assert (found.size, found.sid_init) == (None, "items")
    assert {f"model.{name}": getattr(found, name) for name in SIZE} | {"lr": tuned.lr} == values


def test_the_first_trial_is_the_recipe_and_shared_artifacts_are_built_once(
    stand_in: Path, study: Callable[..., Tuning], tmp_path: Path
) -> None:
    tuning = study({"train.lr": LR}, common={"train.epochs": 3}, overrides=["train.warmup=0.2"])
    tuning.run(trials=4, workers=2)
    trials = tuning.finished()
    assert [trial.params for trial in trials][:1] == [{"train.lr": 0.1}]
    assert trials[0].value == pytest.approx(0.06)
    done = stages(stand_in)
    assert done.count("train") == 4
    assert [done.count(name) for name in ("prepare", "embed", "quantize", "compose")] == [1] * 4
    assert {"retrieve", "recommend", "evaluate"}.isdisjoint(done)  # validation alone
    assert tuning.best().value == max(trial.value for trial in trials if trial.value is not None)

    recipe = result.write_recipe(tuning, tmp_path / "tuned.yaml")
    assert load(recipe).train.lr == pytest.approx(tuning.best().params["train.lr"], rel=0.005)
    assert "r, tuned by `genrec tune` in the space space: trial" in recipe.read_text()
    assert load(recipe).train.epochs == load(tuning.recipe).train.epochs == 20, "3 in trials alone"
    assert tuning.base.recipe.train.epochs == 3
    assert load(recipe).train.warmup == 0.2
    assert load(recipe).runtime == load(tuning.recipe).runtime
    rows = result.table(tuning)
    assert rows.columns == ["trial", "ndcg@10", "seconds", "end", "train.lr"]
    assert rows["ndcg@10"][0] == tuning.best().value
    for file in result.write_report(tuning):
        assert file.stat().st_size > 100
    said = result.summary(tuning)
    assert said[-2].startswith("best of 4 trials")
    assert said[-1].startswith("all trials had the space's own train.epochs, the recipe has not")
    assert "as it was: 0.0600" in (tuning.folder / "table.md").read_text()


def test_the_same_study_goes_on_and_proposes_other_values(
    stand_in: Path, study: Callable[..., Tuning]
) -> None:
    tuning = study({"train.lr": LR})
    tuning.run(trials=3)
    tuning.run(trials=3)
    assert len(tuning.finished()) == 3
    again = study({"train.lr": LR})
    again.run(trials=5)
    values = [trial.params["train.lr"] for trial in again.finished()]
    assert len(set(values)) == 5
    assert stages(stand_in).count("train") == 5
    assert study({"train.lr": LR | {"high": 2.0}}).finished() == []  # another space, another study


@pytest.mark.slow
def test_hopeless_trials_end_early_and_leave_nothing(
    stand_in: Path, study: Callable[..., Tuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrec.tune.tuning._STARTUP", 2)
    tuning = study({"train.lr": LR})
    tuning.run(trials=3)
    monkeypatch.setenv("PART", "0.3")
    tuning.run(trials=7)
    early = [t for t in tuning.finished() if t.state == TrialState.PRUNED]
    assert early
    for trial in early:
        assert max(trial.intermediate_values.values()) < (tuning.best().value or 0)
        assert max(trial.intermediate_values) < 9, "before its end"
    store = tuning.base.store.root / "train"
    assert list(store.glob("*.partial")) == []
    assert "ended early" in (result.write_report(tuning)[1]).read_text()


@pytest.mark.slow
def test_a_trial_that_fails_is_counted_and_the_others_go_on(
    stand_in: Path, study: Callable[..., Tuning]
) -> None:
    tuning = study({"train.model.layers": {"choices": [2, 3, 4]}})
    tuning.run(trials=7)
    trials = tuning.finished()
    assert len(trials) == 7
    failed = [t for t in trials if t.state == TrialState.FAIL]
    assert failed
    assert all("no luck with three" in t.user_attrs["error"] for t in failed)
    assert tuning.best().params == {"train.model.layers": "2"}
    # What is known is not trained again.
    assert stages(stand_in).count("train") == 2 + len(failed)


def test_a_recipe_that_fails_ends_the_study(
    stand_in: Path, study: Callable[..., Tuning], tmp_path: Path
) -> None:
    tuning = study({"train.lr": LR}, overrides=["train.model.layers=3"])
    for _ in range(2):  # and it is the first to be tried again
        with pytest.raises(RuntimeError, match=r"the recipe as it is fails.*no luck with three"):
            tuning.run(trials=5)
    assert tuning.finished() == []
    with pytest.raises(ValueError, match="no trial has ended yet"):
        tuning.best()


def test_no_trial_begins_after_the_time(
    stand_in: Path, study: Callable[..., Tuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PART", "0.2")
    tuning = study({"train.lr": LR})
    tuning.run(trials=50, seconds=0.5)
    assert len(tuning.finished()) == 1


def test_two_do_not_run_one_study(stand_in: Path, study: Callable[..., Tuning]) -> None:
    from filelock import FileLock

    tuning = study({"train.lr": LR})
    tuning.folder.mkdir(parents=True)
    with (
        FileLock(tuning.folder / "study.lock"),
        pytest.raises(RuntimeError, match="another process runs this study"),
    ):
        tuning.run(trials=1)


@pytest.mark.parametrize(
    "given", [{"trials": 0}, {"trials": 1, "workers": 0}, {"trials": 1, "seconds": 0}]
)
def test_nothing_to_do_is_an_error(study: Callable[..., Tuning], given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        study({"train.lr": LR}).run(**given)


def test_a_system_that_the_recipe_lacks_is_named(
    study: Callable[..., Tuning], tmp_path: Path
) -> None:
    study({"train.lr": LR})
    (tmp_path / "space.yaml").write_text(
        yaml.safe_dump({"system": "sasrec", "parameters": {"train.lr": LR}})
    )
    with pytest.raises(KeyError, match=r"retrieve\.sasrec"):
        Tuning(tmp_path / "r.yaml", tmp_path / "space.yaml")


# Runs a study as the command line does, with the stand-in.
COMMAND = """
import subprocess, sys
import genrec.runs, genrec.tune.tuning
popen = subprocess.Popen
genrec.tune.tuning._POLL = 0.05
script = sys.argv[1]
genrec.runs.subprocess.Popen = lambda c, **o: popen([c[0], script, *c[3:]], **o)
sys.argv = ["genrec", *sys.argv[2:]]
from genrec.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_study_goes_on(
    how: signal.Signals, stand_in: Path, study: Callable[..., Tuning], tmp_path: Path
) -> None:
    tuning = study({"train.lr": LR})
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "stand_in.py")]
    command += ["tune", str(tmp_path / "r.yaml"), "--space", str(tmp_path / "space.yaml")]
    command += ["--trials", "4", "--workers", "2", "--out", str(tmp_path / "tuned.yaml")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PART": "0.2", "COLUMNS": "200"}
    slow = env | {"PART": "2"}  # or on a busy machine it could end before it is killed
    process = subprocess.Popen(command, env=slow, stderr=subprocess.PIPE, text=True)
    store = tuning.base.store.root / "train"
    until = time.monotonic() + 200
    while not any(len(p.read_text().splitlines()) > 2 for p in store.glob("*.partial/log.jsonl")):
        assert time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    process.send_signal(how)
    process.wait(60)
    for (
        line
    ) in stand_in.read_text().splitlines():  # a study that is killed outright leaves its trials
        if how == signal.SIGKILL:
            try:
                os.kill(int(line.split()[1]), signal.SIGKILL)
            except ProcessLookupError:
                continue
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = study({"train.lr": LR}).finished()
    assert len(trials) == 4
    assert trials[0].params == {"train.lr": 0.1}
    summaries = [json.loads(p.read_text()) for p in store.glob("*/summary.json")]
    assert sum(summary["resumed"] > 0 for summary in summaries) >= 1, "from where it was"
    assert "best of 4 trials" in done.stdout
    assert f"genrec run {tmp_path / 'tuned.yaml'}" in done.stdout
    assert "trials left to begin" in done.stderr
    assert Pipeline.load(tmp_path / "tuned.yaml").finished("train"), "it is trained already"


def test_a_file_that_is_there_is_not_replaced(study: Callable[..., Tuning], tmp_path: Path) -> None:
    study({"train.lr": LR})
    (tmp_path / "mine.yaml").touch()
    words = ["tune", str(tmp_path / "r.yaml"), "--space", str(tmp_path / "space.yaml")]
    ended = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "mine.yaml")])
    assert isinstance(ended.exception, FileExistsError)
    assert "--force" in str(ended.exception)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2h", 7200), ("1h30m", 5400), (".5h", 0)]
)
def test_times(text: str, seconds: float) -> None:
    if seconds:
        assert duration(text) == seconds
    else:
        with pytest.raises(ValueError, match="such as 90s, 30m, 2h"):
            duration(text)
