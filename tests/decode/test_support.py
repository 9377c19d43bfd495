"""What the engine refuses: models it would decode wrongly, tokens that do not fit, bad prompts."""

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from genrec.decode import BeamEngine
from genrec.decode.support import check_tree
from genrec.sid.trie import SIDTrie

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}


def test_sliding_window_models_are_refused(make):
    trie, tokens = SIDTrie(make.codes()), make.tokens()
    mistral = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8))
    with pytest.raises(ValueError, match="sliding_window=8"):
        BeamEngine(mistral, trie, tokens)
    gemma = Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, sliding_window=8))
    with pytest.raises(ValueError, match="sliding_attention"):
        BeamEngine(gemma, trie, tokens)


def test_alibi_models_are_refused(make):
    """ALiBi takes its positions from the columns of a 2D mask; no configuration says so."""
    torch.manual_seed(0)
    bloom = BloomForCausalLM(
        BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    )
    with pytest.raises(ValueError, match=r"Bloom.* does not honour 4D attention masks"):
        BeamEngine(bloom, SIDTrie(make.codes()), make.tokens())


def test_the_comparison_notices_a_lost_mask(make, monkeypatch):
    model = make.model()
    check_tree(model, vocab_size=97)
    step = "genrec.decode.tree.TreeDecoder._mask"
    monkeypatch.setattr(step, lambda self, width: None)
    with pytest.raises(ValueError, match="standard deviations"):
        check_tree(model, vocab_size=97)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_learned_absolute_positions_work(make, dtype):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.3
    )
    model, codes, tokens = GPT2LMHeadModel(config).to(dtype).eval(), make.codes(), make.tokens()
    out = BeamEngine(model, SIDTrie(codes), tokens).search(
        *make.pad_left([[1, 2, 3], [4]]), num_beams=60
    )
    if dtype == torch.float32:
        oracle = make.oracle(model, [[1, 2, 3], [4]], codes, tokens)
        torch.testing.assert_close(out.scores, oracle.gather(1, out.items), atol=1e-4, rtol=0)


def test_other_models_are_refused(make):
    trie, tokens = SIDTrie(make.codes()), make.tokens()
    with pytest.raises(ValueError, match="no transformers config"):
        BeamEngine(torch.nn.Linear(2, 2), trie, tokens)
    model = make.model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="set_attn_implementation"):
        BeamEngine(model, trie, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:2], "2 levels; the SIDs of the trie have 3"),
        (lambda t: [t[0][:4], *t[1:]], r"code_tokens\[0\] has 4 tokens, but .* has code 4"),
        (lambda t: [t[0], np.append(t[1][1:], 97), t[2]], r"code_tokens\[1\] .* 0 to 96"),
        (lambda t: [t[0], np.append(t[1][1:], -1), t[2]], r"code_tokens\[1\] has token ids -1"),
        (lambda t: [*t[:2], np.append(t[2][:5], t[2][1])], r"\[2\] gives codes \[1, 5\] one"),
        (lambda t: [t[0].astype(float), *t[1:]], "float64"),
        (lambda t: [t[0][:, None], *t[1:]], "shape"),
    ],
)
def test_bad_tokens(make, change, message):
    with pytest.raises(ValueError, match=message):
        BeamEngine(make.model(), SIDTrie(make.codes()), change(make.tokens()))


IDS, MASK = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS, torch.tensor([[1, 1, 1], [1, 1, 0]]), "prompt 1 .* left padding"),
        (IDS, torch.tensor([[1, 1, 1], [1, 0, 1]]), "prompt 1 .* left padding"),
        (IDS, torch.tensor([[0, 0, 0], [0, 1, 1]]), "prompt 0 is empty"),
        (IDS, MASK * 2, "other values"),
        (IDS, MASK[:, :2], "the same"),
        (IDS[0], MASK[0], "the same"),
        (IDS[:0], MASK[:0], "neither of them 0"),
        (IDS.float(), MASK, "float32"),
        (IDS - 2, MASK, "no tokens"),
        (IDS + 91, MASK, "token 97; the model has 0 to 96"),
        (torch.ones(1, 62, dtype=int), torch.ones(1, 62), "a prompt has 62 tokens"),
    ],
)
def test_bad_prompts(setup, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        setup.engine.search(ids, mask, num_beams=3)


def test_the_longest_prompt_fits(setup):
    """61 tokens and 3 codes fill 64 positions; padding counts for nothing."""
    ids, mask = torch.ones(1, 70, dtype=int), torch.ones(1, 70, dtype=int)
    mask[:, :9] = 0
    assert setup.engine.search(ids, mask, num_beams=3).valid.all()


@pytest.mark.parametrize(("num_beams", "k"), [(0, None), (3, 4), (3, 0), (-1, -1)])
def test_bad_widths(setup, num_beams, k):
    with pytest.raises(ValueError, match="1 <= k <= num_beams"):
        setup.engine.search(IDS, MASK, num_beams=num_beams, k=k)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error(make, value):
    model = make.model()
    engine = BeamEngine(model, SIDTrie(make.codes()), make.tokens())
    model.lm_head.weight.data[50] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        engine.search(IDS, MASK, num_beams=3)
    assert not model.training
    BeamEngine(model, SIDTrie(make.codes()), make.tokens())  # weights may be loaded later
