"""Strategy `expand`: one prefill per user, then one row of the batch per beam.

For models whose cache takes no tree mask: recurrent and linear-attention layers, hybrids, position
biases. The cache is copied once per beam and reordered at every step, so it needs W times the
memory of `tree`; the prompt is still computed once.
"""

from __future__ import annotations

from typing import Any

import torch

from genrec.decode.head import Head


class NoCache(Exception):
    """A model keeps what it computed where beams cannot have it."""


class ExpandDecoder:
    """A batch of prompts and the beams behind them, as rows."""

    def __init__(self, head: Head, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        """Takes a batch; computes nothing yet.

        Args:
            head: runs the model.
            input_ids: int64 [B, T], left-padded.
            attention_mask: int64 [B, T], 1 where there is a token.
        """
        self._head = head
        self._input_ids, self._mask = input_ids, attention_mask
        self._rows = torch.arange(len(input_ids), device=input_ids.device)  # first row of each user
        self.cache: Any = None
        self._named = "past_key_values"

    def prefill(self) -> torch.Tensor:
        """Computes the prompts; returns what the head reads after each, [B, 1, ...]."""
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        return self._run(self._input_ids, positions, last_only=True)

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Computes one token more of every beam.

        Args:
            tokens: int64 [B, W].
            parents: which beam of the previous step each continues. int64 [B, W].

        Returns:
            What the head reads, [B, W, ...].
        """
        users, width = tokens.shape
        above = len(self._mask) // users
        parents = parents if above > 1 else torch.zeros_like(parents)
        rows = (torch.arange(users, device=tokens.device) * above).unsqueeze(1) + parents
        self.cache.reorder_cache(rows.flatten())
        mask = self._mask[rows.flatten()]
        self._mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = self._mask.sum(1, keepdim=True) - 1
        scored = self._run(tokens.view(-1, 1), positions, last_only=True)
        return scored.view(users, width, -1)

    def _run(
        self, input_ids: torch.Tensor, positions: torch.Tensor, *, last_only: bool
    ) -> torch.Tensor:
        known = {} if self.cache is None else {self._named: self.cache}
        scored, output = self._head(
            last_only=last_only,
            input_ids=input_ids,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            **known,
        )
        # The second is what Mamba models call it; a cache that is not handed out lives in the model.
        caches = {name: getattr(output, name, None) for name in ("past_key_values", "cache_params")}
        for name, cache in caches.items():
            if cache is not None:
                self._named, self.cache = name, cache
                return scored
        raise NoCache(
            "it returns no cache of what it computed (past_key_values or cache_params), and what it "
            "keeps in itself cannot be shared out to beams"
        )
