"""Exact constrained beam search where another program runs the model.

The search is here. The program is asked for the log-probabilities of the next codes, one question per
live beam and level: if it caches prompts and masks by the catalogue (vLLM with `SIDProcessor`), it needs
no beam search of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from genrec.decode.checks import NOT_FINITE, check_tokens, checked_prompts
from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.result import BeamResult, collect
from genrec.decode.step import Beams, TrieOnDevice
from genrec.sid.trie import SIDTrie

TABLE = 2**25  # log-probabilities that are held at a time


class NextCode(NamedTuple):
    """Asks for the likeliest codes after a prompt and a prefix of a SID.

    Attributes:
        tokens: the prompt and the prefix.
        node: the prefix' node in the trie, 0 for the empty one.
        children: how many codes the catalogue has after it.
        wanted: how many of them, the best ones.
        codes: the only ones that count; None where any does.
    """

    tokens: list[int]
    node: int
    children: int
    wanted: int
    codes: list[int] | None


class Answers(NamedTuple):
    """Log-probabilities as the model was trained (`genrec.decode.head`), of R questions in any order.

    Attributes:
        rows: which question. int64 [n].
        tokens: the code's token. int64 [n].
        values: nats; -inf where the catalogue has no such code. float32 [n].
    """

    rows: NDArray[np.int64]
    tokens: NDArray[np.int64]
    values: NDArray[np.float32]


class NextCodeSearch(ABC):
    """Recommends items of a catalogue with an LLM that another program runs.

    Args:
        trie: the catalogue.
        code_tokens: per level, the token id of each code. L integer arrays [C_l].
        vocab_size: the model's V.
        max_length: tokens that the model takes, prompt and SID.
        max_beams: how many codes may be asked for at once, less one.
        cached_tokens: prompts that are searched for together have no more than so many, so that beams
            of users in turn find them cached; None: no limit.

    Raises:
        ValueError: if the tokens do not fit the trie or the model.
    """

    def __init__(
        self,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        *,
        vocab_size: int,
        max_length: int,
        max_beams: int,
        cached_tokens: int | None = None,
    ) -> None:
        self.trie = trie
        self._vocab_size, self._max_length, self._max_beams = vocab_size, max_length, max_beams
        self._cached_tokens = cached_tokens
        self._tokens = check_tokens(code_tokens, trie, vocab_size=vocab_size)
        self._on_device = TrieOnDevice(trie, device="cpu")
        self._code = np.full((trie.levels, vocab_size), -1, dtype=np.int64)
        for level, tokens in enumerate(self._tokens):
            self._code[level, tokens] = np.arange(len(tokens))

    @abstractmethod
    def _answer(self, level: int, requests: Sequence[NextCode]) -> Answers:
        """Returns at least the best codes of `level` that each question wants."""

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
            allowed: the only items to return: bool [N] for all users, bool [B, N], such a mask
                counted before (`Eligibility.of_mask`), or B lists of items. None: all.
            exclude: B lists of items not to return, taken away from `allowed`. None: none.

        Returns:
            The lists, with a certificate per user.

        Raises:
            ValueError: if an argument has a wrong shape or range, a prompt leaves no room for a
                SID, or the padding is not on the left.
            FloatingPointError: if the model's logits are not finite.
        """
        k = num_beams if k is None else k
        if not 1 <= k <= num_beams <= self._max_beams:
            raise ValueError(
                f"k={k} and num_beams={num_beams}; expected 1 <= k <= num_beams <= "
                f"{self._max_beams} (vLLM's max_logprobs less one)"
            )
        ids, mask = checked_prompts(
            input_ids,
            attention_mask,
            vocab_size=self._vocab_size,
            max_length=self._max_length,
            levels=self.trie.levels,
        )
        prompts = [row[keep].tolist() for row, keep in zip(ids, mask.bool(), strict=True)]
        eligible = Eligibility.build(self.trie, allowed, exclude, users=len(ids), device="cpu")
        parts, order = [], []
        for users in self._groups(prompts, num_beams):
            chosen = torch.tensor(users)
            theirs = None if eligible is None else eligible.take(chosen)
            beams = self._descend([prompts[user] for user in users], num_beams, theirs)
            parts.append(collect(self.trie, self._on_device, beams, k, theirs))
            order.append(chosen)
        return BeamResult.joined(parts, torch.cat(order))

    def _groups(self, prompts: list[list[int]], width: int) -> Iterator[list[int]]:
        """Yields users whose prompts fit into the cache together, and their scores into memory."""
        most = max(1, TABLE // (width * max(self.trie.num_codes)))
        cached = float("inf") if self._cached_tokens is None else self._cached_tokens
        group: list[int] = []
        tokens = 0
        for user, prompt in enumerate(prompts):
            if group and (tokens + len(prompt) > cached or len(group) == most):
                yield group
                group, tokens = [], 0
            group.append(user)
            tokens += len(prompt)
        yield group

    def _descend(self, prompts: list[list[int]], width: int, eligible: Eligibility | None) -> Beams:
        """Runs the levels; returns the beams of the last, whose nodes are SIDs."""
        beams = self._on_device.start(len(prompts))
        written = torch.empty(*beams.nodes.shape, 0, dtype=torch.int64)  # tokens [B, W, level]
        for level in range(self.trie.levels):
            log_probs = self._ask(prompts, written, level, beams, width, eligible)
            beams = self._on_device.advance(level, beams, log_probs, width=width, eligible=eligible)
            codes = self.trie.node_codes[level][beams.nodes.numpy()]
            tokens = torch.from_numpy(self._tokens[level][codes]).unsqueeze(-1)
            before = written.gather(1, beams.parents.unsqueeze(-1).expand(-1, -1, level))
            written = torch.cat([before, tokens], dim=-1)
        return beams

    def _ask(
        self,
        prompts: list[list[int]],
        written: torch.Tensor,
        level: int,
        beams: Beams,
        width: int,
        eligible: Eligibility | None,
    ) -> torch.Tensor:
        """Returns the log-probability of every code of `level` after each beam, [B, W, C].

        Of one beam, `width` children may be kept and one more may be the best that is lost: so
        many are asked for, and the others stay -inf without changing beams, bound or certificate.
        """
        codes, live, _ = self._on_device.children(level, beams.nodes, eligible)
        user, beam = torch.nonzero(live.any(-1) & (beams.scores > -torch.inf), as_tuple=True)
        codes, live, node = codes[user, beam], live[user, beam], beams.nodes[user, beam]
        pointers, may = self._on_device.first_child[level], live.sum(-1)
        children = pointers[node + 1] - pointers[node]
        # A list that is cut must not be filled with children that the user may not be given.
        cut = (children > width + 1) & (may < children)
        only = {row: codes[row][live[row]].tolist() for row in cut.nonzero().flatten().tolist()}
        wanted = torch.where(cut, may, children).clamp(max=width + 1)
        rows = zip(user.tolist(), written[user, beam].tolist(), strict=True)
        tokens = [prompts[of] + prefix for of, prefix in rows]
        numbers = zip(node.tolist(), children.tolist(), wanted.tolist(), strict=True)
        requests = [
            NextCode(tokens[row], *of_node, only.get(row)) for row, of_node in enumerate(numbers)
        ]
        row, code, value = self._read(level, self._answer(level, requests))
        log_probs = torch.full((*beams.nodes.shape, self.trie.num_codes[level]), -torch.inf)
        log_probs[user[row], beam[row], code] = value
        return log_probs

    def _read(
        self, level: int, answers: Answers
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns question, code and log-probability of all that was answered."""
        if np.isnan(answers.values).any():
            raise FloatingPointError(NOT_FINITE)
        kept = answers.values > -np.inf
        tokens = answers.tokens[kept]
        codes = self._code[level, np.where(tokens < self._vocab_size, tokens, 0)]
        wrong = (codes < 0) | (tokens >= self._vocab_size)
        if wrong.any():
            raise ValueError(
                f"vLLM answered with token {tokens[wrong][0]}, which is no code of level {level}: it "
                "was started without SIDProcessor, or for another catalogue"
            )
        columns = answers.rows[kept], codes, answers.values[kept]
        row, code, value = (torch.from_numpy(column) for column in columns)
        return row, code, value
