"""Shares and their reunion, among real processes too: whole runs, and one that dies."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrec import Pipeline
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


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a module or script as two processes, as the README does."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return subprocess.run(
        [sys.executable, *launcher, "--main_process_port", "0", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=240,
    )


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
from genrec.lm.trainer import SidTrainer
from genrec.processes import Processes
load = SidTrainer._load_best_model
def late(trainer):
    time.sleep(0 if Processes.current().first else 2)
    load(trainer)
SidTrainer._load_best_model = late
main()
"""


def test_two_processes_write_the_tables_of_one(tiny: list[str], tmp_path: Path) -> None:
    args = [*tiny, f"runtime.store={tmp_path}", "runtime.threads=1", "runtime.batch_size=16"]
    args += ["embed={text: null, behaviour: {dim: 8}}"]  # 150 users: 10 batches, the last of 6
    pipeline = Pipeline.load("demo", *args)
    pipeline.run(to="compose")
    script = tmp_path / "slow.py"
    script.write_text(SLOW)  # the second process is the last to read what the first clears away
    trained = launch(str(script), "train", "demo", *args)
    assert trained.returncode == 0, trained.stderr
    assert "train begins (2 processes)" in trained.stderr
    pipeline.run(only="recommend")
    folder = pipeline["recommend"].path
    alone = {path.name: path.read_bytes() for path in folder.iterdir()}
    created = alone.pop("artifact.json")
    assert len(alone) == 3

    shared = launch("-m", "genrec", "recommend", "demo", *args, "--force")
    assert shared.returncode == 0, shared.stderr
    assert shared.stderr.count("recommend begins (forced, 2 processes)") == 1
    assert pipeline["recommend"].path == folder
    assert (folder / "artifact.json").read_bytes() != created
    assert {name: (folder / name).read_bytes() for name in alone} == alone
    assert len(list(folder.iterdir())) == 4
    assert [path.name for path in folder.parent.glob("*.partial")] == []
