"""Ends a library's own processes when this one is killed.

vLLM's engine process outlives a parent that dies by SIGKILL, and keeps the GPU's memory: the next run,
which should go on where this one was, would find none (vLLM issue 55510, open in version 0.32).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

# Waits on a pipe that only this process writes to. It ends at death, however sudden; "over" means that
# the processes were ended in good order, and that their numbers may by now be others'.
_WATCH = """
import os, signal, sys
if sys.stdin.read() != "over":
    for process in sys.argv[1:]:
        try:
            os.kill(int(process), signal.SIGKILL)
        except ProcessLookupError:
            pass
"""


class Guard:
    """A small process that outlives this one by a moment, to end others.

    Args:
        processes: ids of the processes to end when this one dies.
    """

    def __init__(self, processes: Iterable[int]) -> None:
        self._watch = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, *map(str, processes)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt from the keyboard is for us, not for it
        )

    def release(self) -> None:
        """Ends the guard and nothing else."""
        self._watch.communicate("over")
