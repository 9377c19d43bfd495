"""Exact constrained beam search with any causal LM of transformers: the engine and its result.

Every score is the model's log-probability of the item's SID over the full vocabulary, every beam is
a prefix of an eligible item, and each prompt is computed once, whatever the number of beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike

from genrec.decode.expand import Beams, TrieOnDevice
from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.support import check_model, check_tokens, check_tree, evaluating
from genrec.decode.tree import TreeDecoder
from genrec.sid.trie import SIDTrie


@dataclass(frozen=True)
class BeamResult:
    """The best items of each user, best first; all tensors are on the CPU.

    Order is by score, then SID, then item: items that share a SID stand side by side with one
    score.

    Attributes:
        items: item numbers, -1 where not valid. int64 [B, K].
        scores: log-probability of the item's SID after the prompt, in nats; -inf where not valid.
            float32 [B, K].
        valid: whether there is an item at this place. bool [B, K].
        exact: whether the list is proven to be the best K of all eligible items, and not only of
            those that the beam reached: no pruned prefix scored above the K-th item. bool [B].
        sids: the items' SIDs, -1 where not valid. int64 [B, K, L].
    """

    items: torch.Tensor
    scores: torch.Tensor
    valid: torch.Tensor
    exact: torch.Tensor
    sids: torch.Tensor


class BeamEngine:
    """Recommends items of a catalogue with a language model that writes SIDs."""

    def __init__(self, model: Any, trie: SIDTrie, code_tokens: Sequence[ArrayLike]) -> None:
        """Checks that model, catalogue and tokens fit each other.

        Args:
            model: a causal LM of transformers, PEFT-wrapped or not, with full attention in every
                layer and the `sdpa` or `eager` attention implementation.
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].

        Raises:
            ValueError: if they do not fit, or the model cannot be decoded under a tree mask.
        """
        check_model(model)
        config = model.config.get_text_config()
        self.model = model
        self.trie = trie
        self._vocab_size = config.vocab_size
        self._max_length = getattr(config, "max_position_embeddings", None)
        self._code_tokens = check_tokens(code_tokens, trie, vocab_size=self._vocab_size)
        self._on_device: TrieOnDevice | None = None
        check_tree(model, vocab_size=self._vocab_size)

    def search(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        num_beams: int,
        k: int | None = None,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
    ) -> BeamResult:
        """Finds the items whose SIDs the model finds most probable after each prompt.

        Args:
            input_ids: the prompts, left-padded. Integers [B, T].
            attention_mask: 1 where there is a token, 0 where there is padding. [B, T].
            num_beams: prefixes kept per level, W. With one beam per item the search is exhaustive.
            k: items per user, K; at most `num_beams`, which is also the default. Where fewer are
                eligible (or found), the last places are not valid.
            allowed: the only items to return: bool [N] for all users, bool [B, N], or B lists of
                items. None: all.
            exclude: B lists of items not to return, taken away from `allowed`. None: none.

        Returns:
            The lists, with a certificate per user.

        Raises:
            ValueError: if an argument has a wrong shape or range, a prompt leaves no room for a
                SID, or the padding is not on the left.
            FloatingPointError: if the model's logits are not finite.
        """
        k = num_beams if k is None else k
        if not 1 <= k <= num_beams:
            raise ValueError(f"k={k} and num_beams={num_beams}; expected 1 <= k <= num_beams")
        input_ids, attention_mask = self._checked_prompts(input_ids, attention_mask)
        trie = self._trie_on_device()
        eligible = Eligibility.build(
            self.trie, allowed, exclude, users=len(input_ids), device=trie.device
        )
        with evaluating(self.model):
            tree = TreeDecoder(
                self.model, input_ids.to(trie.device), attention_mask.to(trie.device)
            )
            beams = self._descend(tree, trie, len(input_ids), num_beams, eligible)
        return self._collect(beams, trie, k, eligible)

    def _descend(
        self,
        tree: TreeDecoder,
        trie: TrieOnDevice,
        users: int,
        width: int,
        eligible: Eligibility | None,
    ) -> Beams:
        """Runs the levels; returns the beams of the last, whose nodes are SIDs."""
        beams = trie.start(users)
        for level in range(self.trie.levels):
            if level == 0:
                logits = tree.prefill()
            else:
                tokens = trie.tokens[level - 1][beams.nodes]
                logits = tree.step(tokens, beams.parents)
            logits = logits.to(trie.device)
            beams = trie.expand(level, beams, logits, width=width, eligible=eligible)
        if not beams.finite:  # asked once, at the end: each question stalls an accelerator
            raise FloatingPointError(
                "the model's logits are NaN or infinite: no recommendation can be made of them "
                "(look at the weights, or use bfloat16 or float32 in place of float16)"
            )
        return beams

    def _collect(
        self, beams: Beams, trie: TrieOnDevice, k: int, eligible: Eligibility | None
    ) -> BeamResult:
        """Sorts the SIDs and lists the eligible items of each, cut at k."""
        users, width = beams.nodes.shape
        # Beams are in order of node, so a stable sort settles equal scores by SID.
        scores, order = beams.scores.sort(dim=1, descending=True, stable=True)
        leaves = beams.nodes.gather(1, order)
        first = trie.first_row[-1][leaves].long()
        count = trie.first_row[-1][leaves + 1] - first
        count = count.masked_fill(scores == -torch.inf, 0).flatten()
        beam = torch.arange(users * width, device=trie.device).repeat_interleave(count)
        before = count.cumsum(0) - count
        row = first.flatten()[beam] + torch.arange(len(beam), device=trie.device) - before[beam]
        user = beam // width
        if eligible is not None:
            keep = eligible.contains(user, row)
            beam, row, user = beam[keep], row[keep], user[keep]
        start = torch.searchsorted(user, torch.arange(users, device=trie.device))
        place = torch.arange(len(user), device=trie.device) - start[user]
        keep = place < k
        at = (user[keep].cpu(), place[keep].cpu())
        listed = torch.full((users, k), -torch.inf)
        listed[at] = scores.flatten()[beam[keep]].cpu()
        return self._result(listed, at, row[keep].cpu(), beams.bound.cpu())

    def _result(
        self,
        scores: torch.Tensor,
        at: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor,
        bound: torch.Tensor,
    ) -> BeamResult:
        """Puts the names of the catalogue rows that stand `at` (user, place) beside the scores."""
        items = torch.full(scores.shape, -1, dtype=torch.int64)
        items[at] = torch.from_numpy(self.trie.row_items)[rows].long()
        sids = torch.full((*scores.shape, self.trie.levels), -1, dtype=torch.int64)
        sids[at] = torch.from_numpy(self.trie.sids_of_rows(rows.numpy())).long()
        return BeamResult(items, scores, items >= 0, scores[:, -1] >= bound, sids)

    def _checked_prompts(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both as int64 tensors, or says what is wrong with them."""
        input_ids, mask = torch.as_tensor(input_ids), torch.as_tensor(attention_mask)
        if input_ids.ndim != 2 or 0 in input_ids.shape or mask.shape != input_ids.shape:
            raise ValueError(
                f"input_ids has shape {list(input_ids.shape)}, attention_mask {list(mask.shape)}; "
                "expected the same [users, tokens], neither of them 0"
            )
        if input_ids.is_floating_point() or input_ids.min() < 0:
            raise ValueError(f"input_ids of {input_ids.dtype}, least {input_ids.min()}: no tokens")
        if input_ids.max() >= self._vocab_size:
            raise ValueError(
                f"input_ids has token {input_ids.max()}; the model has 0 to {self._vocab_size - 1}"
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
        longest, room = int(mask.sum(1).max()), self._max_length
        if room is not None and longest > room - self.trie.levels:
            raise ValueError(
                f"a prompt has {longest} tokens; the model takes {room}, and a SID needs "
                f"{self.trie.levels} of them: shorten prompts to {room - self.trie.levels}"
            )
        return input_ids.long(), mask

    def _trie_on_device(self) -> TrieOnDevice:
        """Returns the trie where the model is now; it is copied again only after a move."""
        device = next(self.model.parameters()).device
        if self._on_device is None or self._on_device.device != device:
            self._on_device = TrieOnDevice(self.trie, self._code_tokens, device=device)
        return self._on_device
