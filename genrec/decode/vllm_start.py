"""How vLLM must be started for an exact search, and what it cannot be started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from genrec.decode.vllm_constraint import load_constraint, read_settings
from genrec.sid.trie import SIDTrie

PROCESSOR = "genrec.decode.vllm_processor:SIDProcessor"
# What vLLM must be told so that its log-probabilities are exact.
REQUIRED: dict[str, Any] = {"logits_processors": [PROCESSOR], "logprobs_mode": "processed_logits"}


def defaults() -> dict[str, Any]:
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
        "tokenizer beside it"
    )


def check_config(config: Any, trie: SIDTrie, tokens: list[NDArray[np.int64]]) -> None:
    """Checks that vLLM's log-probabilities will be exact ones of this catalogue.

    Args:
        config: vLLM's configuration.
        trie: the catalogue.
        tokens: per level, the token id of each code.

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
    other, other_tokens = load_constraint(path)
    mine, theirs = trie.arrays(), other.arrays()
    same = mine.keys() == theirs.keys() and all(
        np.array_equal(mine[name], theirs[name]) for name in mine
    )
    if not same or not all(map(np.array_equal, tokens, other_tokens)):
        raise ValueError(
            f"vLLM was started for another catalogue or other tokens ({path}); start it anew with "
            "VLLMBeamEngine.load"
        )
