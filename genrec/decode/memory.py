"""How much memory a search takes, so that users can be searched in groups that fit."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig

from genrec.sid.trie import SIDTrie


def default_budget(device: torch.device) -> int:
    """Returns bytes to work in: half of an accelerator's memory, 2 GiB on a CPU.

    Not what happens to be free: groups, and with them the last bits of scores, would change.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 2
    return 2**31


def user_bytes(
    config: PretrainedConfig,
    trie: SIDTrie,
    *,
    tokens: int,
    width: int,
    token_bytes: float,
    dtype: torch.dtype,
    expanded: bool,
    scores: int | None,
) -> int:
    """Estimates the peak memory of one user's search, from above.

    Args:
        config: the text model's.
        trie: the catalogue.
        tokens: of the prompt, T.
        width: beams, W.
        token_bytes: of the cache, per token and row.
        dtype: the model's.
        expanded: whether every beam has a row of its own.
        scores: entries of the output per position, V; None for a level's codes only.
    """
    size = dtype.itemsize
    later = width * (trie.levels - 1)
    if expanded:  # reordering holds the old and the new cache
        cache = 2 * width * (tokens + trie.levels) * token_bytes
    else:
        cache = (tokens + later) * token_bytes
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    rows = max(tokens, width)
    layer = rows * (12 * hidden + 3 * inner) * size  # of one layer; the others are gone by then
    # A mask, and where attention is spelt out also its weights.
    seen = width * (tokens + later) * (1 if config._attn_implementation == "sdpa" else size)
    if config._attn_implementation == "eager":
        seen += 2 * rows * (tokens + later) * getattr(config, "num_attention_heads", 1) * size
    widest = max(max(trie.fan_out), max(trie.num_codes))
    output = width * (scores or widest) * size + width * widest * 32
    return int(cache + layer + seen + output)
