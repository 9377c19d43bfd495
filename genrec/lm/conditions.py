"""The conditions under which a checkpoint was written, and what has changed when training resumes.

Training goes on whatever has changed, but perhaps not to what an undisturbed run would learn: other
batches, another order of sums, other code. So it is said.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from genrec import __version__

logger = logging.getLogger(__name__)

CONDITIONS_FILE = "conditions.json"
_LIBRARIES = (
    *("torch", "transformers", "accelerate", "peft", "bitsandbytes", "deepspeed"),
    *("tokenizers", "datasets", "numpy"),
)
_ABSENT = "not set"


def conditions(
    device: torch.device, *, processes: int, precision: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a step's result depends on in addition to weights and data, JSON values by name.

    Args:
        device: of this process.
        processes: that share the training.
        precision: of the products, as accelerate calls it: no (float32), bf16, fp16.
        settings: what training was asked for, such as tokens_per_batch.
    """
    cuda = device.type == "cuda"
    state = {
        **settings,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "mixed_precision": precision,
        "python": platform.python_version(),
        "genrec": __version__,
        **{name: number for name in _LIBRARIES if (number := _version(name))},
    }
    return dict(json.loads(json.dumps(state)))  # as they will be read again


def write_conditions(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes them into a checkpoint."""
    text = json.dumps(state, indent=1, sort_keys=True)
    (folder / CONDITIONS_FILE).write_text(text + "\n", encoding="utf-8")


def differences(checkpoint: Path, now: Mapping[str, Any]) -> list[str]:
    """Returns what differs from a checkpoint, a text each: `threads: 4 -> 2`.

    Raises:
        FileNotFoundError: the checkpoint does not say.
        ValueError: its file is damaged.
    """
    path = checkpoint / CONDITIONS_FILE
    try:
        then = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: not JSON ({error}); remove it to go on without knowing what has changed"
        ) from error
    return [
        f"{name}: {then.get(name, _ABSENT)} -> {now.get(name, _ABSENT)}"
        for name in [*now, *sorted(then.keys() - now.keys())]
        if then.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]


def warn_of_differences(checkpoint: Path, now: Mapping[str, Any]) -> None:
    """Warns of all that differs from the checkpoint that training goes on from, in one message."""
    try:
        changes = differences(checkpoint, now)
    except FileNotFoundError:
        logger.warning(
            "train: %s does not say under what settings and versions it was written, so what has "
            "changed since is unknown",
            checkpoint,
        )
        return
    if changes:
        logger.warning(
            "train: goes on from %s under other conditions, so the result may not be that of a run "
            "without a break: %s (checkpoint -> now). Remove %s to begin anew",
            *(checkpoint, "; ".join(changes), checkpoint.parent),
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
