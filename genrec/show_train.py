"""What `genrec show RECIPE train` prints: how training went, as curves a line high."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table
from rich.text import Text

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 48  # characters of a curve
_SPEED = ("tokens_per_second", "padding", "memory_gb", "gpu_memory_gb")

Line = Mapping[str, Any]


def show_curves(out: rich.console.Console, folder: Path) -> None:
    """Prints each curve of a `log.jsonl` with its first, lowest, highest and last value.

    Args:
        out: where to.
        folder: of the train stage's artifact.
    """
    text = (folder / "log.jsonl").read_text("utf-8")
    lines: list[Line] = [json.loads(line) for line in text.splitlines()]
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return
    last = max(line["step"] for line in lines)
    table = Table(box=None, pad_edge=False, title=f"steps {steps[0]['step']} to {last}")
    for name in ("", "curve", "first", "lowest", "highest", "last"):
        table.add_column(name, justify="left" if name in ("", "curve") else "right", no_wrap=True)
    for name, points in curves(lines).items():
        values = [value for _, value in points]
        row = [values[0], min(values), max(values), values[-1]]
        table.add_row(name, sparkline(points, end=last), *(f"{value:.4g}" for value in row))
    out.print(table)
    out.print(Text(f"  picture: {folder / 'losses.png'}"), soft_wrap=True)


def curves(lines: Sequence[Line]) -> dict[str, list[tuple[int, float]]]:
    """Returns (step, value) of everything that was measured, by name: losses first.

    Args:
        lines: of a `log.jsonl`.
    """
    steps = [line for line in lines if "loss" in line]
    valid = [{"step": line["step"], **line["valid"]} for line in lines if "valid" in line]
    tasks = sorted({task for line in steps for task in line.get("tasks", {})})
    found = {"loss": _points(steps, "loss")}
    for task in tasks:
        parts = [{"step": line["step"], **line.get("tasks", {})} for line in steps]
        found[f"  {task}"] = _points(parts, task)
    for name in sorted({name for line in valid for name in line} - {"step"}):
        found[f"validation {name}"] = _points(valid, name)
    for name in ("lr", "grad_norm", *_SPEED):
        found[name] = _points(steps, name)
    return {name: points for name, points in found.items() if points}


def sparkline(points: Sequence[tuple[int, float]], *, end: int, width: int = _WIDTH) -> str:
    """Draws a curve in one line, blank before its first point, level where it has none.

    Args:
        points: (step, value), steps from 1 and ascending; where several share a column, their mean.
        end: the step of the right edge.
        width: columns.
    """
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        if math.isfinite(value):
            columns[min(width - 1, (step - 1) * width // max(end, 1))].append(value)
    heights: list[float | None] = []
    for column in columns:
        before = heights[-1] if heights else None
        heights.append(sum(column) / len(column) if column else before)
    known = [height for height in heights if height is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if h is None else _BLOCKS[round((h - low) * scale)] for h in heights)


def _points(lines: Sequence[Line], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]
