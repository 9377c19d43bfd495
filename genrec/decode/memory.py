"""The memory of a search: how many users fit into it at once, and the cache of prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from genrec.decode.strategies import Layers
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


@dataclass(frozen=True)
class _Entry:
    tokens: torch.Tensor  # int64 [T], on the CPU
    layers: Layers
    regime: Hashable

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for pair in self.layers for part in pair)


class PromptCache:
    """Keys and values of prompts by user, the least recently used going first.

    What is kept belongs to the weights that computed it: `clear` after changing them.

    Attributes:
        budget: bytes that all entries may take together.
        num_bytes: bytes that they take.
        hits: tokens that were found here instead of computed.
        misses: tokens that were computed.
    """

    def __init__(self, budget: int) -> None:
        """Takes the budget, bytes; 0 keeps nothing."""
        self.budget, self.num_bytes, self.hits, self.misses = budget, 0, 0, 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.num_bytes = 0

    def find(self, key: Hashable, tokens: torch.Tensor, regime: Hashable = None) -> Layers | None:
        """Returns what is known of the longest common beginning with the user's last prompt.

        At least the last token is left to compute, for its output is what decoding starts from.

        Args:
            key: the user.
            tokens: the prompt, without padding. int64 [T].
            regime: what else the layers go by (`LengthRope.regime`): what was computed under another
                is not found.

        Returns:
            Per layer, keys and values of the first tokens; None if nothing is known of them.
        """
        entry = self._entries.get(key)
        common = 0
        if entry is not None and entry.regime == regime:
            shorter = min(len(entry.tokens), len(tokens) - 1)
            same = (entry.tokens[:shorter] == tokens[:shorter]).long()
            common = int(same.cumprod(0).sum())
        self.hits += common
        self.misses += len(tokens) - common
        if entry is None or not common:
            return None
        self._entries.move_to_end(key)
        return [(keys[:, :, :common], values[:, :, :common]) for keys, values in entry.layers]

    def put(
        self, key: Hashable, tokens: torch.Tensor, layers: Layers, regime: Hashable = None
    ) -> None:
        """Keeps a prompt in place of the user's last one, and forgets others if need be."""
        entry = _Entry(tokens, layers, regime)
        old = self._entries.pop(key, None)
        self.num_bytes -= old.num_bytes if old else 0
        if entry.num_bytes > self.budget:
            return
        self._entries[key] = entry
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self.budget:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= oldest.num_bytes
