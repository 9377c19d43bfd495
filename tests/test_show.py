"""What `genrec show` draws of a training."""

import json
import math
from pathlib import Path

import rich.console

from genrec.show import curves, show_curves, sparkline

LINES = [
    {"step": 1, "loss": 3.0, "lr": 0.1, "tasks": {"a": 4.0}, "tokens_per_second": 10.0},
    {"step": 2, "loss": 2.0, "lr": 0.2, "tasks": {"a": 2.0, "b": 5.0}, "padding": 0.5},
    {"step": 2, "valid": {"loss": 2.5, "ndcg@10": 0.1}},
    {"step": 4, "loss": 1.0, "lr": 0.1, "tasks": {"b": 3.0}, "memory_gb": 1.5},
]


def test_every_number_by_name() -> None:
    assert curves(LINES) == {
        "loss": [(1, 3.0), (2, 2.0), (4, 1.0)],
        "  a": [(1, 4.0), (2, 2.0)],
        "  b": [(2, 5.0), (4, 3.0)],
        "validation loss": [(2, 2.5)],
        "validation ndcg@10": [(2, 0.1)],
        "lr": [(1, 0.1), (2, 0.2), (4, 0.1)],
        "tokens_per_second": [(1, 10.0)],
        "padding": [(2, 0.5)],
        "memory_gb": [(4, 1.5)],
    }


def test_a_sparkline_by_hand() -> None:
    assert sparkline([(1, 0.0), (2, 7.0), (3, 3.0), (4, 0.0)], end=4, width=4) == "▁█▄▁"
    assert sparkline([(2, 1.0), (4, 2.0)], end=4, width=4) == " ▁▁█"
    assert sparkline([(1, 1.0), (2, 3.0), (3, 0.0), (4, 0.0)], end=4, width=2) == "█▁"
    assert sparkline([(1, 5.0), (2, 5.0)], end=2, width=2) == "▁▁"
    assert sparkline([(1, math.nan), (2, 1.0)], end=2, width=2) == " ▁"
    assert sparkline([], end=4, width=3) == "   "


def test_the_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    out = rich.console.Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    show_curves(out, tmp_path)
    text = out.export_text()
    assert "steps 1 to 4" in text
    assert str(tmp_path / "losses.png") in text
    (row,) = [line for line in text.splitlines() if line.startswith("loss")]
    assert row.split()[-4:] == ["3", "1", "3", "1"]
