"""Item features in the rows of SID tokens: what a code's items are about, and what it learns itself.

The row of a code that few items have is seldom trained and stays near where it started. Here it is

    row(code) = learned(code) + features(code) @ P,

with the mean of the vectors of the items that have the code, and a matrix P that all codes of a level
learn together: as soon as P means something, a rare code does. That items' texts help where ids alone
say little is LIGER's finding (arXiv 2411.18814), which puts a dense vector next to each SID; here it is
in the rows of its tokens. Hooks add the features in training; `merge` writes the sums into the rows, so
that a plain model is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from genrec.lm.adapters import is_tied
from genrec.sid import SIDSets

NAME = "item_features"  # the model's submodule
_START = 0.03  # deviation of what the features add to a row at first; a new model's rows have 0.02


def code_features(
    vectors: NDArray[np.floating[Any]],
    sids: SIDSets,
    code_tokens: Sequence[NDArray[np.int64]],
    *,
    dim: int,
    vocab_size: int,
) -> torch.Tensor:
    """Returns the features of every token.

    Args:
        vectors: float [N, D], what the items are about, such as their fused views.
        sids: of the same items.
        code_tokens: L int arrays, code -> token id.
        dim: principal components of the vectors that are kept, as far as there are so many. Each is
            divided by the square root of its deviation: halfway to making all count alike.
        vocab_size: V.

    Returns:
        float32 [V, L x dim]: of a code the mean over the items that have it, in the columns of its
        level; 0 elsewhere.
    """
    left, deviations, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    kept = deviations[:dim] > 1e-6 * deviations[0]
    components = left[:, :dim][:, kept] * np.sqrt(deviations[:dim][kept])
    components /= np.sqrt(np.square(components).sum(axis=1).mean())
    width = components.shape[1]
    features = np.zeros((vocab_size, sids.levels * width), dtype=np.float32)
    for level, columns in enumerate(np.split(features, sids.levels, axis=1)):
        owners = [code_tokens[level][own[:, level]] for own in sids if level < own.shape[1]]
        counts = np.bincount(np.concatenate(owners), minlength=vocab_size)
        for tokens in owners:
            np.add.at(columns, tokens, components)
        columns /= np.maximum(counts, 1)[:, None]
    return torch.from_numpy(features)


class ItemFeatures(nn.Module):
    """What the features add to the rows of one matrix.

    Args:
        features: float [V, R].
        width: of the rows.
        seed: of P.
    """

    features: torch.Tensor

    def __init__(self, features: torch.Tensor, width: int, *, seed: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        drawn = torch.randn(features.shape[1], width, generator=torch.Generator().manual_seed(seed))
        self.projection = nn.Parameter(drawn * _START)
        self.merged = False

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns what is added to the rows of `tokens`, [..., width]."""
        return self.features[tokens] @ self.projection

    def added_to_rows(self, _: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Adds to the output of an embedding: a forward hook."""
        return output if self.merged else output + self.rows(inputs[0])

    def added_to_logits(self, _: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Adds to the output of a head: a forward hook."""
        if self.merged:
            return output
        return output + F.linear(F.linear(inputs[0], self.projection), self.features)


def attach(model: PreTrainedModel, features: torch.Tensor, *, seed: int = 0) -> None:
    """Adds features to the rows of embedding and head, in place.

    Args:
        model: a causal LM all of whose weights are trained.
        features: float32 [V, R], see `code_features`.
        seed: of the matrices P: one, or one for each of embedding and head where they are not tied.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    features, width = features.to(embedding.weight.device), embedding.weight.shape[1]
    of_input = ItemFeatures(features, width, seed=seed)
    of_output = of_input if is_tied(model) else ItemFeatures(features, width, seed=seed + 1)
    # Before what else there is, such as dropout.
    embedding.register_forward_hook(of_input.added_to_rows, prepend=True)
    head.register_forward_hook(of_output.added_to_logits, prepend=True)
    parts = [of_input] if of_output is of_input else [of_input, of_output]
    setattr(model, NAME, nn.ModuleList(parts))


def of_head(model: nn.Module) -> ItemFeatures | None:
    """Returns what is added to the rows of the head; None if there is none or they have it already."""
    parts = getattr(model, NAME, None)
    return None if parts is None or parts[-1].merged else parts[-1]


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Writes the sums into the rows for the length of a `with` block; does nothing without features."""
    parts = getattr(model, NAME, None)
    if parts is None:
        yield
        return
    weights = [matrix.weight for matrix in _matrices(model)]
    before = [weight.detach().clone() for weight in weights]
    _write(model)
    try:
        yield
    finally:
        for weight, values in zip(weights, before, strict=True):
            weight.data.copy_(values)
        for part in parts:
            part.merged = False


def merge(model: Any) -> None:
    """Writes the sums into the rows for good; does nothing without features."""
    if hasattr(model, NAME):
        _write(model)  # the hooks stay, and do nothing from now on
        delattr(model, NAME)


def _matrices(model: Any) -> list[Any]:
    """Returns embedding and head; the embedding alone where they are one matrix."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [embedding] if is_tied(model) else [embedding, head]


@torch.no_grad()
def _write(model: Any) -> None:
    parts: list[Any] = list(getattr(model, NAME))
    for matrix, part in zip(_matrices(model), parts, strict=True):
        matrix.weight += part.features @ part.projection
    for part in parts:
        part.merged = True
