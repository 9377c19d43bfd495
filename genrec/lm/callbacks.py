"""Callbacks for transformers.Trainer: the log file, averaged weights, when to save, trackers."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from genrec.lm.sampler import TokenBudgetSampler
from genrec.progress import Progress

EMA_FILE = "ema.safetensors"


class Flow(TrainerCallback):
    """Reports progress, keeps the sampler's epoch, and saves every so many steps.

    Trainer itself saves after each validation, so that the best checkpoint is always on disk.

    Args:
        sampler: gets each epoch's number.
        save_every: steps between further checkpoints.
        progress: called after every step.
    """

    def __init__(self, sampler: TokenBudgetSampler, save_every: int, progress: Progress) -> None:
        self.sampler, self.save_every, self.progress = sampler, save_every, progress

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tells the sampler; Trainer does not reach a batch sampler that it did not make."""
        self.sampler.set_epoch(state.global_step // len(self.sampler))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for a checkpoint, and for a log line wherever one is written.

        So no line spans a checkpoint, and a resumed run writes the lines of an undisturbed one.
        """
        control.should_save |= state.global_step % self.save_every == 0
        control.should_log |= control.should_save or control.should_evaluate
        if state.is_world_process_zero:
            self.progress("train", state.global_step, state.max_steps)


class LogFile(TrainerCallback):
    """Writes `log.jsonl`: one line per log step and one per validation, by the first process.

    Args:
        path: the file. A resumed run first drops the lines beyond its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps the lines up to the checkpoint; a half-written last line goes too."""
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_log(self.path) if line["step"] <= state.global_step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        """Appends a line; Trainer's closing totals are not steps and stay out."""
        line: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        if "loss" in logs:
            line |= {
                "lr" if k == "learning_rate" else k: v for k, v in logs.items() if k != "epoch"
            }
        elif "eval_loss" in logs:
            line["valid"] = {k.removeprefix("eval_"): v for k, v in logs.items() if k != "epoch"}
        else:
            return
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a `log.jsonl`, up to the first that is not whole."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def trackers(names: Sequence[str], folder: Path) -> list[TrainerCallback]:
    """Returns Trainer's own callbacks for experiment trackers, told every number of a log line.

    Args:
        names: as transformers' `report_to`: tensorboard, wandb, trackio, mlflow and others.
        folder: where tensorboard writes, unless TENSORBOARD_LOGGING_DIR says; the others have their
            own places and their own variables.

    Raises:
        ValueError: no such tracker; names those there are.
        ImportError: its package is not installed; names it.
    """
    if "all" in names or "none" in names:
        raise ValueError(f"runtime.trackers={list(names)}: name each, such as tensorboard")
    try:
        callbacks = [
            _flattened(kind)() for kind in get_reporting_integration_callbacks(list(names))
        ]
    except ValueError as error:
        raise ValueError(f"runtime.trackers={list(names)}: {error}") from error
    except (RuntimeError, ImportError) as error:
        raise ImportError(f"runtime.trackers={list(names)}: {error}") from error
    for tracker in callbacks:
        if getattr(tracker, "logging_dir", "") is None:
            tracker.logging_dir = str(folder)
    return callbacks


def _flattened(kind: type[TrainerCallback]) -> type[TrainerCallback]:
    """Returns a tracker that takes our log lines: trackers know numbers, not numbers by task."""

    class Flat(kind):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kw: Any) -> None:
            return super().on_log(args, state, control, logs=_flat(logs or {}), **kw)

    Flat.__name__ = kind.__name__
    return Flat


