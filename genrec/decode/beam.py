"""Exact constrained beam search with any causal LM of transformers.

Every score is the model's log-probability of the item's SID (over the full vocabulary, unless the model
was trained otherwise), every beam is a prefix of an eligible item, and each prompt is computed once,
whatever the number of beams.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike

from genrec.decode.checks import NOT_FINITE, check_model, check_tokens, checked_prompts, evaluating
from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.head import FullHead, Head, SIDHead, trained_among_codes
from genrec.decode.memory import PromptCache, default_budget, user_bytes
from genrec.decode.result import BeamResult, collect
from genrec.decode.rope import LengthRope
from genrec.decode.selftest import check_head, choose
from genrec.decode.step import TrieOnDevice
from genrec.decode.strategies import Layers, Strategy, TreeDecoder, make_decoder
from genrec.sid.trie import SIDTrie


class BeamEngine:
    """Recommends items of a catalogue with a language model that writes SIDs.

    Attributes:
        strategy: `tree` or `expand`, whichever was chosen.
        prompts: what `keys` remembers.
    """

    def __init__(
        self,
        model: Any,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        *,
        strategy: Strategy | Literal["auto"] = "auto",
        head: Literal["auto", "full", "sid"] = "auto",
        memory_budget: int | None = None,
        prompt_budget: int = 2**30,
    ) -> None:
        """Checks that model, catalogue and tokens fit each other, by decoding a small batch.

        Args:
            model: a causal LM of transformers, PEFT-wrapped or not.
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].
            strategy: `tree` keeps one copy of each prompt and wants attention that takes a 4D mask
                (`sdpa`, `eager`); `expand` copies the prompt's cache per beam and takes any model;
                `auto` takes `tree` where it works and warns where it does not.
            head: `full` scores over the whole vocabulary. `sid` computes the output matrix' rows of
                a level's codes only: cheaper, but a score is then the log-probability of the SID
                given that one follows, and lists may differ. `auto` is what the model was trained for.
            memory_budget: bytes that a search may take in addition to the weights and
                `prompt_budget`; users beyond it wait for their turn. None: a fixed part of what the
                device has.
            prompt_budget: bytes that prompts of `keys` may take.

        Raises:
            ValueError: if they do not fit, or the model cannot be decoded rightly.
        """
        check_model(model)
        config = model.config.get_text_config()
        self.model = model
        self.trie = trie
        self._vocab_size = config.vocab_size
        self._rope = LengthRope(config)
        self._max_length = self._rope.longest or getattr(config, "max_position_embeddings", None)
        self._code_tokens = check_tokens(code_tokens, trie, vocab_size=self._vocab_size)
        chosen = choose(model, strategy)
        self.strategy: Strategy = chosen.strategy
        self._token_bytes = chosen.token_bytes
        self._head = self._make_head(head)
        self._budget = memory_budget
        self.prompts = PromptCache(prompt_budget)
        self._on_device: TrieOnDevice | None = None

    def search(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        num_beams: int,
        k: int | None = None,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
        certify: bool = False,
        max_beams: int | None = None,
        keys: Sequence[Hashable] | None = None,
        prompts: PromptCache | None = None,
    ) -> BeamResult:
        """Finds the items whose SIDs the model finds most probable after each prompt.

        Args:
            input_ids: the prompts, left-padded. Integers [B, T].
            attention_mask: 1 where there is a token, 0 where there is padding. [B, T].
            num_beams: prefixes kept per level, W. With one beam per item the search is exhaustive.
            k: items per user, K; at most `num_beams`, which is also the default. Where fewer are
                eligible (or found), the last places are not valid.
            allowed: the only items to return: bool [N] for all users, bool [B, N], such a mask
                counted before (`Eligibility.of_mask`), or B lists of items. None: all.
            exclude: B lists of items not to return, taken away from `allowed`. None: none.
            certify: search again with twice the beams for users whose list is not proven, and
                again, until it is or `max_beams` is reached.
            max_beams: where `certify` stops; 8 times `num_beams` by default.
            keys: B names of users. What is computed of a prompt is kept under the name, and a prompt
                that begins like the user's last one pays for the rest only. Call `prompts.clear()`
                when the weights change.
            prompts: where it is kept; None: in the engine's own `prompts`.

        Returns:
            The lists, with a certificate per user.

        Raises:
            ValueError: if an argument has a wrong shape or range, a prompt leaves no room for a
                SID, or the padding is not on the left.
            FloatingPointError: if the model's logits are not finite.
        """
        k = num_beams if k is None else k
        limit = self._checked_width(num_beams, k, max_beams, certify=certify)
        ids, mask = checked_prompts(
            input_ids,
            attention_mask,
            vocab_size=self._vocab_size,
            max_length=self._max_length,
            levels=self.trie.levels,
        )
        prompts, keys = self._memory_for(keys, prompts, len(ids), certify=certify)
        trie = self._trie_on_device()
        ids, mask = ids.to(trie.device), mask.to(trie.device)
        eligible = Eligibility.build(
            self.trie, allowed, exclude, users=len(ids), device=trie.device
        )
        result = self._search(ids, mask, num_beams, k, eligible, prompts, keys)
        while certify and num_beams < limit and not result.exact.all():
            num_beams = min(2 * num_beams, limit)
            users = (~result.exact).nonzero().squeeze(1)
            again = self._search(
                ids[users.to(ids.device)],
                mask[users.to(ids.device)],
                num_beams,
                k,
                eligible and eligible.take(users),
                prompts,
                keys and [keys[user] for user in users.tolist()],
            )
            result = result.replaced(users, again)
        return result

    def _search(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        width: int,
        k: int,
        eligible: Eligibility | None,
        prompts: PromptCache,
        keys: Sequence[Hashable] | None,
    ) -> BeamResult:
        """Searches group by group, as the memory allows and the model's RoPE wants."""
        length = mask.sum(1)
        whole = (length + self.trie.levels).cpu()  # prompt and SID
        regimes = [self._rope.regime(tokens) for tokens in whole.tolist()]
        past: list[Layers | None] = [None] * len(ids)
        if keys is not None:
            own = [row[row_mask.bool()].cpu() for row, row_mask in zip(ids, mask, strict=True)]
            past = [prompts.find(*known) for known in zip(keys, own, regimes, strict=True)]
            known = [0 if layers is None else layers[0][0].shape[2] for layers in past]
            length = length - torch.tensor(known, device=length.device)
        length = length.cpu()
        groups = [
            part[group]
            for part in self._rope.parts(whole)
            for group in self._groups(length[part], ids.shape[1], width, known=any(past))
        ]
        length = length.to(ids.device)
        parts = []
        for group in groups:
            users = group.to(ids.device)
            columns = int(length[users].max())
            new = torch.arange(columns, device=ids.device) >= columns - length[users].unsqueeze(1)
            decoder = make_decoder(
                self.strategy,
                self._head,
                self.model,
                ids[users][:, -columns:],
                new.long(),
                room=width * (self.trie.levels - 1),
                past=[past[user] for user in group.tolist()] if any(past) else None,
            )
            with evaluating(self.model), self._rope.fixed(self.model, int(whole[group].max())):
                parts.append(
                    self._descend(decoder, len(group), width, k, eligible and eligible.take(users))
                )
                if keys is not None:
                    assert isinstance(decoder, TreeDecoder)
                    for place, user in enumerate(group.tolist()):
                        layers = decoder.prompt_layers(place)
                        prompts.put(keys[user], own[user], layers, regimes[user])
        return BeamResult.joined(parts, torch.cat(groups))

    def _descend(
        self, decoder: Any, users: int, width: int, k: int, eligible: Eligibility | None
    ) -> BeamResult:
        """Runs the levels; the nodes of the last are SIDs."""
        trie = self._trie_on_device()
        beams = trie.start(users)
        finite = torch.ones((), dtype=torch.bool, device=trie.device)
        for level in range(trie.levels):
            if level == 0:
                output = decoder.prefill()
            else:
                codes = trie.codes[level - 1][beams.nodes].long()
                output = decoder.step(self._tokens[level - 1][codes], beams.parents)
            log_probs, numbers = self._head.log_probs(level, output)
            finite = finite & numbers.to(trie.device)
            beams = trie.advance(
                level, beams, log_probs.to(trie.device), width=width, eligible=eligible
            )
        if not finite:  # asked once, at the end: each question stalls an accelerator
            raise FloatingPointError(NOT_FINITE)
        return collect(self.trie, trie, beams, k, eligible)

    def _groups(
        self, length: torch.Tensor, columns: int, width: int, *, known: bool
    ) -> Iterator[torch.Tensor]:
        """Yields users in groups that fit the memory, longest prompts first.

        Where some prompts are partly known, users with much to compute are not mixed with those who
        have little: the batch is as long as its longest.
        """
        order = length.argsort(descending=True, stable=True)
        device = next(self.model.parameters()).device
        budget = default_budget(device) if self._budget is None else self._budget
        start = 0
        while start < len(order):
            longest = int(length[order[start]])
            each = user_bytes(
                self.model.config.get_text_config(),
                self.trie,
                tokens=columns if known else longest,
                width=width,
                token_bytes=self._token_bytes,
                dtype=self.model.dtype,
                expanded=self.strategy == "expand",
                scores=self._vocab_size if isinstance(self._head, FullHead) else None,
            )
            end = start + max(1, int(budget // each))
            if known:
                end = min(end, int((4 * length >= longest).sum()))
            yield order[start:end]
            start = end

    def _checked_width(
        self, num_beams: int, k: int, max_beams: int | None, *, certify: bool
    ) -> int:
        if not 1 <= k <= num_beams:
            raise ValueError(f"k={k} and num_beams={num_beams}; expected 1 <= k <= num_beams")
        if max_beams is not None and not certify:
            raise ValueError(f"max_beams={max_beams} without certify=True, which alone reads it")
        limit = 8 * num_beams if max_beams is None else max_beams
        if limit < num_beams:
            raise ValueError(f"max_beams={limit} is below num_beams={num_beams}")
        return min(limit, max(num_beams, len(self.trie.node_codes[-1])))

    def _memory_for(
        self,
        keys: Sequence[Hashable] | None,
        prompts: PromptCache | None,
        users: int,
        *,
        certify: bool,
    ) -> tuple[PromptCache, Sequence[Hashable] | None]:
        """Returns where prompts are kept and under what names: for good, or for `certify` only."""
        if keys is None:
            again = certify and self.strategy == "tree"
            return PromptCache(self.prompts.budget), list(range(users)) if again else None
        if self.strategy == "expand":
            raise ValueError("keys needs strategy 'tree': other caches cannot be cut and joined")
        if len(keys) != users:
            raise ValueError(f"keys has {len(keys)} names; expected one for each of {users} users")
        return self.prompts if prompts is None else prompts, keys

    def _make_head(self, kind: str) -> Head:
        if kind not in ("auto", "full", "sid"):
            raise ValueError(f"head={kind!r}; expected auto, full or sid")
        trained = trained_among_codes(self.model)
        if kind == "full" and trained:
            raise ValueError(
                "head='full': this model was trained among the codes of a level alone "
                "(train.softmax=codes), so it gives no probability over all tokens; use auto"
            )
        if kind == "full" or (kind == "auto" and not trained):
            return FullHead(self.model, self._code_tokens)
        try:
            head = SIDHead(self.model, self._code_tokens)
            check_head(head, self.model, [torch.from_numpy(t) for t in self._code_tokens])
        except ValueError:  # its rows alone will not do: the same probabilities of all its logits
            if not trained:
                raise
            return FullHead(self.model, self._code_tokens, among_codes=True)
        return head

    def _trie_on_device(self) -> TrieOnDevice:
        """Returns the trie where the model is now; it is copied again only after a move."""
        device = next(self.model.parameters()).device
        if self._on_device is None or self._on_device.device != device:
            self._on_device = TrieOnDevice(self.trie, device=device)
            self._tokens = [torch.from_numpy(tokens).to(device) for tokens in self._code_tokens]
        return self._on_device
