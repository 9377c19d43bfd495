"""The rows of the SID tokens in a model's vocabulary: where they start, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel


def set_rows(
    model: PreTrainedModel,
    rows: np.ndarray,
    *,
    seed: int,
    vectors: np.ndarray | None,
    keep: np.ndarray | None = None,
) -> None:
    """Starts the SID rows among the old ones: their mean and spread, in random or given directions.

    Args:
        model: changed in place.
        rows: int [R], row numbers of the vocabulary.
        seed: of the random directions, or of the projection of `vectors`.
        vectors: float [R, D], projected at random to the model's width, or None.
        keep: bool [R], the rows that stay as they are, or None.
    """
    drawn = np.ones(len(rows), dtype=bool) if keep is None else ~keep
    rng = np.random.default_rng(seed)
    for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = matrix.weight.data
        old = np.setdiff1d(np.arange(len(weight)), rows)
        mean, std = weight[old].float().mean(0), weight[old].float().std(0)
        if vectors is None:
            noise = rng.standard_normal((len(rows), weight.shape[1]))
        else:
            noise = vectors @ rng.standard_normal((vectors.shape[1], weight.shape[1]))
            noise = (noise - noise.mean(0)) / (noise.std() + 1e-12)
        weight[rows[drawn]] = (mean + torch.from_numpy(noise[drawn]).to(std) * std).to(weight.dtype)
        if is_tied(model):
            break


def stack(sid_init: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks each level's vectors, of whatever width, as blocks: levels share no direction."""
    for level, (vectors, ids) in enumerate(zip(sid_init, rows, strict=True)):
        if len(vectors) != len(ids):
            raise ValueError(
                f"sid_init: level {level} has {len(vectors)} vectors, expected {len(ids)}"
            )
    spread = [(v - v.mean(0)) / (v.std() + 1e-12) for v in sid_init]
    widths = np.cumsum([0, *(v.shape[1] for v in spread)])
    stacked = np.zeros((sum(map(len, spread)), widths[-1]))
    start = 0
    for level, vectors in enumerate(spread):
        stacked[start : start + len(vectors), widths[level] : widths[level + 1]] = vectors
        start += len(vectors)
    return stacked


def is_tied(model: PreTrainedModel) -> bool:
    """Says whether one matrix is both the input embedding and the output head."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def row_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules that hold one row per token: embedding and output head."""
    wanted = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for name, module in model.named_modules() if any(module is w for w in wanted)]