def _flat(logs: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in parts:
            flat[f"{name}/{part}".rstrip("/").replace("@", "_at_")] = number  # mlflow takes no @
    return flat


class Average(TrainerCallback):
    """Exponential moving average of the trained weights, for validation and the final model.

    Args:
        model: its parameters that need a gradient are averaged.
        decay: of the average; early on min(decay, (1 + step) / (10 + step)), so that the random
            start is forgotten.
        resume: a checkpoint folder to read the average from.
    """

    def __init__(self, model: nn.Module, decay: float, *, resume: Path | None) -> None:
        self.model, self.decay, self.resume = model, decay, resume
        self.shadow: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts at the weights, or where the checkpoint stood."""
        self.shadow = {name: p.detach().clone() for name, p in self._parameters().items()}
        if self.resume is not None:
            self.load(self.resume)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the average towards the weights."""
        step = state.global_step
        update = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        update(list(self.shadow.values()), list(self._parameters().values()), step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the average into the model for the length of a `with` block."""
        weights = {name: p.detach().clone() for name, p in self._parameters().items()}
        self.keep()
        try:
            yield
        finally:
            self._set(weights)

    def keep(self) -> None:
        """Puts the average into the model for good."""
        self._set(self.shadow)

    def save(self, folder: Path) -> None:
        """Writes the average into a checkpoint."""
        tensors = {name: t.contiguous() for name, t in self.shadow.items()}
        safetensors.torch.save_file(tensors, folder / EMA_FILE)

    def load(self, folder: Path) -> None:
        """Reads the average of a checkpoint."""
        loaded = safetensors.torch.load_file(folder / EMA_FILE)
        self.shadow = {name: loaded[name].to(p.device) for name, p in self._parameters().items()}

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def _set(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters().items():
            parameter.copy_(weights[name])


class Tally:
    """Loss per task and tokens per second since the last log line.

    Args:
        tasks: names, in the order of the batches' task indices.
        device: where the sums live, so that no step waits for them.
    """

    def __init__(self, tasks: tuple[str, ...], device: torch.device) -> None:
        self.tasks, self.device = tasks, device
        self.reset()

    def reset(self) -> None:
        """Forgets everything and starts the clock."""
        self.sums = torch.zeros(len(self.tasks), 2, device=self.device)  # loss, target tokens
        self.tokens = torch.zeros(2, device=self.device)  # real, padded
        self.started = time.perf_counter()

    def add(self, tasks: torch.Tensor, losses: torch.Tensor, mask: torch.Tensor) -> None:
        """Adds a batch: task index and loss of every target [targets], attention mask [B, T]."""
        losses = losses.detach().to(self.sums.dtype)
        self.sums.index_add_(0, tasks, torch.stack([losses, torch.ones_like(losses)], dim=1))
        self.tokens += torch.stack([mask.sum(), torch.tensor(mask.numel(), device=self.device)])

    def pause(self, seconds: float) -> None:
        """Takes time that was not training off the clock."""
        self.started += seconds

    def take(self, reduce: Any) -> dict[str, Any]:
        """Returns what a log line says of the time since the last one, and starts anew.

        `tasks` is the mean loss of a task's target tokens, `shares` its part of the summed loss;
        `memory_gb` is the first process's own.

        Args:
            reduce: sums a tensor over all processes.
        """
        seconds = time.perf_counter() - self.started
        sums, tokens = reduce(self.sums).tolist(), reduce(self.tokens).tolist()
        self.reset()
        seen = {n: pair for n, pair in zip(self.tasks, sums, strict=True) if pair[1]}
        total = sum(loss for loss, _ in seen.values())
        return {
            "tasks": {name: loss / count for name, (loss, count) in seen.items()},
            "shares": {
                n: round(loss / total, 6) if total else 0.0 for n, (loss, _) in seen.items()
            },
            "tokens_per_second": round(tokens[0] / max(seconds, 1e-9), 1),
            "padding": round(1 - tokens[0] / max(tokens[1], 1), 4),
            **peak_memory(self.device),
        }


def peak_memory(device: torch.device) -> dict[str, float]:
    """Returns the most memory that this process has held so far, GB: `memory_gb`, `gpu_memory_gb`."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    peak = {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["gpu_memory_gb"] = torch.cuda.max_memory_allocated(device)
    return {name: round(value / 1e9, 3) for name, value in peak.items()}
