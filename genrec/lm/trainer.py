"""transformers.Trainer with our batches, loss per task, validation and averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from genrec.lm.batch import IGNORED
from genrec.lm.callbacks import Average, Tally
from genrec.lm.sampler import Collator, TokenBudgetSampler

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
        one_cycle: bool,
        warmup: float,
        label_smoothing: float,
        average: Average | None,
        validate: Validate | None,
    ) -> None:
        """Adds what Trainer has no argument for; the arguments are those of `train`."""
        self._sampler, self._tokens_per_batch = sampler, tokens_per_batch
        self._one_cycle, self._warmup = one_cycle, warmup
        self._smoothing, self._average, self._validate = label_smoothing, average, validate
        self._tally = Tally(tuple(self.data_collator.task_index), self.args.device)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by all targets of the step
        self.loss_is_scaled_for_ga = True

    def run(self, checkpoint: Path | None, *, finished: bool) -> None:
        """Trains from a checkpoint or the start; of a finished run only loads the best weights."""
        if checkpoint is not None and finished:
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
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

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Adds torch's one-cycle schedule to Trainer's own."""
        if not self._one_cycle:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = OneCycleLR(
                optimizer or self.optimizer,
                max_lr=self.args.learning_rate,
                total_steps=num_training_steps + 1,  # Trainer steps once more after the last
                pct_start=self._warmup,
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
        losses, tasks = self._target_losses(model, inputs, self._smoothing)
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
        """Adds the loss of each task to a log line, and stops where the loss is not finite."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise FloatingPointError(
                    f"the training loss is {logs['loss']} at step {self.state.global_step}; lower "
                    "train.lr or raise train.warmup"
                )
            logs |= self._tally.take(self.accelerator.reduce)
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Adds the averaged weights to a checkpoint, before Trainer's state completes it."""
        super().save_model(output_dir, _internal_call)
        if self._average is not None and self.args.should_save:
            self._average.save(Path(output_dir or self.args.output_dir))

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Returns 0: the count is unused here, and it walks over all parameters at every step."""
        return 0

    def _valid_losses(self) -> dict[str, float]:
        data = self.eval_dataset
        collate = Collator(self.data_collator.pad, sorted(set(data["task"])))
        sampler = TokenBudgetSampler(data["length"], self._tokens_per_batch, shuffle=False)
        total = count = 0.0
        for batch in DataLoader(data, batch_sampler=sampler, collate_fn=collate):
            losses, _ = self._target_losses(self.model, self._prepare_inputs(batch), 0.0)
            total += losses.sum().item()
            count += len(losses)
        return {"loss": total / count}

    def _target_losses(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss of every target token of a batch, and its task's index, both [targets].

        Only positions before a target reach the output head: it costs half of a small model's time,
        and prompts are no targets.
        """
        labels = inputs["labels"][:, 1:]
        targets = labels != IGNORED  # [B, T - 1]
        positions = F.pad(targets, (0, 1))  # [B, T]
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0][positions],))
        try:
            logits = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
            ).logits  # [targets, V]
        finally:
            hook.remove()
        losses = F.cross_entropy(
            logits.float(), labels[targets], reduction="none", label_smoothing=smoothing
        )
        return losses, inputs["tasks"].unsqueeze(1).expand_as(targets)[targets]
