"""Runs of an ablation: one per variant and seed, in this process or several at once.

Artifacts are the memory: what is finished is not run again. Several processes never build the same
artifact: what more than one run needs is built first, by this one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from genrec.console import Console
from genrec.graph import ancestors
from genrec.pipeline import Pipeline

Say = Callable[[str], None]
Made = tuple[str, str]  # stage and fingerprint: one artifact


class QuietConsole(Console):
    """A console that leaves out what is done already: most of an ablation is."""

    def note(self, stage: str, text: str) -> None:
        """Says nothing."""
        self._clear(stage)

    def say(self, text: str) -> None:
        """Prints a line about the ablation."""
        super().note("ablate", text)


@dataclass
class Run:
    """One variant with one seed.

    Attributes:
        variant, seed: which one.
        overrides: of the recipe, as on the command line.
        pipeline: bound to the store of all runs.
        to: the last stage; None for all.
        error: why it failed, in this ablation's last attempt.
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


def run_here(runs: Sequence[Run], say: Say) -> None:
    """Runs one after the other in this process; a run that fails is marked, and the next begins."""
    for number, run in enumerate(runs, start=1):
        if run.missing():
            say(f"{run.name} begins ({number} of {len(runs)})")
        _build(run, run.to, say)


def run_apart(runs: Sequence[Run], say: Say, *, recipe: Path, processes: int, logs: Path) -> None:
    """Runs several at once, each in a process of its own with its share of the threads.

    To be called in the main thread: it ends its processes when this one is asked to end.

    Args:
        runs: what to run; a run that fails is marked.
        say: called at every beginning and end.
        recipe: the recipe's file, which must stay as it is while this runs.
        processes: how many at once.
        logs: folder for one log file per run.
    """
    _build_shared(runs, say)
    for run in runs:
        if run.error is None and not run.missing():
            _build(run, run.to, say)  # only checks it: not worth a process
    waiting = [run for run in runs if run.error is None and run.missing()]
    logs.mkdir(parents=True, exist_ok=True)
    env = _environment(_share_of_threads(processes))
    started: list[subprocess.Popen[bytes]] = []
    done = len(runs) - len(waiting)
    pool = ThreadPoolExecutor(processes)
    before = signal.signal(signal.SIGTERM, _stop)  # so that the children end with this process
    try:
        futures = {
            pool.submit(_spawn, run, recipe, logs, env, started, say): run for run in waiting
        }
        for future in as_completed(futures):
            run, seconds = futures[future], future.result()
            done += 1
            how = "finished" if run.error is None else f"failed: {run.error}"
            say(f"{run.name} {how} after {seconds:.0f} s ({done} of {len(runs)})")
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            if process.poll() is None:
                process.terminate()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    pool.shutdown()


def _build(run: Run, to: str | None, say: Say) -> None:
    started = time.monotonic()
    nothing_to_do = not run.missing()
    try:
        run.pipeline.run(to)
    except Exception as error:  # whatever one run meets, the others go on
        run.error = _message(error)
        say(f"{run.name} failed: {run.error}")
    else:
        if to == run.to:
            seconds = f"in {time.monotonic() - started:.0f} s"
            say(f"{run.name} {'done already' if nothing_to_do else f'finished {seconds}'}")


def _build_shared(runs: Sequence[Run], say: Say) -> None:
    """Builds what several runs need; a failure is that of all of them."""
    missing = {id(run): run.missing() for run in runs}
    wanted = Counter(made for artifacts in missing.values() for made in artifacts.values())
    shared = {made for made, times in wanted.items() if times > 1}
    if shared:
        say(f"{len(shared)} artifacts that several runs share come first")
    errors: dict[Made, str] = {}
    for run in runs:
        for key, made in missing[id(run)].items():
            if run.error is None and made in errors:
                run.error = errors[made]
            if run.error is not None or made not in shared:
                continue
            _build(run, key, say)
            if run.error is not None:
                errors[made] = run.error


def _spawn(
    run: Run,
    recipe: Path,
    logs: Path,
    env: dict[str, str],
    started: list[subprocess.Popen[bytes]],
    say: Say,
) -> float:
    """Runs one process to its end and returns the seconds that it took."""
    begun, log = time.monotonic(), logs / f"{run.variant}-seed{run.seed}.log"
    say(f"{run.name} begins, log {log}")
    command = [sys.executable, "-m", "genrec", "run", str(recipe), *run.overrides]
    if run.to:
        command += ["--to", run.to]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=env)
        started.append(process)
        code = process.wait()
    if code:
        run.error = _last_error(log, code)
    return time.monotonic() - begun


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _last_error(log: Path, code: int) -> str:
    text = "\n" + log.read_text(encoding="utf-8", errors="replace")
    _, marker, error = text.rpartition("\nerror: ")
    if not marker:
        lines = text.strip().splitlines() or ["nothing was printed"]
        return f"exit status {code}: {lines[-1]}; see {log}"
    return error.partition("\n(GENREC_TRACEBACK")[0].strip()


def _message(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    known = isinstance(error, ValueError | KeyError | OSError | RuntimeError | ImportError)
    return str(text) if known else f"{type(error).__name__}: {error}"


def _share_of_threads(processes: int) -> int:
    all_ = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return max(1, all_ // processes)


def _environment(threads: int) -> dict[str, str]:
    package = str(Path(__file__).parents[2])  # so that `-m genrec` is this very package
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
