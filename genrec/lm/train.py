"""Training by transformers.Trainer: token-budget batches, loss per task, validation by the decoder.

Ours are only the batches, the loss per task, the validation and the averaged weights; steps,
checkpoints, early stopping, mixed precision and several processes are Trainer's and accelerate's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from genrec.lm.balance import CURVES_FILE, BalanceWatch, draw_curves, unbalanced
from genrec.lm.callbacks import Average, Flow, LogFile, read_log
from genrec.lm.model import quiet
from genrec.lm.sampler import Collator, TokenBudgetSampler
from genrec.lm.trainer import SidTrainer, Validate
from genrec.progress import Progress, silent

LOG_FILE = "log.jsonl"

Scheduler = Literal["cosine", "one-cycle", "linear", "constant_with_warmup"]


def train(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train_data: datasets.Dataset,
    valid_data: datasets.Dataset,
    *,
    out: Path,
    epochs: float | None = None,
    max_steps: int | None = None,
    tokens_per_batch: int = 4096,
    lr: float = 2e-3,
    weight_decay: float = 0.1,
    warmup: float = 0.1,
    scheduler: Scheduler = "cosine",
    label_smoothing: float = 0.0,
    max_grad_norm: float = 1.0,
    ema: float = 0.0,
    eval_every: int = 200,
    patience: int = 5,
    save_every: int = 200,
    log_every: int = 20,
    seed: int = 0,
    device: str = "auto",
    validate: Validate | None = None,
    metric: str = "recall@10",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains `model` in place and leaves the best validated weights in it.

    Called again with the same `out`, it goes on from the last complete checkpoint there, with the
    same batches, learning rate and dropout as if it had never stopped.

    Args:
        model: from `build_scratch` or `load_pretrained`, as it was when training first began.
        tokenizer: for its padding token.
        train_data: `encode_examples(...).data`.
        valid_data: the same, for the loss on validation.
        out: a folder that outlives a killed run: checkpoints, `log.jsonl`, `losses.png`.
        epochs: passes over `train_data`; give this or `max_steps`.
        max_steps: optimizer steps.
        tokens_per_batch: padded tokens of a step, over all processes.
        lr: highest learning rate, of AdamW.
        weight_decay: of AdamW, on matrices.
        warmup: share of the steps in which the learning rate rises.
        scheduler: how it moves; `one-cycle` is torch's OneCycleLR, rising and falling by cosine.
        label_smoothing: of the training loss.
        max_grad_norm: gradients are clipped to this norm.
        ema: decay of the averaged weights, such as 0.999; 0 is off.
        eval_every: steps between validations.
        patience: validations without a gain before stopping.
        save_every: steps between checkpoints, beside those after each validation.
        log_every: steps between log lines.
        seed: of batches and dropout.
        device: `auto`, `cpu`, `cuda` or `mps`.
        validate: gets the model in eval mode with the averaged weights, returns metrics such as
            `recall@10` by the real decoder.
        metric: chooses the best checkpoint: a key of `validate`'s metrics (higher is better) or
            `loss` (lower is better).
        progress: called as ("train", step, steps).

    Returns:
        steps, epochs, metric, best_step, valid (all metrics at the best step), unbalanced (tasks
        that starve or crowd, see `balance`), stopped_early, parameters, trainable. `losses.png` in
        `out` shows each task's loss.

    Raises:
        ValueError: not one of `epochs` and `max_steps`, no data, no such device, or `metric` is not
            measured.
        FloatingPointError: the loss is not finite.
    """
    _check_arguments(train_data, valid_data, epochs, max_steps, metric, validate)
    out.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(
        out,
        device=device,
        num_train_epochs=epochs if epochs is not None else 1.0,
        max_steps=max_steps if max_steps is not None else -1,
        learning_rate=lr,
        weight_decay=weight_decay,
        warmup_steps=warmup,  # below 1 it is a share of the steps
        lr_scheduler_type="cosine" if scheduler == "one-cycle" else scheduler,
        max_grad_norm=max_grad_norm,
        logging_steps=log_every,
        eval_steps=eval_every,
        save_steps=eval_every,
        metric_for_best_model=f"eval_{metric}",
        greater_is_better=metric != "loss",
        seed=seed,
        data_seed=seed,
    )
    with arguments.main_process_first(local=False):  # it clears up what a kill left
        checkpoint = last_complete_checkpoint(out)
    sampler = TokenBudgetSampler(
        train_data["length"],
        tokens_per_batch,
        seed=seed,
        rank=arguments.process_index,
        processes=arguments.world_size,
    )
    average = Average(model, ema, resume=checkpoint) if ema else None
    trainer = SidTrainer(
        model=model,
        args=arguments,
        train_dataset=train_data,
        eval_dataset=valid_data,
        data_collator=Collator(tokenizer.pad_token_id, sorted(set(train_data["task"]))),
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=patience),
            Flow(sampler, save_every, progress),
            LogFile(out / LOG_FILE),
            BalanceWatch(out / LOG_FILE),
            *([average] if average else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.equip(
        sampler=sampler,
        tokens_per_batch=tokens_per_batch,
        one_cycle=scheduler == "one-cycle",
        warmup=warmup,
        label_smoothing=label_smoothing,
        average=average,
        validate=validate,
    )
    with quiet():
        trainer.run(checkpoint, finished=checkpoint is not None and _is_finished(checkpoint))
    if trainer.is_world_process_zero():
        draw_curves(read_log(out / LOG_FILE), out / CURVES_FILE)
    return _summary(trainer, out, metric)


def last_complete_checkpoint(out: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end; removes those that were not.

    Trainer writes a checkpoint's state last, so a readable state means a whole checkpoint.
    """
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for folder in reversed(found):
        if _is_complete(folder):
            return folder
        shutil.rmtree(folder)
    return None


def _arguments(out: Path, *, device: str, **settings: Any) -> TrainingArguments:
    """Returns Trainer's arguments: what `train` was asked for, and what is always so."""
    if device not in ("auto", "cpu", "cuda", "cuda:0", "mps"):
        raise ValueError(
            f"runtime.device={device}: training takes auto, cpu, cuda or mps; to choose among GPUs "
            "set CUDA_VISIBLE_DEVICES"
        )
    cuda = device in ("auto", "cuda", "cuda:0") and torch.cuda.is_available()
    mps = device in ("auto", "mps") and torch.backends.mps.is_available()
    if device not in ("auto", "cpu") and not (cuda or mps):
        raise ValueError(f"runtime.device={device}: there is none here; expected auto or cpu")
    arguments = TrainingArguments(
        output_dir=str(out.resolve()),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        save_strategy="steps",
        save_total_limit=2,  # the newest and the best
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,
        use_cpu=not (cuda or mps),
        bf16=cuda and torch.cuda.is_bf16_supported(),
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are accelerate's, never DataParallel
    return arguments


def _check_arguments(
    train_data: datasets.Dataset,
    valid_data: datasets.Dataset,
    epochs: float | None,
    max_steps: int | None,
    metric: str,
    validate: Validate | None,
) -> None:
    if (epochs is None) == (max_steps is None):
        raise ValueError(f"give epochs or max_steps, found epochs={epochs}, max_steps={max_steps}")
    for name, data in (("train", train_data), ("validation", valid_data)):
        if not len(data):
            raise ValueError(f"no {name} examples: run compose again with more users or items")
    if validate is None and metric != "loss":
        raise ValueError(f"metric '{metric}' needs validate; without it choose 'loss'")


def _is_complete(folder: Path) -> bool:
    needed = ("optimizer.pt", "scheduler.pt")
    return _state(folder) is not None and all((folder / name).is_file() for name in needed)


def _is_finished(folder: Path) -> bool:
    state = _state(folder) or {}
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((folder / TRAINER_STATE_NAME).read_text("utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return state


def _summary(trainer: SidTrainer, out: Path, metric: str) -> dict[str, Any]:
    state = trainer.state
    best, lines = state.best_global_step, read_log(out / LOG_FILE)
    valid = [line["valid"] for line in lines if "valid" in line and line["step"] == best]
    parameters = list(trainer.model.parameters())
    return {
        "steps": state.global_step,
        "epochs": round(state.epoch, 4),
        "metric": metric,
        "best_step": best,
        "valid": valid[0] if valid else {},
        "unbalanced": unbalanced(lines),
        "stopped_early": state.global_step < state.max_steps,
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }
