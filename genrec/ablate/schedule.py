"""Runs of an ablation, one after the other in this process or several at once.

What more than one run needs is built first, by this process, so that no other one waits for it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from genrec.runs import Made, Run, end, environment, last_error, message, stop

Say = Callable[[str], None]


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
    env = environment(processes)
    started: list[subprocess.Popen[bytes]] = []
    done = len(runs) - len(waiting)
    pool = ThreadPoolExecutor(processes)
    before = signal.signal(signal.SIGTERM, stop)  # so that the children end with this process
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
        end(started)
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
        run.error = message(error)
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
    process = run.start(recipe, log, env)
    started.append(process)
    if code := process.wait():
        run.error = last_error(log, code)
    return time.monotonic() - begun
