"""What vLLM cannot be started with is refused before it starts; none of this needs vLLM."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec.decode.vllm import VLLMBeamEngine, refuse_adapter
from genrec.sid.trie import SIDTrie

CATALOGUE = SIDTrie([[0, 1], [1, 0]]), [[5, 6], [7, 8]]


def adapter(folder, tensors=("base.layers.0.q_proj.lora_A.weight",), **config):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    save_file({name: np.zeros(2) for name in tensors}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "an adapter: merge first"),
        ({"trainable_token_indices": [5, 6]}, r"trained token rows \(trainable_token_indices\)"),
        ({"modules_to_save": ["embed_tokens"]}, r"trained token rows \(modules_to_save\)"),
        ({"tensors": ["base.embed_tokens.token_adapter.trainable_tokens_delta"]}, "trained token"),
    ],
)
def test_adapters_are_refused(tmp_path, made, said):
    with pytest.raises(ValueError, match=f"{said}.*merge.*merge_and_unload"):
        VLLMBeamEngine.load(adapter(tmp_path, **made), *CATALOGUE)


def test_checkpoints_and_names_are_no_adapters(tmp_path):
    refuse_adapter(tmp_path)
    refuse_adapter("some-hub/model")


def test_what_exactness_needs_cannot_be_chosen(tmp_path):
    with pytest.raises(ValueError, match=r"logprobs_mode.*cannot be chosen"):
        VLLMBeamEngine.load(tmp_path, *CATALOGUE, logprobs_mode="raw_logprobs")


def test_without_vllm_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm"):
        VLLMBeamEngine.load(tmp_path, *CATALOGUE)
