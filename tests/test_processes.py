"""Shares and their reunion, among real processes too: whole runs, one that dies, all that are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from genrec import Pipeline
from genrec.lm.callbacks import Flow, read_log
from genrec.processes import ALONE, Processes

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("pieces", [0, 1, 6, 7, 20])
def test_shares_are_a_partition_of_equal_parts(count: int, pieces: int) -> None:
    shares = [Processes(rank, count).share(pieces) for rank in range(count)]
    assert sorted(piece for share in shares for piece in share) == list(range(pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_stays_as_it_is() -> None:
    assert ALONE.first
    assert ALONE.join("cuda:1") == "cuda:1"
    assert ALONE.merge([3, 1, 2]) == [3, 1, 2]


def test_the_launcher_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Processes.current() == ALONE
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 and WORLD_SIZE=1; expected 0 <= RANK < WORLD"):
        Processes.current()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Processes.current() == Processes(2, 4)
    assert not Processes.current().first


@pytest.mark.parametrize("only", [None, "evaluate"])
def test_what_cannot_be_shared_is_refused(
    only: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pipeline = Pipeline.load("demo", f"runtime.store={tmp_path}")
    with pytest.raises(ValueError, match=f"start it once: genrec {only or 'run'} demo"):
        pipeline.run(only=only)
    assert pipeline.plan()  # looking is free


TWO = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu2.yaml"]


def start(*command: str) -> subprocess.Popen[str]:
    """Starts Python with the environment of the tests."""
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a module or script as two processes, as the README does."""
    process = start(*TWO, *command)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


MEETING = """
import sys, time
from pathlib import Path
from genrec.processes import Processes
processes = Processes.current()
assert processes.join("cpu") == "cpu"
for pieces in range(6):
    names = [f"piece {i}" for i in range(pieces)]
    assert processes.merge([names[i] for i in processes.share(pieces)]) == names
Path(sys.argv[1], f"met-{processes.rank}").write_text(str(time.time()))
if not processes.first:
    raise ValueError("this one dies")
processes.merge(["waits"])
Path(sys.argv[1], "survived").touch()
"""


def test_real_processes_meet_and_none_waits_for_the_dead(tmp_path: Path) -> None:
    script = tmp_path / "meeting.py"
    script.write_text(MEETING)
    done = launch(str(script), str(tmp_path))
    ended = time.time()
    assert done.returncode != 0
    assert "this one dies" in done.stderr, done.stderr
    met = [float((tmp_path / f"met-{rank}").read_text()) for rank in (0, 1)]
    assert ended - max(met) < 60
    assert not (tmp_path / "survived").exists()


SLOW = """
import time
from genrec.cli import main
from genrec.lm.callbacks import Flow
step = Flow.on_step_end
def slow(self, args, state, control, **kwargs):
    time.sleep(1 if state.global_step > 6 else 0)
    step(self, args, state, control, **kwargs)
Flow.on_step_end = slow
main()
"""
# The second process is the last to read what the first clears away. Then both recommend, which spares
# them to start again; only that ends their meeting.
LATE = """
import sys, time
import torch.distributed
from genrec.cli import main
from genrec.lm.trainer import SidTrainer
from genrec.processes import Processes
load = SidTrainer._load_best_model
def late(trainer):
    time.sleep(0 if Processes.current().first else 2)
    load(trainer)
SidTrainer._load_best_model = late
leave, Processes.leave = Processes.leave, lambda processes: None
def run(command):
    sys.argv[1] = command
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
run("train")
Processes.leave = leave
assert torch.distributed.is_initialized()
Processes.current().wait()  # the first alone puts the trained model in its place
run("recommend")
assert not torch.distributed.is_initialized(), "who ends without leaving may be aborted"
"""


