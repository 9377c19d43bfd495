"""Refuses models, tokens of codes and prompts that would be decoded wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from genrec.sid.trie import SIDTrie

NOT_FINITE = (
    "the model's logits are NaN or infinite: no recommendation can be made of them "
    "(look at the weights, or use bfloat16 or float32 in place of float16)"
)


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
    """Checks that this is a model that a SID can be decoded with at all.

    Args:
        model: the causal LM.

    Raises:
        ValueError: if it is no causal LM with a configuration, or has a learnt soft prompt.
    """
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ValueError(
            f"{type(model).__name__} has no transformers config; expected a causal LM "
            "(unwrap a distributed model first, e.g. accelerator.unwrap_model)"
        )
    config, name = model.config.get_text_config(), type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder; expected a decoder-only causal LM")
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
        The same as int64 arrays [C_l], without codes beyond the catalogue's highest.

    Raises:
        ValueError: if levels or codes have no token, or one token stands for two codes.
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
        checked.append(tokens[: trie.num_codes[level]].astype(np.int64))
    ids, counts = np.unique(np.concatenate(checked), return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"token {ids[counts.argmax()]} stands for codes of two levels; expected tokens of its "
            "own for each level, or a SID could be read in two ways"
        )
    return checked


def checked_prompts(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    vocab_size: int,
    max_length: int | None,
    levels: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks the prompts of a request.

    Args:
        input_ids: integers [B, T], left-padded.
        attention_mask: 1 where there is a token, 0 where there is padding. [B, T].
        vocab_size: the model's V.
        max_length: tokens that the model takes, SID included; None if unlimited.
        levels: tokens of a SID, L.

    Returns:
        Both as int64, without columns of nothing but padding.

    Raises:
        ValueError: if they have a wrong shape, a token out of range, padding on the right or no
            token, or leave no room for a SID.
    """
    input_ids, mask = torch.as_tensor(input_ids), torch.as_tensor(attention_mask)
    if input_ids.ndim != 2 or 0 in input_ids.shape or mask.shape != input_ids.shape:
        raise ValueError(
            f"input_ids has shape {list(input_ids.shape)}, attention_mask {list(mask.shape)}; "
            "expected the same [users, tokens], neither of them 0"
        )
    if input_ids.is_floating_point() or input_ids.min() < 0:
        raise ValueError(
            f"input_ids are {input_ids.dtype} from {input_ids.min()}; expected token ids, integers "
            "of 0 or more"
        )
    if input_ids.max() >= vocab_size:
        raise ValueError(
            f"input_ids has token {input_ids.max()}; the model has 0 to {vocab_size - 1}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask has other values than 0 and 1")
    mask = mask.long()
    wrong = (mask.diff(dim=1) < 0).any(1) | (mask[:, -1] == 0)
    if wrong.any():
        raise ValueError(
            f"prompt {int(wrong.nonzero()[0])} is empty or has padding after a token; expected "
            "left padding (tokenizer.padding_side='left')"
        )
    longest = int(mask.sum(1).max())
    if max_length is not None and longest > max_length - levels:
        raise ValueError(
            f"a prompt has {longest} tokens; the model takes {max_length}, and a SID needs "
            f"{levels} of them: shorten prompts to {max_length - levels}"
        )
    return input_ids[:, -longest:].long(), mask[:, -longest:]
