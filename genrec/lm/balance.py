"""Tells from the tasks' losses whether one task drowns another: warnings and curves.

There is one loss and no weights, so a task weighs what its target tokens lose. Our measure of
interference (the paper has none): a task is *starved* where it gets under a tenth of what the other
tasks get on average although its tokens are no easier than the rest, and it *crowds* where it gets
over ten times as much although its tokens are no harder. A task that has small share because it is
learnt is neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genrec.lm.callbacks import read_log

logger = logging.getLogger(__name__)

FACTOR = 10.0  # times the mean of the other tasks' shares, either way
PATIENCE = 25  # log lines in a row; 500 steps
_SLACK = 1.05  # losses this near are alike
_KEEP = 0.9  # of the running means: tasks with few examples are absent from many lines
CURVES_FILE = "losses.png"


@dataclass
class Balance:
    """Running means of the tasks' losses and shares, and who has been far off for how long."""

    losses: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    streaks: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def see(self, line: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Takes in a line of `log.jsonl`; returns what it newly shows, once per task.

        Args:
            line: with `step`, `tasks` (mean loss of a target token) and `shares` (of the summed
                loss), as `Tally` writes them.

        Returns:
            Findings: task, state (`starved` or `crowds`), step, share and loss (running means).
        """
        present, shares = line["tasks"], line["shares"]
        for task, loss in present.items():
            self.losses[task] = _mean(self.losses.get(task), loss)
        for task in self.losses:
            self.shares[task] = _mean(self.shares.get(task), shares.get(task, 0.0))
        new = []
        known = {finding["task"] for finding in self.findings}
        for task in sorted(self.losses):
            state = self._state(task)
            self.streaks[task] = self.streaks.get(task, 0) + 1 if state else 0
            if state and self.streaks[task] >= PATIENCE and task not in known:
                share, loss = round(self.shares[task], 4), round(self.losses[task], 4)
                new.append(
                    {"task": task, "state": state, "step": line["step"]}
                    | {"share": share, "loss": loss}
                )
        self.findings += new
        return new

    def _state(self, task: str) -> str | None:
        others = sum(self.shares.values()) - self.shares[task]
        mean = others / max(1, len(self.shares) - 1)
        if not mean:
            return None
        # The mean over all tokens: a task's share divided by its loss goes as its tokens.
        tokens = {t: self.shares[t] / self.losses[t] for t in self.losses if self.losses[t] > 0}
        overall = sum(self.shares.values()) / max(sum(tokens.values()), 1e-12)
        ratio = self.shares[task] / mean
        if ratio < 1 / FACTOR and self.losses[task] >= overall / _SLACK:
            return "starved"
        return "crowds" if ratio > FACTOR and self.losses[task] <= overall * _SLACK else None


def _mean(before: float | None, now: float) -> float:
    return now if before is None else _KEEP * before + (1 - _KEEP) * now


def unbalanced(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns all findings of a whole `log.jsonl`; see `Balance.see`."""
    balance = Balance()
    for line in _steps(lines):
        balance.see(line)
    return balance.findings


class BalanceWatch(TrainerCallback):
    """Warns while training, once per task; a resumed run knows what it has said.

    Args:
        path: `log.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.balance = path, Balance()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reads again what the log already shows."""
        self.balance = Balance()
        for line in _steps(read_log(self.path)):
            if line["step"] <= state.global_step:
                self.balance.see(line)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        """Looks at each line."""
        if "shares" not in logs or not state.is_world_process_zero:
            return
        for finding in self.balance.see({"step": state.global_step, **logs}):
            logger.warning(message(finding))


def message(finding: Mapping[str, Any]) -> str:
    """Returns a finding as a sentence, with what to change."""
    task, share, loss = finding["task"], finding["share"], finding["loss"]
    starved = finding["state"] == "starved"
    return (
        f"task {task} {'is starved' if starved else 'crowds the others'}: {share:.1%} of the loss "
        f"for {PATIENCE} log lines, at {loss:.2f} per token; see {CURVES_FILE}. "
        f"{'Raise' if starved else 'Lower'} compose.tasks.{task}.rate if that is not meant"
    )


def draw_curves(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws each task's loss and its share of the loss over the steps, as a PNG.

    Args:
        lines: of `log.jsonl`; nothing is drawn if none is of training.
        path: the file to write.
    """
    steps = [line["step"] for line in _steps(lines)]
    if not steps:
        return
    tasks = sorted({task for line in _steps(lines) for task in line["tasks"]})
    figure = Figure(figsize=(8, 8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for task in tasks:
        known = [(n["step"], n["tasks"][task]) for n in _steps(lines) if task in n["tasks"]]
        above.plot(*zip(*known, strict=True), label=task, linewidth=1.2)
    valid = [(n["step"], n["valid"]["loss"]) for n in lines if "loss" in n.get("valid", {})]
    if valid:
        above.plot(*zip(*valid, strict=True), "k--", label="validation", linewidth=1.2)
    above.set_ylabel("loss per target token, nats")
    above.legend(fontsize="small", ncols=2)
    below.stackplot(steps, list(_smooth_shares(lines, tasks)), linewidth=0)
    below.set(xlabel="step", ylabel="share of the loss", ylim=(0, 1))
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def _smooth_shares(
    lines: Iterable[Mapping[str, Any]], tasks: Sequence[str]
) -> Iterator[list[float]]:
    for task in tasks:
        values: list[float] = []
        for line in _steps(lines):
            values.append(_mean(values[-1] if values else None, line["shares"].get(task, 0.0)))
        yield values


def _steps(lines: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (line for line in lines if "shares" in line)
