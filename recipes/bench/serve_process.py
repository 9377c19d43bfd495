"""A `genrec serve` process for benchmarks: started, found by the line that it prints, ended."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Self

import httpx

_LISTENS = re.compile(r"listens on (http://\S+)")


class Server:
    """Serves while the `with` block runs.

    Args:
        args: with `recipe` and `overrides`.
        options: further ones of `genrec serve`.

    Attributes:
        url: where it listens.
        ready: seconds from its start to that.
        pid: of the process.
    """

    def __init__(self, args: argparse.Namespace, *options: str) -> None:
        command = [sys.executable, "-m", "genrec", "serve", args.recipe, *args.overrides]
        self._command = [*command, "--port", "0", *options]
        self.url, self.ready, self.pid = "", 0.0, 0

    def __enter__(self) -> Self:
        begun = time.perf_counter()
        self._log = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _LISTENS.search(line):
                self.url, self.ready = found[1], time.perf_counter() - begun
                self.pid = self._process.pid
                return self
        self._log.seek(0)
        raise RuntimeError(f"{' '.join(self._command)} ended:\n{self._log.read()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            # The interpreter's own end takes seconds, on a starved machine a minute.
            self._process.wait(300)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()  # type: ignore[union-attr]
            self._log.seek(0)
            for line in [one for one in self._log if '"level": "error"' in one][:3]:
                print(line, end="", file=sys.stderr)
            self._log.close()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def metric(self, name: str) -> float:
        """Returns one number of /metrics."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else float("nan")
