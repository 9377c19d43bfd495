"""The two ways to hold beams in a model's cache, each with one pass over the prompt.

`tree`: beams are query positions of one row. The prompt's keys and values are computed and stored once
per user. Every step appends its beams to the same cache; a beam sees the prompt and its own ancestors,
and pruned beams stay behind as slots that nobody sees. So nothing is copied or reordered, and no kernel
of ours is needed.

`expand`: one row of the batch per beam, for models whose cache takes no tree mask: recurrent and
linear-attention layers, hybrids, position biases. The cache is copied once per beam and reordered at
every step, so it needs W times the memory of `tree`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from transformers import Cache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from genrec.decode.head import Head

Strategy = Literal["tree", "expand"]
# Keys and values of one prompt, per layer: [1, heads, T, head_dim] each.
Layers = list[tuple[torch.Tensor, torch.Tensor]]


class Decoder(Protocol):
    """Runs prompts and then beams through a model: `TreeDecoder` or `ExpandDecoder`."""

    cache: Any

    def prefill(self) -> torch.Tensor:
        """Computes the prompts; returns what the head reads after each, [B, 1, ...]."""

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Computes a token of every beam, int64 [B, W]; returns what the head reads."""


class TreeDecoder:
    """A batch of prompts and the trees of tokens that grow behind them."""

    def __init__(
        self,
        head: Head,
        config: PretrainedConfig,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        room: int,
        past: Sequence[Layers | None] | None = None,
    ) -> None:
        """Takes a batch; computes nothing yet.

        Args:
            head: runs the model.
            config: the text model's, for its attention.
            input_ids: what is to compute of each prompt. int64 [B, T], left-padded.
            attention_mask: int64 [B, T], 1 where there is a token.
            room: how many slots the steps will need in all.
            past: per user, what was computed of the prompt before; None where nothing.
        """
        self._head = head
        self._input_ids, self._new = input_ids, attention_mask.bool()
        self._windows = _windows(config)
        self._boolean = config._attn_implementation == "sdpa"
        seen = _lengths(past, len(input_ids)).to(input_ids.device).unsqueeze(1)  # [B, 1]
        longest = int(seen.max()) if past else 0
        # Columns of the cache: what was computed before, right-aligned, then what is new.
        before = torch.arange(longest, device=input_ids.device) >= longest - seen
        self._prompt = torch.cat([before, self._new], dim=1)
        self._prompt_positions = (self._prompt.cumsum(1) - 1).clamp(min=0)
        self._length = self._prompt.sum(1, keepdim=True)  # [B, 1]
        layer = partial(_Preallocated, capacity=self._prompt.shape[1] + room)
        self.cache = Cache(layer_class_to_replicate=layer)
        self._past = past if longest else None
        # Slots of each beam's ancestors, itself included, counted from the prompt's end: [B, W, s].
        self._ancestors: torch.Tensor | None = None
        self._slot_depths: list[int] = []

    def prefill(self) -> torch.Tensor:
        """Computes the prompts.

        Returns:
            What the head reads, after the last token of each prompt. [B, 1, ...].
        """
        new = self._input_ids.shape[1]
        mask: Any = self._new.long()  # the plain mask lets the model use its causal kernel
        if self._past is not None:
            self._restore(self._past)
            self._past = None
            total = self._prompt.shape[1]
            slots = torch.arange(total, device=mask.device)
            causal = slots <= slots[total - new :].unsqueeze(-1)
            seen = self._prompt.unsqueeze(1) & causal
            # A padding query sees itself, for a row of zeros has no softmax.
            seen |= torch.eye(new, total, dtype=torch.bool, device=mask.device).roll(total - new, 1)
            mask = self._masks(seen, self._prompt_positions[:, -new:], self._prompt_positions)
        scored, _ = self._head(
            last_only=True,
            input_ids=self._input_ids,
            attention_mask=mask,
            position_ids=self._prompt_positions[:, -new:],
            past_key_values=self.cache,
            use_cache=True,
        )
        return scored

    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Computes one token more of every beam, all in one forward pass.

        Args:
            tokens: the token of each beam. int64 [B, W].
            parents: which beam of the previous step it continues. int64 [B, W];
                the first step ignores them.

        Returns:
            What the head reads, after each beam. [B, W, ...].
        """
        users, width = tokens.shape
        slots = len(self._slot_depths)
        own = torch.arange(slots, slots + width, device=tokens.device)
        own = own.expand(users, width).unsqueeze(-1)
        if self._ancestors is None:
            self._ancestors = own
        else:
            depth = self._ancestors.shape[-1]
            inherited = self._ancestors.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth))
            self._ancestors = torch.cat([inherited, own], dim=-1)
        depth = self._ancestors.shape[-1] - 1
        self._slot_depths += [depth] * width
        suffix = torch.zeros(users, width, slots + width, dtype=torch.bool, device=tokens.device)
        suffix.scatter_(2, self._ancestors, True)
        seen = torch.cat([self._prompt.unsqueeze(1).expand(-1, width, -1), suffix], dim=-1)
        positions = (self._length + depth).expand(users, width)
        scored, _ = self._head(
            last_only=False,
            input_ids=tokens,
            attention_mask=self._masks(seen, positions, self._slot_positions),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return scored

    def prompt_layers(self, user: int) -> Layers:
        """Returns a copy of what was computed of one user's prompt, without padding."""
        total = self._prompt.shape[1]
        there = self._prompt[user].nonzero().squeeze(1)
        return [
            (
                layer.keys[user : user + 1, :, :total].index_select(2, there),
                layer.values[user : user + 1, :, :total].index_select(2, there),
            )
            for layer in self.cache.layers
        ]

    @property
    def _slot_positions(self) -> torch.Tensor:
        depths = torch.tensor(self._slot_depths, device=self._length.device)
        return torch.cat([self._prompt_positions, self._length + depths], dim=1)

    def _restore(self, past: Sequence[Layers | None]) -> None:
        """Puts what was computed before into the cache, right-aligned."""
        some = next(layers for layers in past if layers is not None)
        width = self._prompt.shape[1] - self._input_ids.shape[1]
        for number, pair in enumerate(some):
            both = []
            for part, like in enumerate(pair):
                shape = (len(past), like.shape[1], width, like.shape[3])
                whole = torch.zeros(shape, dtype=like.dtype, device=like.device)
                for user, layers in enumerate(past):
                    if layers is not None:
                        known = layers[number][part]
                        whole[user, :, width - known.shape[2] :] = known[0]
                both.append(whole)
            self.cache.update(both[0], both[1], number)

    def _masks(
        self, seen: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Returns which slots each query sees as the model's attention wants it.

        Args:
            seen: bool [B, Q, S].
            queries: their positions. int64 [B, Q].
            keys: the slots' positions. int64 [B, S].
        """
        masks = {}
        for kind, window in self._windows.items():
            here = seen
            if window is not None:
                here = seen & (queries.unsqueeze(-1) - keys.unsqueeze(1) < window)
            masks[kind] = self._as_wanted(here.unsqueeze(1))
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _as_wanted(self, seen: torch.Tensor) -> torch.Tensor:
        if self._boolean:
            return seen
        dtype = next(iter(self.cache.layers)).dtype if self.cache.layers else torch.float32
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return hidden.masked_fill_(~seen, torch.finfo(dtype).min)


class NoCache(Exception):
    """A model returns no cache of what it computed, or none that beams can share."""


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


def make_decoder(
    strategy: Strategy,
    head: Head,
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    room: int,
    past: Any = None,
) -> Decoder:
    """Returns the decoder of a strategy; see `TreeDecoder` for the arguments."""
    if strategy == "expand":
        return ExpandDecoder(head, input_ids, attention_mask)
    config = model.config.get_text_config()
    return TreeDecoder(head, config, input_ids, attention_mask, room=room, past=past)


def tree_refusal(config: PretrainedConfig) -> str | None:
    """Returns why a model of this configuration cannot be decoded under a tree mask, if so."""
    if config._attn_implementation not in ("sdpa", "eager"):
        return (
            f"attn_implementation={config._attn_implementation!r} takes no 4D mask "
            "(call model.set_attn_implementation('sdpa'))"
        )
    odd = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    return f"layers of {sorted(odd)}" if odd else None


def _windows(config: PretrainedConfig) -> dict[str, int | None]:
    """Returns the kinds of attention in the model and the window of each; None is all."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:  # the same in every layer
        return {"every": window}
    sizes = {"full_attention": None, "sliding_attention": window}
    # A model with a mask per kind wants them all, also of kinds that no layer of it has.
    return {"full_attention": None} if kinds == {"full_attention"} else sizes


def _lengths(past: Sequence[Layers | None] | None, users: int) -> torch.Tensor:
    if past is None:
        return torch.zeros(users, dtype=torch.int64)
    return torch.tensor([0 if layers is None else layers[0][0].shape[2] for layers in past])


class _Preallocated(DynamicLayer):
    """A cache layer that keeps everything and grows in place, where others copy at each step."""

    def __init__(self, *, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [
                torch.empty(
                    (*states.shape[:2], self._capacity, states.shape[3]),
                    dtype=states.dtype,
                    device=states.device,
                )
                for states in (key_states, value_states)
            ]
        start, self._length = self._length, self._length + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self._length] = states
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)
        return self.keys, self.values
