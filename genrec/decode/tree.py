"""One prefill per user, then beams as query positions of one row under a tree-shaped mask.

The prompt's keys and values are computed and stored once per user. Every step appends its beams to
the same cache; a beam sees the prompt and its own ancestors, and pruned beams stay behind as slots
that nobody sees. So nothing is copied or reordered, and no kernel of ours is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache


class TreeDecoder:
    """A batch of prompts and the trees of tokens that grow behind them."""

    def __init__(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        """Takes a batch; computes nothing yet.

        Args:
            model: a causal LM of transformers with full attention, `sdpa` or `eager`.
            input_ids: int64 [B, T], left-padded.
            attention_mask: int64 [B, T], 1 where there is a token.
        """
        self._model = model
        self._input_ids = input_ids
        self._prompt_mask = attention_mask
        self._prompt_length = attention_mask.sum(1, keepdim=True)  # [B, 1]
        # Without a config every layer keeps all it has seen, which the 4D mask counts on.
        self._cache = DynamicCache()
        # Slots of each beam's ancestors, itself included, counted from the prompt's end: [B, W, s].
        self._ancestors: torch.Tensor | None = None
        self._slots = 0

    def prefill(self) -> torch.Tensor:
        """Computes the prompts.

        Returns:
            Logits after the last token of each prompt. float32 [B, 1, V].
        """
        positions = (self._prompt_mask.cumsum(1) - 1).clamp(min=0)
        output = self._model(
            input_ids=self._input_ids,
            attention_mask=self._prompt_mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1:].float()

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Computes one token more of every beam, all in one forward pass.

        Args:
            tokens: the token of each beam. int64 [B, W].
            parents: which beam of the previous step it continues. int64 [B, W];
                the first step ignores them.

        Returns:
            Logits after each beam. float32 [B, W, V].
        """
        users, width = tokens.shape
        own = torch.arange(self._slots, self._slots + width, device=tokens.device)
        own = own.expand(users, width).unsqueeze(-1)
        if self._ancestors is None:
            self._ancestors = own
        else:
            depth = self._ancestors.shape[-1]
            inherited = self._ancestors.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth))
            self._ancestors = torch.cat([inherited, own], dim=-1)
        self._slots += width
        depth = self._ancestors.shape[-1]
        output = self._model(
            input_ids=tokens,
            attention_mask=self._mask(width),
            position_ids=(self._prompt_length + depth - 1).expand(users, width),
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.logits.float()

    def _mask(self, width: int) -> torch.Tensor:
        """Returns which slots each beam sees, [B, 1, W, T + slots], as the attention wants it."""
        assert self._ancestors is not None
        users, device = len(self._prompt_mask), self._prompt_mask.device
        prompt = self._prompt_mask.bool().unsqueeze(1).expand(users, width, -1)
        suffix = torch.zeros(users, width, self._slots, dtype=torch.bool, device=device)
        suffix.scatter_(2, self._ancestors, True)
        seen = torch.cat([prompt, suffix], dim=-1).unsqueeze(1)
        if self._model.config.get_text_config()._attn_implementation == "sdpa":
            return seen
        dtype = self._model.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=device)
        return hidden.masked_fill_(~seen, torch.finfo(dtype).min)
