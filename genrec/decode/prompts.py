"""Prompts computed before, kept per user, so that a returning user pays for new tokens only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch

from genrec.decode.tree import Layers


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
