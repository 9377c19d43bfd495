"""Trainer's checkpoints: which is whole, and what to say when the disk is full.

Trainer writes a checkpoint's state last, so a readable state means a whole checkpoint, in whichever
of its forms: one process, DDP, FSDP shards, DeepSpeed.
"""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.trainer import TRAINER_STATE_NAME

# What holds the optimiser: one process or DDP; FSDP, whole or in shards; DeepSpeed.
_OPTIMIZERS = {
    "plain": ("optimizer.pt",),
    "fsdp": ("optimizer.bin", "optimizer_0"),
    "deepspeed": ("latest",),
}
# How torch's and safetensors' writers say that the disk is full: neither raises an OSError.
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter",
    "inline_container",
    "iostream error",
)


def last_complete_checkpoint(out: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end; removes those that were not."""
    checkpoints = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for folder in reversed(checkpoints):
        if _is_complete(folder):
            return folder
        shutil.rmtree(folder)
    return None


def is_finished(folder: Path) -> bool:
    """Says whether training had come to its end when a checkpoint was written."""
    state = _state(folder) or {}
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))


def check_kind(folder: Path, kind: str) -> None:
    """Checks that a checkpoint can be gone on from; Trainer would do without its optimiser.

    Args:
        folder: the checkpoint.
        kind: how this run shares the model out: `plain` (not at all), `fsdp` or `deepspeed`.

    Raises:
        ValueError: it was written otherwise.
    """
    if not any((folder / name).exists() for name in _OPTIMIZERS[kind]):
        written = next(
            other
            for other, names in _OPTIMIZERS.items()
            if any((folder / name).exists() for name in names)
        )
        raise ValueError(
            f"{folder}: was written under a launcher of another kind ({written}, this one is {kind}), "
            "and its optimizer cannot be read here; go on with the launcher that began, or remove "
            f"{folder.parent} to begin anew"
        )


@contextmanager
def room_for(what: str, out: Path) -> Iterator[None]:
    """Turns a full disk within a `with` block into one message, and keeps what is whole.

    A half-written checkpoint is removed, which makes room; the last whole one stays.

    Args:
        what: was being written, such as "a checkpoint".
        out: the folder that training writes into.

    Raises:
        OSError: the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        kept = last_complete_checkpoint(out)
        goes_on = f"goes on from {kept.name}" if kept else "begins anew, for there is no checkpoint"
        raise OSError(
            f"{out}: the disk is full, so {what} could not be written ({error}; what was begun is "
            f"gone, now {shutil.disk_usage(out).free / 1e6:.0f} MB are free). Make room and run the "
            f"same command again: it {goes_on}"
        ) from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(text in str(error) for text in _FULL)  # nothing but the message tells


def _is_complete(folder: Path) -> bool:
    if _state(folder) is None or not (folder / "scheduler.pt").is_file():
        return False
    # torch's files are archives with their table at the end: one that was cut off has none.
    archives = [path for path in folder.iterdir() if path.suffix in (".pt", ".pth")]
    return all(map(zipfile.is_zipfile, archives)) and any(
        (folder / name).exists() for names in _OPTIMIZERS.values() for name in names
    )


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((folder / TRAINER_STATE_NAME).read_text("utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return state
