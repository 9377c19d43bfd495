"""Runs in processes of their own: who started them, whom they follow (how it ends: test_launch)."""

import os
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from genrec import cli, runs


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
