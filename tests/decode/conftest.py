"""Tiny random models, a catalogue with shared SIDs, and the brute-force oracle."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from genrec.decode import BeamEngine
from genrec.sid.trie import SIDTrie

VOCAB = 97


def build_model(kind="qwen3", attention="sdpa", seed=0, **config):
    """A two-layer model whose logits are far from flat, so that beams lose something."""
    config = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "attn_implementation": attention,
        **config,
    }
    torch.manual_seed(seed)
    classes = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    config_class, model_class = classes[kind]
    return model_class(config_class(**config)).eval()


def build_codes(items=60, sizes=(5, 4, 6), seed=1):
    """Random SIDs; 60 items on 120 possible SIDs, so that some are shared."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, items) for size in sizes], axis=1)


def build_tokens(sizes=(5, 4, 6), seed=2):
    """Token ids of each code, shuffled, so that neither order nor offsets can be assumed."""
    ids = np.random.default_rng(seed).permutation(VOCAB)[: sum(sizes)]
    return np.split(ids, np.cumsum(sizes)[:-1])


def pad_left(prompts):
    """Returns input_ids and attention_mask [B, T]; padding is a real token, so misuse shows."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), 7)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


@torch.no_grad()
def score_every_item(model, prompts, codes, tokens):
    """Teacher-forced log-probability of every item's SID, one plain sequence each: [B, N]."""
    sids, sid_of_item = np.unique(codes, axis=0, return_inverse=True)
    names = torch.from_numpy(np.stack([t[sids[:, i]] for i, t in enumerate(tokens)], axis=1))
    scores = []
    for prompt in prompts:
        rows = torch.cat([torch.tensor(prompt).expand(len(names), -1), names], dim=1)
        log_probs = model(input_ids=rows).logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
        scores.append(log_probs.gather(-1, names.unsqueeze(-1)).squeeze(-1).sum(-1))
    return torch.stack(scores)[:, sid_of_item.ravel()]


def expected_list(scores, codes, k, eligible=None):
    """The k best eligible items by (score desc, SID, item)."""
    items = range(len(codes)) if eligible is None else sorted(eligible)
    key = [(-float(scores[i]), tuple(codes[i]), i) for i in items]
    return [item for *_, item in sorted(key)][:k]


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(
        model=build_model,
        codes=build_codes,
        tokens=build_tokens,
        pad_left=pad_left,
        oracle=score_every_item,
        expected=expected_list,
        vocab=VOCAB,
    )


PROMPTS = [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46, 26, 43, 38, 32, 79, 50], [28]]


@pytest.fixture(scope="session", params=["qwen3-sdpa", "qwen3-eager", "llama-sdpa", "llama-eager"])
def setup(request):
    """An engine of each kind with its parts and the oracle's scores of four prompts."""
    kind, attention = request.param.split("-")
    model, codes, tokens = build_model(kind, attention), build_codes(), build_tokens()
    ids, mask = pad_left(PROMPTS)
    return SimpleNamespace(
        model=model,
        codes=codes,
        tokens=tokens,
        prompts=PROMPTS,
        ids=ids,
        mask=mask,
        engine=BeamEngine(model, SIDTrie(codes), tokens),
        scores=score_every_item(model, PROMPTS, codes, tokens),
    )
