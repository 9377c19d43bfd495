"""Launchers: which file a name means, that accelerate reads them all; errors and deaths pass on."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from genrec import Pipeline, launch
from genrec.resources import folder

SHIPPED = sorted((folder("recipes") / "accelerate").glob("*.yaml"))
ROOT = Path(__file__).parents[1]


def test_the_eight_that_ship() -> None:
    names = [path.stem for path in SHIPPED]
    assert names == ["cpu", "cpu2", "ddp8", "fsdp2", "gpu", "two_nodes", "zero2", "zero3"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_accelerate_reads_it_and_its_first_lines_say_how(path: Path) -> None:
    config = load_config_from_file(str(path))
    processes = {"cpu": 1, "gpu": 1, "cpu2": 2, "two_nodes": 16}.get(path.stem, 8)
    assert (config.num_processes, config.use_cpu) == (processes, path.stem.startswith("cpu"))
    header = path.read_text("utf-8").split("distributed_type")[0]
    commands = re.sub(r" \\\\\n#", "", header.replace("\\\n#", ""))
    (first, *_) = [line[1:] for line in commands.splitlines() if "accelerate launch" in line]
    words = shlex.split(first)[2:]
    given, _ = launch_command_parser().parse_known_args(words)
    parsed, _, _ = _validate_launch_command(given)
    assert given.training_script == "genrec"
    assert parsed.num_processes == processes
    assert (ROOT / given.config_file) == path
    recipe, *overrides = given.training_script_args[1:]
    assert Pipeline.load(ROOT / recipe, *overrides).recipe.name == Path(recipe).stem


@pytest.mark.parametrize("name", ["cpu2", "accelerate/cpu2", "recipes/accelerate/cpu2.yaml"])
def test_a_shipped_one_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.find_config(name).samefile(folder("recipes") / "accelerate" / "cpu2.yaml")


def test_a_missing_one_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    pipeline = Pipeline.load("demo", f"runtime.store={tmp_path}/store", "runtime.launcher=ddp9")
    with pytest.raises(
        FileNotFoundError, match=r"launcher=ddp9: no such file.*cpu, cpu2, ddp8, fsdp2"
    ):
        pipeline.run()
    assert not list(tmp_path.rglob("*.parquet"))
    own = tmp_path / "mine.yaml"
    own.write_text("num_processes: 2\n")
    with pytest.raises(ValueError, match=r"no configuration of accelerate.*distributed_type"):
        launch.find_config(str(own))
    with pytest.raises(
        ValueError, match=r"is for 2 machines.*command at the top of that file on each"
    ):
        launch.find_config("two_nodes")


def test_vllm_spreads_by_itself() -> None:
    engine = "recommend.engine={kind: vllm}"
    pipeline = Pipeline.load("demo", "runtime.launcher=cpu2", engine)
    assert pipeline._launcher(pipeline.nodes["recommend"]) is None
    assert pipeline._launcher(pipeline.nodes["train"]) is not None
    assert pipeline._launcher(pipeline.nodes["embed"]) is None


def test_a_launched_process_launches_no_more() -> None:
    """The child is told so, or a configuration of one process would go on launching for ever."""
    seen = []

    class Process:
        pid = 1

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            seen.append((command, env))

        def wait(self) -> int:
            return 0

    class Guard:
        def __init__(self, processes: list[int]) -> None: ...
        def release(self) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.subprocess, "Popen", Process)
        patch.setattr(launch, "Guard", Guard)
        launch.launch("train", ["my recipe.yaml", "a=b c"], config=Path("x.yaml"), force=True)
    (((_, *command), env),) = seen
    assert command == [
        *(
            "-m",
            "accelerate.commands.launch",
            "--quiet",
            "--config_file",
            "x.yaml",
            "-m",
            "genrec",
            "train",
        ),
        *("my recipe.yaml", "a=b c", "runtime.launcher=null", "--force"),
    ]
    assert env["GENREC_LAUNCHED"] == "1"


def test_its_error_is_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One process through the real accelerate: the recipe does not exist, and genrec says so."""
    with pytest.raises(RuntimeError, match=r"train under .*cpu\.yaml ended with exit code 1"):
        launch.launch("train", [f"{tmp_path}/nowhere.yaml"], config=launch.find_config("cpu"))
    said = capfd.readouterr().err
    assert "nowhere.yaml: no such file" in said
    assert "Traceback" not in said


PARENT = """
import os, subprocess, sys, time
module, name = sys.argv[1:]
child = f"import time; from {module} import {name}; {name}(); time.sleep(60)"
env = {**os.environ, "GENREC_LAUNCHED": "1", "GENREC_PARENT": str(os.getpid())}
command = [sys.executable, "-c", child]
print(subprocess.Popen(command, env=env, start_new_session=True).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "follows", [("genrec.launch", "follow_launcher"), ("genrec.runs", "end_with_parent")]
)
def test_who_is_started_ends_with_who_started_it(follows: tuple[str, str]) -> None:
    command = [sys.executable, "-c", PARENT, *follows]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(2)
    assert child.is_running()
    parent.kill()
    parent.wait()
    child.wait(timeout=20)
