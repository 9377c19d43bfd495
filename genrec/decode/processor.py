"""A logits processor that lets `generate` of transformers write only SIDs of the catalogue.

For those who want `generate` itself: its sampling, its other processors, its beams. Every row is
walked down the trie at once, and the scores of what may follow stay the model's. Where it is beams
that are wanted, `genrec.decode.beam_search` finds the same many times faster.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import LogitsProcessor

from genrec.decode.checks import check_tokens
from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.step import TrieOnDevice
from genrec.sid.trie import SIDTrie


class SIDLogitsProcessor(LogitsProcessor):
    """Masks every token that no eligible item's SID continues with.

        processor = SIDLogitsProcessor(trie, code_tokens, prompt_length=input_ids.shape[1])
        model.generate(input_ids, attention_mask=mask, max_new_tokens=trie.levels,
                       logits_processor=LogitsProcessorList([processor]), ...)

    What may follow keeps its score to the last bit, so a sequence's score under beams is the model's
    log-probability of its SID; a sample is drawn from the model's distribution over the codes that
    may follow, renormalised at each level (`generate` samples from the 50 best unless `top_k=0`).

    The forward passes are `generate`'s own. Of a model whose RoPE goes by the length of the text
    (longrope of Phi-3 128k, dynamic NTK) it takes the frequencies of the batch's longest, padding
    included, so that a user's scores may be others than alone; `beam_search` and `BeamEngine` go by
    each user's own length. Keep the batch on one side of the switch.

    A row whose tokens begin no SID gets -inf throughout. With sampling and greedy search there is
    none. With beams there may be: where there are fewer prefixes than `num_beams`, `generate` fills
    the list with such rows and with copies of better ones, and returns them like any other, with
    scores of -1e9 (divided by its length penalty) or -inf. Look at `sequences_scores` and drop
    whatever is below -1e6. `beam_search` and `BeamEngine` return no such rows.
    """

    def __init__(
        self,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        *,
        prompt_length: int,
        eos_token_id: int | Sequence[int] | None = None,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
    ) -> None:
        """Checks and keeps what the mask is made of; nothing is copied to a device yet.

        Args:
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].
            prompt_length: tokens before the SID, padding included: `input_ids.shape[1]` of the
                prompts, which are left-padded; 0 if they are given as `inputs_embeds`.
            eos_token_id: what may follow a whole SID. None: nothing; then `max_new_tokens` is L.
            allowed: the only items to write: bool [N] for all users, bool [B, N], such a mask
                counted before (`Eligibility.of_mask`), or B lists of items. None: all.
            exclude: B lists of items not to write, taken away from `allowed`. None: none.

        Raises:
            ValueError: if an argument does not fit the others, or a user may be given no item.
        """
        self._catalogue = _Catalogue(trie, code_tokens)
        self._ends = self._catalogue.checked_ends(eos_token_id)
        self._take(prompt_length, allowed, exclude)

    def reuse(
        self,
        *,
        prompt_length: int,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
    ) -> SIDLogitsProcessor:
        """Returns one for the next prompts, which shares the trie on the device with this one.

        Args:
            prompt_length: as in the constructor.
            allowed: as in the constructor; this one's filters are not kept.
            exclude: as in the constructor.

        Raises:
            ValueError: as the constructor.
        """
        other = copy.copy(self)
        other._take(prompt_length, allowed, exclude)
        return other

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Masks the scores of one step; `generate` calls this.

        Args:
            input_ids: prompts and what was written since. Integers [rows, tokens]; rows of one user
                (beams, or samples) stand together, as many for each.
            scores: logits or log-probabilities of the next token, any float dtype. [rows, V].

        Returns:
            A new tensor like `scores`: equal to it where a token may follow, else -inf.

        Raises:
            ValueError: if there are fewer tokens than the prompt has, a whole SID is written and no
                `eos_token_id` is known, or rows or vocabulary do not fit.
        """
        level = self._level(input_ids, scores)
        trie = self._catalogue.on(scores.device)
        written = input_ids[:, self._prompt_length :][:, : trie.levels].to(scores.device)
        written = written.unflatten(0, (self._users, -1))  # filters are per user
        nodes, known = self._walk(trie, written)
        if level < trie.levels:
            children = trie.children(level, nodes, self._eligible_on(scores.device))
            live = children.live & known.unsqueeze(-1)
            tokens = self._catalogue.tokens[level][children.codes].flatten(0, 1)
        else:
            tokens = self._ends.to(scores.device).expand(len(scores), -1)
            live = known.unsqueeze(-1).expand(*known.shape, len(self._ends))
        kept = scores.gather(1, tokens).masked_fill_(~live.flatten(0, 1), -torch.inf)
        # Places behind a node's last child repeat some token: of its two values the greater counts.
        return torch.full_like(scores, -torch.inf).scatter_reduce_(1, tokens, kept, "amax")

    def _take(self, prompt_length: int, allowed: Allowed | None, exclude: ItemLists | None) -> None:
        if isinstance(prompt_length, bool) or not isinstance(prompt_length, int | np.integer):
            raise ValueError(f"prompt_length={prompt_length!r}; expected input_ids.shape[1]")
        if prompt_length < 0:
            raise ValueError(f"prompt_length={prompt_length}; expected 0 or more")
        self._prompt_length = int(prompt_length)
        self._users = _users(allowed, exclude)
        trie = self._catalogue.trie
        self._eligible = Eligibility.build(trie, allowed, exclude, users=self._users, device="cpu")
        if self._eligible is not None:
            _refuse_empty(self._eligible, self._users)

    def _level(self, input_ids: torch.Tensor, scores: torch.Tensor) -> int:
        """Returns how many tokens were written since the prompts, or says what does not fit."""
        rows, columns = input_ids.shape
        level, levels = columns - self._prompt_length, self._catalogue.trie.levels
        if level < 0:
            raise ValueError(
                f"input_ids has {columns} tokens, fewer than prompt_length={self._prompt_length}; "
                "expected the length of the padded prompts (and a processor for each length)"
            )
        if level >= levels and not len(self._ends):
            raise ValueError(
                f"{level} tokens follow the prompt, and a SID has {levels}: set "
                f"max_new_tokens={levels}, or give eos_token_id"
            )
        if rows % self._users:
            raise ValueError(
                f"input_ids has {rows} rows, and allowed and exclude are of {self._users} users; "
                "expected as many rows for each"
            )
        last = max(self._catalogue.last_token, *self._ends.tolist(), 0)
        if scores.shape[1] <= last:
            raise ValueError(
                f"scores are of {scores.shape[1]} tokens, and code_tokens or eos_token_id has "
                f"token {last} (call model.resize_token_embeddings)"
            )
        return level

    def _walk(self, trie: TrieOnDevice, written: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Follows tokens [B, R, t] from the root: nodes int64 [B, R], and if any item has them."""
        nodes = torch.zeros(written.shape[:2], dtype=torch.int64, device=trie.device)
        known = torch.ones_like(nodes, dtype=torch.bool)
        for level, tokens in enumerate(written.unbind(-1)):
            # Only nodes of the level above are looked up: an unknown prefix goes on at any node.
            children = trie.children(level, nodes)
            code = self._catalogue.codes[level][tokens.clamp(max=self._catalogue.last_token + 1)]
            is_child, place = (children.live & (children.codes == code.unsqueeze(-1))).max(-1)
            nodes = children.nodes.gather(-1, place.unsqueeze(-1)).squeeze(-1).long()
            known = known & is_child
        return nodes, known

    def _eligible_on(self, device: torch.device) -> Eligibility | None:
        held, eligible = ("before", "keys"), self._eligible
        if eligible is not None:
            tensors = {name: getattr(eligible, name) for name in held}
            moved = {name: t.to(device) for name, t in tensors.items() if t is not None}
            self._eligible = eligible = replace(eligible, **moved)
        return eligible


class _Catalogue:
    """A trie and its tokens, on whatever device they were last wanted.

    Attributes:
        trie: the catalogue.
        last_token: the greatest token id of any code.
        tokens: per level, the token of each code. int64 [C_l].
        codes: per level, the code of each token up to `last_token`, -1 for others and for the one
            after it. int64 [last_token + 2].
    """

    def __init__(self, trie: SIDTrie, code_tokens: Sequence[ArrayLike]) -> None:
        # The vocabulary is known when the first scores come.
        self._tokens = check_tokens(code_tokens, trie, vocab_size=2**31)
        self.trie = trie
        self.last_token = int(max(tokens.max() for tokens in self._tokens))
        self._on_device: TrieOnDevice | None = None

    def on(self, device: torch.device) -> TrieOnDevice:
        """Returns the trie there, and puts `tokens` and `codes` there too."""
        if self._on_device is None or self._on_device.device != device:
            self._on_device = TrieOnDevice(self.trie, device=device, packed=False)
            self.tokens = [torch.from_numpy(tokens).to(device) for tokens in self._tokens]
            self.codes = [self._codes(tokens).to(device) for tokens in self._tokens]
        return self._on_device

    def _codes(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        codes = torch.full((self.last_token + 2,), -1, dtype=torch.int64)
        codes[torch.from_numpy(tokens)] = torch.arange(len(tokens))
        return codes

    def checked_ends(self, eos_token_id: int | Sequence[int] | None) -> torch.Tensor:
        """Returns the tokens that may follow a SID, int64 [any number]."""
        ends = np.atleast_1d(np.asarray([] if eos_token_id is None else eos_token_id))
        if ends.size and (not np.issubdtype(ends.dtype, np.integer) or ends.min() < 0):
            raise ValueError(f"eos_token_id={eos_token_id!r}; expected token ids, or None")
        for level, tokens in enumerate(self._tokens):
            if np.isin(ends, tokens).any():
                raise ValueError(
                    f"eos_token_id={eos_token_id!r} is also a code's token on level {level}: "
                    "generate would stop within a SID"
                )
        return torch.from_numpy(ends.astype(np.int64))


def _users(allowed: Any, exclude: Any) -> int:
    """Returns for how many users the filters are; 1 if they are the same for all."""
    if exclude is not None and hasattr(exclude, "__len__"):
        return len(exclude)
    if isinstance(allowed, Eligibility):
        return 1 if allowed.before is None else len(allowed.before)
    if allowed is None or not hasattr(allowed, "__len__"):
        return 1
    shared = isinstance(allowed, torch.Tensor | np.ndarray) and allowed.ndim == 1
    return 1 if shared and allowed.dtype in (torch.bool, np.bool_) else len(allowed)


def _refuse_empty(eligible: Eligibility, users: int) -> None:
    user = torch.arange(users)
    count = eligible.count_before(user, torch.full((users,), eligible.num_items))
    count = count - eligible.count_before(user, torch.zeros(users, dtype=torch.int64))
    if (count == 0).any():
        raise ValueError(
            f"user {int((count == 0).nonzero()[0])} may be given no item at all, and generate must "
            "write something: leave such users out of the batch"
        )
