"""Stages as several processes: `accelerate launch` started from within a run, and ended with it.

`runtime.launcher` names one of accelerate's own configuration files; nothing of it enters a
fingerprint, for the results are those of one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from genrec.engines.guard import Guard
from genrec.processes import Processes
from genrec.resources import folder

_LAUNCHED = "GENREC_LAUNCHED"  # set for the processes that a run starts
_ORPHANED = 17  # the exit code of one whose launcher is gone


def find_config(name: str) -> Path:
    """Returns the configuration file that `runtime.launcher` means.

    Args:
        name: a path, or the name of one in recipes/accelerate/, such as `ddp8`.

    Raises:
        FileNotFoundError: neither exists; names what ships.
        ValueError: it is for several machines, each of which needs a command of its own.
    """
    own, shipped = Path(name), folder("recipes") / "accelerate"
    inside = own.parent in (Path(), Path("accelerate"), Path("recipes/accelerate"))
    candidates = [own, *((shipped / own.name, shipped / f"{own.name}.yaml") if inside else ())]
    config = next((path for path in candidates if path.is_file()), None)
    if config is None:
        known = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
        raise FileNotFoundError(
            f"runtime.launcher={name}: no such file, nor among those that ship: {known}"
        )
    settings: Any = yaml.safe_load(config.read_text("utf-8"))
    if not isinstance(settings, dict) or "distributed_type" not in settings:
        raise ValueError(
            f"runtime.launcher={name}: {config} is no configuration of accelerate (it has no "
            "distributed_type); `accelerate config --config_file FILE` writes one"
        )
    if int(settings.get("num_machines") or 1) > 1:
        raise ValueError(
            f"runtime.launcher={name}: {config} is for {settings['num_machines']} machines, and a "
            "run starts processes on its own only; give the command at the top of that file on each"
        )
    return config


def launch(stage: str, arguments: Sequence[str], *, config: Path, force: bool = False) -> None:
    """Runs a stage under `accelerate launch`; what it prints passes through.

    Args:
        stage: `train` or `recommend`.
        arguments: the recipe and its overrides, as on the command line.
        config: accelerate's configuration file.
        force: build it anew.

    Raises:
        RuntimeError: it ended with an error.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    command += ["--config_file", str(config), "-m", "genrec", stage, *arguments]
    command += ["runtime.launcher=null", *(["--force"] if force else [])]
    process = subprocess.Popen(command, env={**os.environ, _LAUNCHED: "1"})
    guard = Guard([process.pid])
    try:
        code = process.wait()
    except BaseException:  # an interrupt from the keyboard reached it too; anything else did not
        process.terminate()
        process.wait()
        raise
    finally:
        guard.release()
    if code:
        raise RuntimeError(
            f"{stage} under {config} ended with exit code {code}; its own message is above. "
            "The same command again goes on from the last checkpoint"
        )


def launched() -> bool:
    """Says whether a run started this process, and so has said what is to be said."""
    return _LAUNCHED in os.environ


def follow_launcher() -> None:
    """Lets this process end when its launcher does, where it has one.

    torchrun gives every process a session of its own, so a launcher that is killed would leave them
    running, with their memory and the lock on the artifact.
    """
    if Processes.current().count > 1 or launched():
        follow(os.getppid())


def follow(parent: int) -> None:
    """Lets this process end as soon as it is no child of `parent`, a process id."""
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(_ORPHANED)
