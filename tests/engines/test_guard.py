"""The guard: what it watches ends when its maker is killed, and only then."""

import os
import subprocess
import sys
import time

import psutil

from genrec.engines.guard import Guard

MAKER = """
import subprocess, sys, time
from genrec.engines.guard import Guard
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
Guard([child.pid])
print(child.pid, flush=True)
time.sleep(60)
"""


def ended(process: int, seconds: float = 10) -> bool:
    """Whether a process ends in time; one that has ended but was not waited for has ended too."""
    try:
        watched = psutil.Process(process)
    except psutil.NoSuchProcess:
        return True
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not watched.is_running() or watched.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_what_is_watched_dies_with_its_maker() -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    child = int(maker.stdout.readline())
    os.kill(child, 0)
    maker.kill()
    maker.wait()
    assert ended(child)


def test_a_released_guard_ends_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        Guard([child.pid]).release()
        assert not ended(child.pid, 0.3)
    finally:
        child.kill()
        child.wait()
