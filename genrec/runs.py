"""Runs of a recipe, in this process or in one of their own: what they still have to build, how they end.

Artifacts are the memory: what is finished is not run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from genrec.console import Console
from genrec.graph import ancestors
from genrec.launch import follow
from genrec.pipeline import Pipeline

Made = tuple[str, str]  # stage and fingerprint: one artifact
_PARENT = "GENREC_PARENT"  # in the environment of a run: the process that started it


class QuietConsole(Console):
    """A console that leaves out what is done already: most of many runs is.

    Args:
        about: the word that each line of `say` begins with.
    """

    def __init__(self, about: str = "ablate", *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._about = about

    def note(self, stage: str, text: str) -> None:
        """Says nothing."""
        self._clear(stage)

    def say(self, text: str) -> None:
        """Prints a line about all runs."""
        self._clear(self._about)
        self._out.print(f"[bold]{self._about}[/] {escape(text)}", soft_wrap=True)


@dataclass
class Run:
    """One variant with one seed.

    Attributes:
        variant, seed: which one.
        overrides: of the recipe, as on the command line.
        pipeline: bound to the store of all runs.
        to: the last stage; None for all.
        error: why it failed, when it was last tried.
    """

    variant: str
    seed: int
    overrides: tuple[str, ...]
    pipeline: Pipeline
    to: str | None
    error: str | None = None

    @property
    def name(self) -> str:
        """Says which run this is."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def made(self) -> dict[str, Made]:
        """The artifacts of this run by key, in the order in which they are built."""
        nodes, graph = self.pipeline.nodes, self.pipeline.graph
        ends = graph.keys(self.to) if self.to else list(nodes)
        wanted = {k for end in ends for k in ancestors(nodes, end)}
        return {k: (n.stage.name, graph.fingerprint(k)) for k, n in nodes.items() if k in wanted}

    def missing(self) -> dict[str, Made]:
        """Returns the artifacts that are not there; does not read those that are."""
        store = self.pipeline.store
        return {
            key: made
            for key, made in self.made.items()
            if not (store.folder(*made) / "artifact.json").is_file()
        }

    def start(self, recipe: Path, log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts it in a process of its own.

        Args:
            recipe: the recipe's file, which must stay as it is while this runs.
            log: takes what the process prints.
            env: as of `environment`.
        """
        command = [sys.executable, "-m", "genrec", "run", str(recipe), *self.overrides]
        if self.to:
            command += ["--to", self.to]
        own = {**env, _PARENT: str(os.getpid())}
        with log.open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=own)


def end_with_parent() -> None:
    """Lets a process that was started as a run end with the one that started it, even by SIGKILL."""
    if parent := os.environ.pop(_PARENT, None):
        follow(int(parent))


def environment(processes: int) -> dict[str, str]:
    """Returns the environment of one of so many processes: its share of the threads, this package."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    package = str(Path(__file__).parents[1])  # so that `-m genrec` is this very package
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": str(max(1, threads // processes)), "PYTHONPATH": path}


def stop(signum: int, frame: object) -> None:
    """Handles SIGTERM by leaving as for Ctrl-C, so that what was started ends too."""
    raise SystemExit(128 + signum)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks those that still run to end."""
    for process in processes:
        if process.poll() is None:
            process.terminate()


def last_error(log: Path, code: int) -> str:
    """Returns the error that a process printed last, or its exit status and last line."""
    text = "\n" + log.read_text(encoding="utf-8", errors="replace")
    _, marker, error = text.rpartition("\nerror: ")
    if not marker:
        lines = text.strip().splitlines() or ["nothing was printed"]
        return f"exit status {code}: {lines[-1]}; see {log}"
    return error.partition("\n(GENREC_TRACEBACK")[0].strip()


def message(error: Exception) -> str:
    """Returns the message of an error as the command line shows it."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    known = isinstance(error, ValueError | KeyError | OSError | RuntimeError | ImportError)
    return str(text) if known else f"{type(error).__name__}: {error}"
