"""What a person sees while a pipeline runs: bars with time left, or plain lines when piped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import rich.console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from genrec.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0


class Console:
    """Draws the progress of stages on stderr, so that stdout stays for results.

    Args:
        quiet: say nothing (a pipeline used from Python).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._warned: set[str] = set()
        self._out = rich.console.Console(stderr=True, quiet=quiet, highlight=False)
        self._live = self._out.is_terminal and not quiet
        self._bars = Bars(
            TextColumn("[bold]{task.fields[stage]}[/] {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._out,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._printed: dict[tuple[str, str], float] = {}
        self._begun: dict[tuple[str, str], tuple[float, int]] = {}
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leaves the terminal to another process for the length of a `with` block."""
        if self._live:
            self._bars.stop()
        try:
            yield
        finally:
            if self._live:
                self._bars.start()

    def start(self, stage: str, reason: str = "") -> None:
        """Says that a stage begins."""
        self._started[stage] = time.monotonic()
        self._out.print(f"[bold]{stage}[/] begins{f' ({escape(reason)})' if reason else ''}")

    def finish(self, stage: str, path: str) -> None:
        """Says that a stage is finished, after how long, and where its artifact lies."""
        seconds = time.monotonic() - self._started.get(stage, time.monotonic())
        self._clear(stage)
        self._out.print(f"[bold]{stage}[/] finished in {seconds:.1f} s: {escape(path)}")

    def note(self, stage: str, text: str) -> None:
        """Prints a line about a stage."""
        self._clear(stage)
        self._out.print(f"[bold]{stage}[/] {escape(text)}")

    def warn(self, text: str) -> None:
        """Prints a warning, once: many runs of an ablation may share what it is about."""
        if text not in self._warned:
            self._warned.add(text)
            self._out.print(f"[yellow]warning:[/] {escape(text)}")

    def progress(self, stage: str) -> Progress:
        """Returns the callable that a stage reports to."""

        def report(step: str, done: int, total: int) -> None:
            if self._live:
                self._draw(stage, step, done, total)
            else:
                self._line(stage, step, done, total)

        return report

    def _draw(self, stage: str, step: str, done: int, total: int) -> None:
        key = (stage, step)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(escape(step), total=total, stage=stage)
        self._bars.update(self._tasks[key], completed=done, total=total)

    def _line(self, stage: str, step: str, done: int, total: int) -> None:
        key, now = (stage, step), time.monotonic()
        begun, first = self._begun.setdefault(key, (now, done))
        last = self._printed.get(key, begun)
        if now - last < _SECONDS_BETWEEN_LINES and not (done >= total and key in self._printed):
            return
        self._printed[key] = now
        left = (now - begun) / (done - first) * (total - done) if done > first else None
        rest = "" if left is None or done >= total else f", {_clock(left)} left"
        self._out.print(f"{stage}: {escape(step)} {done}/{total}{rest}", soft_wrap=True)

    def _clear(self, stage: str) -> None:
        for key in [key for key in self._tasks if key[0] == stage]:
            self._bars.remove_task(self._tasks.pop(key))
        for times in (self._begun, self._printed):  # the next run of this stage starts anew
            for key in [key for key in times if key[0] == stage]:
                times.pop(key)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
