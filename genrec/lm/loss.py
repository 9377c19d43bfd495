"""The loss of the target tokens, without ever holding logits [B, T, V].

Only the states before a target reach the output head: prompts are no targets, and the head costs half
of a small model's time. Where even [targets, V] is too much, blocks of rows go through the head one
at a time, and again in the backward pass. The head is called as the module that it is, so PEFT's
trained token rows, tied weights and sharded ones work as they do in the model itself. torch 2.13's
`linear_cross_entropy` is a third faster than such blocks, but takes a bare weight and no label
smoothing; Liger's kernel gives no loss per target.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from genrec.lm.batch import IGNORED

logger = logging.getLogger(__name__)

MAX_LOGITS = 2**27  # held at once: 512 MiB in fp32, and as much again for their gradient


class TargetLoss:
    """Cross-entropy of every target token of a batch.

    Args:
        model: the causal LM itself, without what accelerate wraps around it.
        max_logits: targets x vocabulary held at once.
    """

    def __init__(self, model: PreTrainedModel, *, max_logits: int = MAX_LOGITS) -> None:
        self.head = model.get_output_embeddings()
        self.config = model.config.get_text_config()
        self.max_logits = max_logits
        self._known: bool | None = None  # what the model does with its logits; None: not looked yet

    def __call__(
        self, model: nn.Module, inputs: Mapping[str, torch.Tensor], *, smoothing: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss of every target, float32 [targets], and its task's index, [targets].

        Args:
            model: what to call, as accelerate wrapped it.
            inputs: from `Collator` or `PackingCollator`.
            smoothing: label smoothing.
        """
        labels = inputs["labels"][:, 1:]
        targets = labels != IGNORED  # [B, T - 1]
        positions = F.pad(targets, (0, 1))  # [B, T]
        wanted, tasks = labels[targets], inputs["tasks"][:, 1:][targets]
        rows = max(1, self.max_logits // self.config.vocab_size)
        if len(wanted) <= rows or self._known is False:
            logits, _ = self._forward(model, inputs, positions, len(wanted))
            return _losses(logits, wanted, smoothing), tasks
        logits, states = self._forward(model, inputs, positions, 1)
        if self._known is None and not self._look(logits, states):
            return self(model, inputs, smoothing=smoothing)
        parts = [
            checkpoint(
                self._block, part, own, smoothing, use_reentrant=False, preserve_rng_state=False
            )
            for part, own in zip(states.split(rows), wanted.split(rows), strict=True)
        ]
        return torch.cat(parts), tasks

    def _forward(
        self,
        model: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        positions: torch.Tensor,
        keep: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns logits [keep, V] of the first target positions, and the states of all of them."""
        caught: list[torch.Tensor] = []

        def select(_: nn.Module, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            caught.append(hidden[0][positions])  # [targets, D]
            return (caught[0][:keep],)

        hook = self.head.register_forward_pre_hook(select)
        try:
            logits = model(**_model_inputs(inputs), use_cache=False).logits
        finally:
            hook.remove()
        return logits, caught[0]

    def _block(self, states: torch.Tensor, wanted: torch.Tensor, smoothing: float) -> torch.Tensor:
        return _losses(_finish(self.head(states), self.config), wanted, smoothing)

    @torch.no_grad()
    def _look(self, logits: torch.Tensor, states: torch.Tensor) -> bool:
        """Says whether the head's output is the model's, as far as `_finish` knows."""
        ours = _finish(self.head(states[:1]), self.config).float()
        scale = logits.float().abs().max().item()
        self._known = bool(torch.allclose(ours, logits.float(), atol=1e-2 * scale, equal_nan=True))
        if not self._known:
            logger.warning(
                "max_logits=%d has no effect: %s changes the logits after its head in a way that is "
                "not known here, so they are made all at once; use fewer tokens_per_batch if memory "
                "runs out",
                self.max_logits,
                self.config.model_type,
            )
        return self._known


def _model_inputs(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what the model gets: packed rows tell their examples apart by position ids alone."""
    name = "position_ids" if "position_ids" in inputs else "attention_mask"
    return {"input_ids": inputs["input_ids"], name: inputs[name]}


def _losses(logits: torch.Tensor, wanted: torch.Tensor, smoothing: float) -> torch.Tensor:
    return F.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=smoothing)


def _finish(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """What some families do to the logits after the head: Cohere, Granite, Gemma 2."""
    logits = logits * (getattr(config, "logit_scale", None) or 1.0)
    logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
