"""transformers.Trainer with our batches, loss per task, validation and averaged weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from genrec.lm.adapters import row_parameters
from genrec.lm.batch import IGNORED
from genrec.lm.callbacks import Average, Tally
from genrec.lm.conditions import write_conditions
from genrec.lm.corpus import lengths_of, tasks_of
from genrec.lm.loss import TargetLoss
from genrec.lm.sampler import Collator, TokenBudgetSampler

BAD_BATCH = "not-finite"  # the files of batches whose loss was not
Validate = Callable[[nn.Module], Mapping[str, float]]


class SidTrainer(Trainer):
    """Trainer with our batches, loss and validation."""

    control: Any
    lr_scheduler: Any

    def equip(
        self,
        *,
        sampler: TokenBudgetSampler,
        tokens_per_batch: int,
        lr_rows: float | None,
        one_cycle: bool,
        warmup: float,
        label_smoothing: float,
        average: Average | None,
        validate: Validate | None,
        max_logits: int,
        code_groups: Sequence[np.ndarray] | None,
        tokenizer: PreTrainedTokenizerBase,
        conditions: Mapping[str, Any],
    ) -> None:
        """Adds what Trainer has no argument for; the arguments are those of `train`.

        `conditions` go into every checkpoint, see `lm.conditions`.
        """
        self._sampler, self._tokens_per_batch = sampler, tokens_per_batch
        self._lr_rows, self._one_cycle, self._warmup = lr_rows, one_cycle, warmup
        self._smoothing, self._average, self._validate = label_smoothing, average, validate
        self._tokenizer, self._conditions = tokenizer, conditions
        self._before: dict[str, torch.Tensor] | None = None
        self._target_losses = TargetLoss(
            self.model,
            max_logits=max_logits,
            code_groups=code_groups,
            whole=not (self.is_fsdp_enabled or self.is_deepspeed_enabled),
        )
        self._tally = Tally(tuple(self.data_collator.task_index), self.args.device)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by all targets of the step
        self.loss_is_scaled_for_ga = True

    def run(self, checkpoint: Path | None, *, finished: bool) -> None:
        """Trains from a checkpoint or the start; of a finished run only loads the best weights."""
        if checkpoint is not None and finished:
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # then `train` names them
                self._load_best_model()
        else:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self._average is not None and self.state.best_model_checkpoint is not None:
            self._average.load(Path(self.state.best_model_checkpoint))
            self._average.keep()
        self.model.eval()

    def get_train_dataloader(self) -> DataLoader:
        """Returns our batches; the sampler knows its process, so accelerate must not shard them."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._sampler,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Gives the SID rows groups of their own where their rate is another."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if self._lr_rows is None or made:
            return optimizer
        rows = {id(parameter) for parameter in row_parameters(self.model)}
        for group in [*optimizer.param_groups]:
            own = [parameter for parameter in group["params"] if id(parameter) in rows]
            if own:
                group["params"] = [p for p in group["params"] if id(p) not in rows]
                optimizer.add_param_group(group | {"params": own, "lr": self._lr_rows})
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Adds torch's one-cycle schedule to Trainer's own."""
        if not self._one_cycle:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            steps = num_training_steps + 1  # Trainer steps once more after the last
            rising = self._warmup * steps
            self.lr_scheduler = OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=steps,
                # torch divides by the rising steps less one.
                pct_start=self._warmup if not math.isclose(rising, 1) else 1.01 / steps,
                cycle_momentum=False,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Returns the mean over the targets of the whole step, on whichever process they are."""
        losses, tasks = self._losses(model, inputs, smoothing=self._smoothing)
        if not losses.isfinite().all():
            self._stop(inputs, losses)
        self._before = inputs
        self._tally.add(tasks, losses, inputs["attention_mask"])
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        # DDP averages gradients over processes, while `count` is already the sum over them.
        return losses.sum() / count * self.accelerator.num_processes

    def evaluate(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> dict[str, float]:
        """Measures loss and the decoder's metrics, of the averaged weights if there are any."""
        started = time.perf_counter()
        self.model.eval()
        with self._average.applied() if self._average else nullcontext(), torch.no_grad():
            measured = self._valid_losses()
            measured |= dict(self._validate(self.model)) if self._validate else {}
        # Processes must agree on early stopping to the last digit.
        measured = broadcast_object_list([measured])[0]
        wanted = self.args.metric_for_best_model.removeprefix("eval_")
        if wanted not in measured:
            raise ValueError(f"metric '{wanted}': validation measures {sorted(measured)}")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self._tally.pause(time.perf_counter() - started)
        return metrics

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds the loss of each task to a log line."""
        if "loss" in logs:
            logs |= self._tally.take(self.accelerator.reduce)
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Adds averaged weights and conditions to a checkpoint, before Trainer's state completes it."""
        super().save_model(output_dir, _internal_call)
        folder = Path(output_dir or self.args.output_dir)
        if self._average is not None and self.args.should_save:
            self._average.save(folder)
        if self.args.should_save:
            write_conditions(folder, self._conditions)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Returns 0: the count is unused here, and it walks over all parameters at every step."""
        return 0

    def _valid_losses(self) -> dict[str, float]:
        data = self.eval_dataset
        collate = Collator(self._tokenizer.pad_token_id, tasks_of(data))
        sampler = TokenBudgetSampler(lengths_of(data), self._tokens_per_batch, shuffle=False)
        total = count = 0.0
        for batch in DataLoader(data, batch_sampler=sampler, collate_fn=collate):
            losses, _ = self._losses(self.model, self._prepare_inputs(batch))
            total += losses.sum().item()
            count += len(losses)
        return {"loss": total / count}

    def _losses(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], *, smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns `TargetLoss`'s losses and tasks, in the precision that accelerate gives a model.

        It wraps the forward pass alone, and `TargetLoss` calls the head outside of it too.
        """
        with self.accelerator.autocast():
            return self._target_losses(model, inputs, smoothing=smoothing)

    def _stop(self, inputs: Mapping[str, torch.Tensor], losses: torch.Tensor) -> NoReturn:
        """Writes down the batch whose loss is not finite, and the one before, and raises."""
        step = self.state.global_step + 1
        path = Path(self.args.output_dir) / f"{BAD_BATCH}-{step}-{self.args.process_index}.json"
        report = {
            "step": step,
            "batch": describe(inputs, self._tokenizer, losses),
            "batch_before": describe(self._before, self._tokenizer) if self._before else [],
        }
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        bad = int((~losses.isfinite()).sum())
        raise FloatingPointError(
            f"the training loss is {losses.sum().item()} at step {step}: {bad} of {len(losses)} targets "
            f"have none that is finite; the batch and the one before, whose step may have broken the "
            f"weights, are in {path}. Lower train.lr or raise train.warmup"
        )


def describe(
    inputs: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    losses: torch.Tensor | None = None,
) -> list[dict[str, Any]]:
    """Returns a batch example by example, to be read: ids, labels, text, and each target's loss.

    Args:
        inputs: as the collator made it.
        tokenizer: its own.
        losses: of every target, in the order of the batch; those not finite become null.
    """
    values = [] if losses is None else losses.detach().float().cpu().tolist()
    examples: list[dict[str, Any]] = []
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        ids, labels = (inputs[name][row][mask].tolist() for name in ("input_ids", "labels"))
        first = [not i for i in range(len(ids))]
        if "position_ids" in inputs:  # several examples in a row
            first = [place == 0 for place in inputs["position_ids"][row][mask].tolist()]
        starts = [i for i, begins in enumerate(first) if begins]
        for start, end in pairwise([*starts, len(ids)]):
            own = {"input_ids": ids[start:end], "labels": labels[start:end]}
            examples.append({"text": tokenizer.decode(own["input_ids"]), **own})
            if losses is not None:
                count = sum(label != IGNORED for label in own["labels"][1:])
                examples[-1]["losses"] = [x if math.isfinite(x) else None for x in values[:count]]
                values = values[count:]
    return examples