@pytest.fixture(scope="module")
def alone(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, list[str]]:
    """A model that one process trained, and how: without dropout, whose noise is each process's own."""
    args = [*tiny, "runtime.threads=1", "runtime.batch_size=16", "train.model.dropout=0"]
    args += ["embed={text: null, behaviour: {dim: 8}}"]  # 150 users: 10 batches, the last of 6
    store = tmp_path_factory.mktemp("alone") / "store"
    pipeline = Pipeline.load("demo", *args, f"runtime.store={store}")
    pipeline.run(to="train")
    return pipeline, args


def kill_mid_epoch(pipeline: Pipeline, process: subprocess.Popen[str]) -> None:
    """Kills what trains once it has a checkpoint, and sees its processes gone."""
    folder = pipeline.store.folder("train", pipeline.graph.fingerprint("train"))
    partial = folder.with_name(f"{folder.name}.partial")
    while not (partial / "checkpoint-6" / "trainer_state.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    _, still = psutil.wait_procs(workers, timeout=20)
    assert not still, "who is launched ends with the launcher"
    epoch = [line["epoch"] for line in read_log(partial / "log.jsonl")][-1]
    assert 0 < epoch < 1


def assert_same_curve(one: Pipeline, other: Pipeline) -> None:
    """Every loss of every task, at every step, to 1e-4."""
    logs = [read_log(pipeline["train"] / "log.jsonl") for pipeline in (one, other)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for a, b in zip(*logs, strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert a["tasks"] == pytest.approx(b["tasks"], abs=1e-4)
        else:
            assert a["valid"]["loss"] == pytest.approx(b["valid"]["loss"], abs=1e-4)


class Stopped(Exception):
    """Stands in for a kill of this process, which tests/lm kills in earnest."""


def stop_mid_epoch(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
    """Goes on in this process, from the first epoch into the second."""
    step = Flow.on_step_end

    def stop(self: Flow, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert state.global_step > 6, "it went on"
        if state.global_step == 14:
            raise Stopped
        step(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "on_step_end", stop)
        with pytest.raises(Stopped):
            pipeline.run(only="train")


def launch_instead(monkeypatch: pytest.MonkeyPatch, script: Path) -> None:
    """What `runtime.launcher` starts runs a script in the place of `-m genrec`."""

    def popen(command: list[str], **options: Any) -> subprocess.Popen[str]:
        place = command.index("genrec")
        words = [*command[: place - 1], str(script), *command[place + 1 :]]
        return subprocess.Popen(words, cwd=ROOT, **options)

    monkeypatch.setattr("genrec.launch.subprocess", SimpleNamespace(Popen=popen))


@pytest.mark.e2e
def test_two_processes_go_on_as_one_and_one_as_two(
    alone: tuple[Pipeline, list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One training, begun by two processes, carried on by one, ended by two: the curve of one alone.

    And the tables that two write are those of one, to the byte.
    """
    slow, late, store = tmp_path / "slow.py", tmp_path / "late.py", tmp_path / "store"
    slow.write_text(SLOW)
    late.write_text(LATE)
    shutil.copytree(alone[0].store.root, store, ignore=shutil.ignore_patterns("train"))
    args = [*alone[1], f"runtime.store={store}"]
    pipeline = Pipeline.load("demo", *args)
    kill_mid_epoch(pipeline, start(*TWO, str(slow), "train", "demo", *args))
    stop_mid_epoch(monkeypatch, pipeline)
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        launch_instead(patch, late)
        Pipeline.load("demo", *args, "runtime.launcher=cpu2").run(only="train")
    said = capfd.readouterr().err
    assert said.count("train begins (2 processes)") == 1, said
    assert said.count("recommend begins (2 processes)") == 1, said
    assert " ".join(said.split()).count("processes: 1 -> 2") == 1, said
    assert_same_curve(alone[0], pipeline)

    folder = pipeline["recommend"].path
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    created = files.pop("artifact.json")
    assert len(files) == 3
    pipeline.run(only="recommend", force="recommend")
    assert pipeline["recommend"].path == folder, "no launcher enters a fingerprint"
    assert (folder / "artifact.json").read_bytes() != created
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert len(list(folder.iterdir())) == 4
    assert [path.name for path in folder.parent.glob("*.partial")] == []
