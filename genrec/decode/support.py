"""Refuses, when the engine is built, what it could only decode wrongly.

The configuration tells most of it; the rest (a model that ignores `position_ids` or a 4D mask, as
ALiBi models do) shows in a comparison of two beams under the tree mask with the same tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from genrec.decode.tree import TreeDecoder
from genrec.sid.trie import SIDTrie


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Puts every submodule into eval mode, without autograd, and back into its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_model(model: Any) -> None:
    """Checks that the tree mask means to this model what it should.

    Args:
        model: the causal LM.

    Raises:
        ValueError: if it is no causal LM with a configuration, has sliding-window or linear
            attention, an attention implementation without 4D masks, or a learnt soft prompt.
    """
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ValueError(
            f"{type(model).__name__} has no transformers config; expected a causal LM "
            "(unwrap a distributed model first, e.g. accelerator.unwrap_model)"
        )
    config, name = model.config.get_text_config(), type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder; expected a decoder-only causal LM")
    odd = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if window and not getattr(config, "layer_types", None):
        odd.add(f"sliding_window={window}")  # a model without layer types has it in every layer
    if odd:
        raise ValueError(
            f"{name} has attention layers that the tree mask does not fit: {sorted(odd)}; expected "
            "full attention in every layer (set config.sliding_window=None before loading if "
            "prompts stay shorter than the window)"
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"{name} uses attn_implementation={config._attn_implementation!r}, which takes no 4D "
            "mask; call model.set_attn_implementation('sdpa')"
        )
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(f"{name} has a learnt soft prompt, which shifts positions; use LoRA")


def check_tokens(
    code_tokens: Sequence[ArrayLike], trie: SIDTrie, *, vocab_size: int
) -> list[NDArray[np.int64]]:
    """Checks the tokens of the codes.

    Args:
        code_tokens: per level, the token id of each code. L arrays of integers.
        trie: the catalogue they must cover.
        vocab_size: the model's V.

    Returns:
        The same as int64 arrays.

    Raises:
        ValueError: if levels or codes have no token, or one token stands for two codes of a level.
    """
    if len(code_tokens) != trie.levels:
        raise ValueError(
            f"code_tokens has {len(code_tokens)} levels; the SIDs of the trie have {trie.levels}"
        )
    checked = []
    for level, entry in enumerate(code_tokens):
        tokens = np.asarray(entry)
        where = f"code_tokens[{level}]"
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(
                f"{where} is {tokens.dtype} of shape {tokens.shape}; expected token ids, [codes]"
            )
        if len(tokens) < trie.num_codes[level]:
            raise ValueError(
                f"{where} has {len(tokens)} tokens, but level {level} of the catalogue has code "
                f"{trie.num_codes[level] - 1}; expected one token per code"
            )
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise ValueError(
                f"{where} has token ids {tokens.min()} to {tokens.max()}; the model has 0 to "
                f"{vocab_size - 1} (call model.resize_token_embeddings after adding tokens)"
            )
        ids, counts = np.unique(tokens, return_counts=True)
        if counts.max() > 1:
            codes = np.flatnonzero(tokens == ids[counts.argmax()])
            raise ValueError(f"{where} gives codes {codes.tolist()} one token; expected one each")
        checked.append(tokens.astype(np.int64))
    return checked


def check_tree(model: Any, *, vocab_size: int) -> None:
    """Compares two sibling beams under the tree mask with the same tokens as plain sequences.

    Args:
        model: the causal LM.
        vocab_size: the model's V.

    Raises:
        ValueError: if the logits differ by more than rounding.
    """
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device) * 7919 % vocab_size  # any tokens will do
    prompt, first, second = ids[:4], ids[4:6], ids[6:]
    parents = torch.tensor([[1, 0]], device=device)
    # The first token is padding: positions must come from the mask, not from the column.
    mask = torch.tensor([[0, 1, 1, 1]], device=device)
    plain = torch.cat([prompt[1:].expand(2, -1), first.flip(0)[:, None], second[:, None]], dim=1)
    refusal = f"{type(model).__name__} does not honour 4D attention masks or position_ids"
    with evaluating(model):
        expected = model(input_ids=plain).logits[:, -1].float()
        tree = TreeDecoder(model, prompt[None], mask)
        try:
            tree.prefill()
            tree.step(first[None], parents)
            found = tree.step(second[None], parents)[0]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{refusal}: {error}") from error
    distance = (found - expected).square().mean().sqrt() / expected.std().clamp(min=1e-9)
    # Low precision rounds by shape, to about a hundredth; a mask ignored is far beyond either.
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    if distance > (0.01 if exact else 0.1):  # false for NaN, which `search` reports
        raise ValueError(
            f"{refusal}: beams under the tree mask differ from plain sequences by {distance:.2g} "
            "standard deviations"
        )
