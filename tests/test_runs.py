"""Runs in processes of their own: they end with the process that started them, however it ends."""

import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from genrec import cli, runs

ROOT = Path(__file__).parents[1]
PARENT = """
import os, subprocess, sys, time
child = "import time; from genrec.runs import end_with_parent; end_with_parent(); time.sleep(60)"
env = {**os.environ, "GENREC_PARENT": str(os.getpid())}
print(subprocess.Popen([sys.executable, "-c", child], env=env).pid, flush=True)
time.sleep(60)
"""


def test_a_run_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(2)
    assert child.is_running()
    parent.kill()
    parent.wait()
    child.wait(timeout=60)


def test_a_run_is_told_who_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def start(command: list[str], **options: Any) -> None:
        given.append(options["env"])

    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(Popen=start, STDOUT=-2))
    pipeline: Any = None
    run = runs.Run("a", 0, (), pipeline, None)
    run.start(tmp_path / "r.yaml", tmp_path / "log", {"A": "1"})
    assert given == [{"A": "1", "GENREC_PARENT": str(os.getpid())}]


def test_genrec_run_follows_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []
    monkeypatch.setattr(runs, "follow", followed.append)
    monkeypatch.setenv("GENREC_PARENT", "17")
    CliRunner().invoke(cli.cli, ["run", "no/such.yaml"])
    assert followed == [17]
    assert "GENREC_PARENT" not in os.environ, "what it starts follows itself"
    CliRunner().invoke(cli.cli, ["run", "no/such.yaml"])
    assert followed == [17], "nobody started it as a run"
