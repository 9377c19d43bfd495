"""Training by transformers.Trainer: token-budget batches, loss per task, validation by the decoder.

Ours are only the batches, the loss per task, the validation and the averaged weights; steps,
checkpoints, early stopping, mixed precision and several processes are Trainer's and accelerate's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
)

from genrec.extras import install
from genrec.lm.adapters import row_parameters
from genrec.lm.balance import CURVES_FILE, BalanceWatch, draw_curves, unbalanced
from genrec.lm.callbacks import Average, Flow, LogFile, read_log, trackers
from genrec.lm.checkpoints import check_kind, is_finished, last_complete_checkpoint, room_for
from genrec.lm.conditions import conditions, warn_of_differences
from genrec.lm.corpus import lengths_of, sets_of, tasks_of
from genrec.lm.loss import MAX_LOGITS
from genrec.lm.precision import Precision, in_bfloat16
from genrec.lm.sampler import Collator, PackingCollator, TokenBudgetSampler, check_packing, row_for
from genrec.lm.trainer import SidTrainer, Validate
from genrec.progress import Progress, quiet, silent

LOG_FILE = "log.jsonl"
# The arguments of `train` that decide what it learns, apart from the model and the data.
_DECIDES = (
    *("epochs", "max_steps", "tokens_per_batch", "packing", "lr", "weight_decay", "optimizer"),
    *("warmup", "scheduler", "label_smoothing", "max_grad_norm", "ema", "eval_every", "patience"),
    *("metric", "max_logits", "gradient_checkpointing", "seed"),
)

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
    packing: bool = False,
    lr: float = 2e-3,
    lr_rows: float | None = None,
    weight_decay: float = 0.1,
    optimizer: str = "adamw_torch_fused",
    warmup: float = 0.1,
    scheduler: Scheduler = "cosine",
    label_smoothing: float = 0.0,
    max_grad_norm: float = 1.0,
    ema: float = 0.0,
    eval_every: int = 200,
    patience: int = 5,
    save_every: int = 200,
    log_every: int = 20,
    max_logits: int = MAX_LOGITS,
    code_groups: Sequence[np.ndarray] | None = None,
    gradient_checkpointing: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    track: Sequence[str] = (),
    track_in: Path | None = None,
    validate: Validate | None = None,
    metric: str = "recall@10",
    noted: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Trains `model` in place and leaves the best validated weights in it.

    Called again with the same `out`, it goes on from the last complete checkpoint there, with the
    same batches, learning rate and dropout as if it had never stopped. What has changed since that
    checkpoint (settings, threads, processes, device, versions of libraries) is warned of, one by one.

    Args:
        model: from `build_scratch` or `load_pretrained`, as it was when training first began.
        tokenizer: for its padding token.
        train_data: `encode_examples(...).data`, or `encode_file(...).data`, which stays on disk.
        valid_data: the same, for the loss on validation.
        out: a folder that outlives a killed run: checkpoints, `log.jsonl`, `losses.png`.
        epochs: passes over `train_data`; give this or `max_steps`.
        max_steps: optimizer steps.
        tokens_per_batch: tokens of a step, over all processes, padding included.
        packing: several examples in one row instead of padding; batches then hold all lengths.
        lr: highest learning rate.
        lr_rows: the same of the SID rows of an adapted model; None: `lr`.
        weight_decay: on matrices.
        optimizer: by transformers' name (`OptimizerNames`); 8-bit and paged ones are bitsandbytes'.
        warmup: share of the steps in which the learning rate rises.
        scheduler: how it moves; `one-cycle` is torch's OneCycleLR, rising and falling by cosine.
        label_smoothing: of the training loss.
        max_grad_norm: gradients are clipped to this norm.
        ema: decay of the averaged weights, such as 0.999; 0 is off.
        eval_every: steps between validations.
        patience: validations without a gain before stopping.
        save_every: steps between checkpoints, in addition to those after each validation.
        log_every: steps between log lines.
        gradient_checkpointing: layers keep their input alone and are computed again for the backward
            pass: a fraction of the memory for a third more work.
        max_logits: targets x vocabulary held at once; beyond it the loss is computed in blocks.
        code_groups: int [C] each, tokens among which a target that is one of them is learned, see
            `TargetLoss`; None: among the whole vocabulary.
        seed: of batches and dropout.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of matrix products, see `lm.precision`.
        track: experiment trackers, see `trackers`; no part of what is learned.
        track_in: where tensorboard writes; by default `out`/runs.
        validate: gets the model in eval mode with the averaged weights, returns metrics such as
            `recall@10` by the real decoder.
        metric: chooses the best checkpoint: a key of `validate`'s metrics (higher is better) or
            `loss` (lower is better).
        noted: further settings to write into checkpoints and to compare: what `validate` depends on.
        progress: called as ("train", step, steps).

    Returns:
        steps, epochs, metric, best_step, valid (all metrics at the best step), unbalanced (tasks
        that starve or crowd, see `balance`), stopped_early, parameters, trainable. `losses.png` in
        `out` shows each task's loss. Under FSDP or DeepSpeed also `whole`, the checkpoint in `out` that
        holds the best weights: `model` has its process's part alone.

    Raises:
        ValueError: not one of `epochs` and `max_steps`, no data, no such device, `metric` is not
            measured, or `lr_rows` where the rows are part of a whole embedding.
        FloatingPointError: the loss is not finite; names the file in `out` that holds the batch.
        ImportError: the optimizer's or a tracker's package is not installed.
        OSError: the disk is full; the last whole checkpoint stays.
    """
    arguments_given = dict(locals())
    _check_arguments(train_data, valid_data, epochs, max_steps, metric, validate)
    if lr_rows is not None and not row_parameters(model):
        raise ValueError(
            f"lr_rows={lr_rows}: this model has no SID rows beside adapters; leave it out"
        )
    out.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(
        out,
        model,
        device=device,
        precision=precision,
        num_train_epochs=epochs if epochs is not None else 1.0,
        max_steps=max_steps if max_steps is not None else -1,
        learning_rate=lr,
        weight_decay=weight_decay,
        optim=optimizer,
        **_checkpointing(gradient_checkpointing),
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
        lengths_of(train_data),
        tokens_per_batch,
        groups=sets_of(train_data),
        packing=packing,
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
        data_collator=_collator(model, tokenizer, tasks_of(train_data), packing=packing),
        callbacks=[
            EarlyStoppingCallback(early_stopping_patience=patience),
            Flow(sampler, save_every, progress),
            LogFile(out / LOG_FILE),
            BalanceWatch(out / LOG_FILE),
            *([average] if average else []),
            *trackers(track, track_in or out / "runs"),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    under = conditions(
        arguments.device,
        processes=arguments.world_size,
        precision=trainer.accelerator.mixed_precision,
        settings={name: arguments_given[name] for name in _DECIDES}
        | {"examples": len(train_data), "validation examples": len(valid_data)}
        | {"attention": getattr(model.config, "_attn_implementation", None)}
        | ({} if code_groups is None else {"softmax": "codes"})
        | ({} if lr_rows is None else {"lr_rows": lr_rows})
        | dict(noted or {}),
    )
    trainer.equip(
        sampler=sampler,
        tokens_per_batch=tokens_per_batch,
        lr_rows=lr_rows,
        one_cycle=scheduler == "one-cycle",
        warmup=warmup,
        label_smoothing=label_smoothing,
        average=average,
        validate=validate,
        max_logits=max_logits,
        code_groups=code_groups,
        tokenizer=tokenizer,
        conditions=under,
    )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    check_sharding(
        model, fsdp=trainer.is_fsdp_enabled, deepspeed=trainer.is_deepspeed_enabled, ema=ema
    )
    if checkpoint is not None:
        kind = "fsdp" if trainer.is_fsdp_enabled else "deepspeed" if sharded else "plain"
        check_kind(checkpoint, kind)
    finished = checkpoint is not None and is_finished(checkpoint)
    if checkpoint is not None and not finished and trainer.is_world_process_zero():
        warn_of_differences(checkpoint, under)
    with quiet(), room_for("a checkpoint", out):
        trainer.run(checkpoint, finished=finished)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # or it would stay in bfloat16
    if trainer.is_world_process_zero():
        draw_curves(read_log(out / LOG_FILE), out / CURVES_FILE)
    summary = _summary(trainer, out, metric)
    if sharded:
        summary["whole"] = Path(trainer.state.best_model_checkpoint or "").name
    return summary


def _collator(
    model: Any, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], *, packing: bool
) -> Collator | PackingCollator:
    if not packing:
        return Collator(tokenizer.pad_token_id, tasks)
    check_packing(model, vocabulary=len(tokenizer))
    return PackingCollator(tokenizer.pad_token_id, tasks, row=row_for(model))


def _arguments(
    out: Path, model: Any, *, device: str, precision: Precision, **settings: Any
) -> TrainingArguments:
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
    check_optimizer(settings["optim"], cuda=cuda)
    arguments = TrainingArguments(
        output_dir=str(out.resolve()),
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        save_strategy="steps",
        save_total_limit=2,  # the newest and the best
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,
        use_cpu=not (cuda or mps),
        bf16=in_bfloat16(model, precision, device="cuda" if cuda else "mps" if mps else "cpu"),
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are accelerate's, never DataParallel
    return arguments


def _checkpointing(wanted: bool) -> dict[str, Any]:
    if not wanted:
        return {}
    known = {field.name for field in fields(TrainingArguments)}
    name = "activation" if "activation_checkpointing" in known else "gradient"  # before 5.23
    return {
        f"{name}_checkpointing": True,
        f"{name}_checkpointing_kwargs": {"use_reentrant": False},
    }


def check_sharding(model: nn.Module, *, fsdp: bool, deepspeed: bool, ema: float) -> None:
    """Raises where a launcher shares out what this run needs whole."""
    if (fsdp or deepspeed) and ema:
        raise ValueError(
            f"train.ema={ema}: averages whole weights, and under FSDP or DeepSpeed each process has a "
            "part of them; set train.ema=0"
        )
    if fsdp and isinstance(model, PeftModel):
        raise ValueError(
            "train.model.tune under FSDP: it cannot share out the trained token rows, which the "
            "input and the output have in common. Adapters leave little to share: take ddp8; or zero3, "
            "or train.model.tune=full"
        )


def check_optimizer(name: str, *, cuda: bool) -> None:
    """Raises where an optimizer cannot run here: its package is missing, or it needs a GPU."""
    if name.startswith("paged_") and not cuda:
        raise ValueError(
            f"train.optimizer={name}: pages are of a GPU's memory, and this runs on none; take "
            f"{'adamw_8bit' if name.endswith('8bit') else 'adamw_torch_fused'}"
        )
    if (name.startswith("paged_") or name.endswith("8bit")) and not find_spec("bitsandbytes"):
        raise ImportError(f"train.optimizer={name} needs bitsandbytes: {install('qlora')}")


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
        "parameters": sum(map(_size, parameters)),
        "trainable": sum(_size(p) for p in parameters if p.requires_grad),
    }


def _size(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # ZeRO-3 leaves none in place
