"""From the model's last layer to log-probabilities of a level's codes.

`FullHead` normalises over the whole vocabulary: a score is the model's probability of the SID.
`SIDHead` computes the rows of the level's codes only and normalises over them, which spares most of
the output matrix but means something else: the probability of the SID *given that one follows*. A
model may have been trained so (`train.softmax`); its configuration says it, and no other head is right
for it then.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

# Entries of [rows, V] that are turned to float32 at once: bounds the copy to 64 MiB.
_SLICE = 2**24


class Head(Protocol):
    """Runs the model and reads its output."""

    def __call__(self, *, last_only: bool, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """Runs the model on inputs of its `forward`.

        Returns:
            What `log_probs` reads, [B, Q, ...] (Q = 1 if `last_only`), and the model's output.
        """

    def log_probs(self, level: int, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns log-probabilities of the codes, float32 [B, Q, C], and if all are numbers, []."""


SOFTMAX = "sid_softmax"  # of a model's configuration: "codes", or missing


def set_softmax(model: Any, among: str) -> None:
    """Notes in a model's configuration what its codes are trained among: `vocabulary` or `codes`."""
    config = model.config.get_text_config()
    if among == "codes":
        setattr(config, SOFTMAX, among)
    elif hasattr(config, SOFTMAX):
        delattr(config, SOFTMAX)


def trained_among_codes(model: Any) -> bool:
    """Says whether the codes of a level are what a model's probabilities of one sum up over."""
    return getattr(model.config.get_text_config(), SOFTMAX, None) == "codes"


class FullHead:
    """Scores over the whole vocabulary, or of all its logits over the codes of the level."""

    def __init__(
        self, model: Any, code_tokens: Sequence[NDArray[np.int64]], *, among_codes: bool = False
    ) -> None:
        """Takes the model and, per level, the token of each code, int64 [C]."""
        self._model, self._among_codes = model, among_codes
        self._columns = [_Columns(tokens) for tokens in code_tokens]
        # Names differ: few models lack the argument, and those compute every position's logits.
        forward = getattr(model, "get_base_model", lambda: model)().forward
        self._keeps = "logits_to_keep" in inspect.signature(forward).parameters

    def __call__(self, *, last_only: bool, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """Returns the logits, [B, Q, V] in the model's dtype."""
        if last_only and self._keeps:
            inputs["logits_to_keep"] = 1
        output = self._model(**inputs)
        return output.logits[:, -1:] if last_only else output.logits, output

    def log_probs(self, level: int, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Head`."""
        if self._among_codes:
            own = self._columns[level](output).float()
            return own.log_softmax(-1), own.isfinite().all()
        users, queries, vocabulary = output.shape
        rows = output.flatten(0, 1).split(max(1, _SLICE // vocabulary))
        normaliser = torch.cat([part.float().logsumexp(-1) for part in rows])
        normaliser = normaliser.view(users, queries, 1)
        return self._columns[level](output).float() - normaliser, normaliser.isfinite().all()


class SIDHead:
    """Scores over the codes of the level."""

    def __init__(self, model: Any, code_tokens: Sequence[NDArray[np.int64]]) -> None:
        """Takes the model and, per level, the token of each code, int64 [C].

        Raises:
            ValueError: if the model has no plain output matrix behind a decoder.
        """
        self._head = model.get_output_embeddings()
        base = getattr(model, "get_base_model", lambda: model)()
        self._decoder = base.get_decoder() if hasattr(base, "get_decoder") else None
        if self._decoder is None or not isinstance(self._head, torch.nn.Linear):
            raise ValueError(
                f"{type(model).__name__} has no decoder with a plain output matrix; use head='full'"
            )
        self._columns = [_Columns(tokens) for tokens in code_tokens]

    def __call__(self, *, last_only: bool, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """Returns the last hidden states, [B, Q, D]."""
        assert self._decoder is not None
        output = self._decoder(**inputs)
        hidden = output.last_hidden_state
        return hidden[:, -1:] if last_only else hidden, output

    def log_probs(self, level: int, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Head`."""
        logits = self.logits(level, output).float()
        return logits.log_softmax(-1), logits.isfinite().all()

    def logits(self, level: int, output: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the level's codes, [B, Q, C] in the model's dtype."""
        columns, bias = self._columns[level], self._head.bias
        weight = columns(self._head.weight.T).T
        return F.linear(output, weight, None if bias is None else columns(bias))


class _Columns:
    """Selects the tokens of a level; a view where their ids run in order, as they mostly do."""

    def __init__(self, tokens: NDArray[np.int64]) -> None:
        self._tokens = torch.from_numpy(tokens)
        self._start, self._end = int(tokens[0]), int(tokens[0]) + len(tokens)
        self._in_order = bool((tokens == np.arange(self._start, self._end)).all())

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if self._in_order:
            return values[..., self._start : self._end]
        if self._tokens.device != values.device:  # once: the model's device seldom changes
            self._tokens = self._tokens.to(values.device)
        return values.index_select(-1, self._tokens)
