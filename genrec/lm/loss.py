"""The loss of the target tokens, without ever holding logits [B, T, V].

Only the states before a target reach the output head: prompts are no targets, and the head costs half
of a small model's time. Where even [targets, V] is too much, blocks of rows go through the head one
at a time, and again in the backward pass. The head is called as the module that it is, so PEFT's
trained token rows, tied weights and sharded ones work as they do in the model itself. torch 2.13's
`linear_cross_entropy` is a third faster than such blocks, but takes a bare weight and no label
smoothing; Liger's kernel gives no loss per target.

A code may be learned among the codes of its own level alone (`train.softmax=codes`): then what no item
can have there costs neither time nor probability, however many sets of SIDs and words there are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
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
        code_groups: int [C] each, the tokens of one level of one set of SIDs; a target among them is
            learned among these tokens. None: every target among the whole vocabulary.
        whole: the head's weight is here whole, and not shared out by FSDP or DeepSpeed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_logits: int = MAX_LOGITS,
        code_groups: Sequence[np.ndarray] | None = None,
        whole: bool = True,
    ) -> None:
        self.head = model.get_output_embeddings()
        self.config = model.config.get_text_config()
        self.max_logits = max_logits
        self._known: bool | None = None  # what the model does with its logits; None: not looked yet
        # A subclass, such as one of 4 bits, or PEFT's module around it has another weight than it uses.
        self._rows = whole and type(self.head) is nn.Linear
        self._groups = None if code_groups is None else _Groups(code_groups, self.config.vocab_size)

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
        by_group = self._groups is not None
        rows = max(1, self.max_logits // self.config.vocab_size)
        if self._known is False or (len(wanted) <= rows and not by_group):
            logits, _ = self._forward(model, inputs, positions, len(wanted))
            return self._losses_of(logits, wanted, smoothing), tasks
        logits, states = self._forward(model, inputs, positions, 1)
        if self._known is None and not self._look(logits, states):
            return self(model, inputs, smoothing=smoothing)
        if not by_group:
            return self._in_blocks(states, wanted, smoothing), tasks
        return self._by_group(states, wanted, smoothing), tasks

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

    def _by_group(
        self, states: torch.Tensor, wanted: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        """Returns the loss of each target among its group's tokens; of texts, among all tokens."""
        assert self._groups is not None
        losses = torch.empty(len(wanted), device=wanted.device)
        for group, rows, place in self._groups.split(wanted):
            losses[rows] = self._in_blocks(states[rows], place, smoothing, group)
        return losses

    def _losses_of(
        self, logits: torch.Tensor, wanted: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        """Returns the loss of each target, of logits over the whole vocabulary."""
        if self._groups is None:
            return _losses(logits, wanted, smoothing)
        losses = torch.empty(len(wanted), device=wanted.device)
        for group, rows, place in self._groups.split(wanted):
            own = logits[rows] if group is None else logits[rows][:, group]
            losses[rows] = _losses(own, place, smoothing)
        return losses

    def _in_blocks(
        self,
        states: torch.Tensor,
        wanted: torch.Tensor,
        smoothing: float,
        group: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the loss of each target, a block of rows after the other if there are many."""
        width = self.config.vocab_size if group is None or not self._rows else len(group)
        rows = max(1, self.max_logits // width)
        if len(wanted) <= rows:
            return self._block(states, wanted, smoothing, group)
        parts = [
            checkpoint(
                *(self._block, part, own, smoothing, group),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for part, own in zip(states.split(rows), wanted.split(rows), strict=True)
        ]
        return torch.cat(parts)

    def _block(
        self,
        states: torch.Tensor,
        wanted: torch.Tensor,
        smoothing: float,
        group: torch.Tensor | None,
    ) -> torch.Tensor:
        if group is None:
            logits = self.head(states)
        elif self._rows:
            bias = None if self.head.bias is None else self.head.bias[group]
            logits = F.linear(states, self.head.weight[group], bias)
        else:
            logits = self.head(states)[:, group]
        return _losses(_finish(logits, self.config), wanted, smoothing)

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


class _Groups:
    """Groups of tokens, of which a target is one among its own group's."""

    def __init__(self, groups: Sequence[np.ndarray], vocab_size: int) -> None:
        self._tokens = [torch.from_numpy(np.asarray(group, dtype=np.int64)) for group in groups]
        self._group = torch.full((vocab_size,), -1)
        self._place = torch.arange(vocab_size)  # of a token of no group: its own number
        for number, tokens in enumerate(self._tokens):
            self._group[tokens] = number
            self._place[tokens] = torch.arange(len(tokens))

    def split(
        self, wanted: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]]:
        """Yields each group's tokens (None: no group's), its targets' rows, and their places in it."""
        if self._group.device != wanted.device:
            self._group = self._group.to(wanted.device)
            self._place = self._place.to(wanted.device)
            self._tokens = [tokens.to(wanted.device) for tokens in self._tokens]
        group, place = self._group[wanted], self._place[wanted]
        for number in group.unique().tolist():
            rows = (group == number).nonzero().squeeze(1)
            yield (None if number < 0 else self._tokens[number]), rows, place[rows]


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
