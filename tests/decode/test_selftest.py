"""How each architecture is decoded, chosen by trying it, and always equal to brute force."""

import warnings

import pytest
import torch
import transformers as tf

from genrec.decode import BeamEngine
from genrec.decode.head import set_softmax, trained_among_codes
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
FLAT = {name: value for name, value in SMALL.items() if name != "head_dim"}
STORED = {**FLAT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
BLOOM = {
    "vocab_size": 97,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.3,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
PROMPTS = [[3, 14, 15, 92, 65, 35, 9, 2, 6], [8, 9], [79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 3]]


def build(kind, **config):
    classes = {
        "gemma2": (tf.Gemma2Config, tf.Gemma2ForCausalLM),
        "gemma3": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM),
        "mistral": (tf.MistralConfig, tf.MistralForCausalLM),
        "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM),
        "gpt2": (tf.GPT2Config, tf.GPT2LMHeadModel),
        "bloom": (tf.BloomConfig, tf.BloomForCausalLM),
        "qwen3-next": (tf.Qwen3NextConfig, tf.Qwen3NextForCausalLM),
        "falcon-h1": (tf.FalconH1Config, tf.FalconH1ForCausalLM),
        "mamba2": (tf.Mamba2Config, tf.Mamba2ForCausalLM),
        "lfm2": (tf.Lfm2Config, tf.Lfm2ForCausalLM),
        "mamba": (tf.MambaConfig, tf.MambaForCausalLM),
    }
    config_class, model_class = classes[kind]
    torch.manual_seed(0)
    return model_class(config_class(**config)).eval()


def check_equals_oracle(model, engine, make, codes, tokens):
    oracle = make.oracle(model, PROMPTS, codes, tokens)
    for width in (len(codes), 7):
        out = engine.search(*make.pad_left(PROMPTS), num_beams=width)
        torch.testing.assert_close(out.scores, oracle.gather(1, out.items), atol=2e-4, rtol=0)
        if width == len(codes):
            for user, scores in enumerate(oracle):
                assert out.items[user].tolist() == make.expected(scores, codes, width)


MIXED_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("mistral", {**SMALL, "sliding_window": 6}),
        ("gemma2", {**SMALL, "sliding_window": 6}),
        ("gemma3", {**SMALL, "sliding_window": 6}),
        ("gemma3", {**SMALL, "sliding_window": 6, **MIXED, "attn_implementation": "eager"}),
        ("qwen3", {**SMALL, "use_sliding_window": True, "sliding_window": 6, **MIXED}),
        ("gpt2", {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}),
    ],
)
def test_windows_and_positions_go_by_the_tree(make, kind, config):
    """Prompts are longer than the window, so a mask without it would show."""
    model, codes, tokens = build(kind, **config), make.codes(), make.tokens()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine = BeamEngine(model, SIDTrie(codes), tokens)
    assert engine.strategy == "tree"
    check_equals_oracle(model, engine, make, codes, tokens)


def test_a_window_matters_to_these_prompts(make):
    codes, tokens = make.codes(), make.tokens()
    narrow = build("mistral", **SMALL, sliding_window=6)
    wide = build("mistral", **SMALL, sliding_window=None)
    wide.load_state_dict(narrow.state_dict())
    far = make.oracle(narrow, PROMPTS, codes, tokens) - make.oracle(wide, PROMPTS, codes, tokens)
    assert far.abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("bloom", BLOOM, "under a tree mask: ValueError"),
        ("qwen3-next", {**SMALL, **LINEAR}, r"layers of \['linear_attention'\]"),
        (
            "falcon-h1",
            {
                **SMALL,
                "mamba_d_ssm": 32,
                "mamba_n_heads": 4,
                "mamba_d_head": 8,
                "mamba_d_state": 8,
            },
            r"layers of \['hybrid'\]",
        ),
        (
            "mamba2",
            {
                "vocab_size": 97,
                "hidden_size": 32,
                "num_heads": 8,
                "head_dim": 8,
                "state_size": 8,
                "n_groups": 1,
                "num_hidden_layers": 2,
            },
            r"layers of \['linear_attention'\]",
        ),
        ("lfm2", {**STORED, "layer_types": ["conv", "full_attention"]}, r"layers of \['conv'\]"),
    ],
)
def test_others_fall_back_and_say_why(make, kind, config, reason):
    model, codes, tokens = build(kind, **config), make.codes(), make.tokens()
    with pytest.warns(UserWarning, match=reason):
        engine = BeamEngine(model, SIDTrie(codes), tokens)
    assert engine.strategy == "expand"
    check_equals_oracle(model, engine, make, codes, tokens)
    with pytest.raises(ValueError, match="cannot be decoded under a tree mask"):
        BeamEngine(model, SIDTrie(codes), tokens, strategy="tree")


def test_a_model_that_neither_fits_is_refused(make):
    """Mamba's cache lets padding in; nothing but the comparison tells."""
    config = {"vocab_size": 97, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    mamba = build("mamba", **config, initializer_range=0.3)
    with pytest.raises(ValueError, match=r"one row per beam.* standard deviations"):
        BeamEngine(mamba, SIDTrie(make.codes()), make.tokens())


def build_named(name, config):
    torch.manual_seed(0)
    model_class = getattr(tf, name)
    return model_class(model_class.config_class(**config)).eval()


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        (
            "RecurrentGemmaForCausalLM",
            {**STORED, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 6},
            "it returns no cache of what it computed",
        ),
        (
            "RwkvForCausalLM",
            {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
            "it returns no cache of what it computed",
        ),
        (
            "MiniMaxForCausalLM",
            {**STORED, **MIXED_LINEAR, "head_dim": 8, "num_local_experts": 2, "block_size": 4},
            r"raised by the model as it was tried",
        ),
        (
            "ProphetNetForCausalLM",
            {
                "vocab_size": 97,
                "hidden_size": 32,
                "num_decoder_layers": 2,
                "num_decoder_attention_heads": 4,
                "decoder_ffn_dim": 48,
                "is_decoder": True,
                "is_encoder_decoder": False,
            },
            "AssertionError: .*raised by the model as it was tried",
        ),
        ("BertForMaskedLM", ENCODER, "logits change with the tokens that come later.*no causal LM"),
        ("BertModel", ENCODER, "has no attribute 'logits' .raised by the model"),
        (
            "T5ForConditionalGeneration",
            {
                "vocab_size": 97,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 2,
                "num_heads": 4,
            },
            "is an encoder-decoder; expected a decoder-only causal LM",
        ),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_name(make, name, config, reason):
    with pytest.raises(ValueError, match=f"^{name} (cannot be decoded.*)?{reason}"):
        BeamEngine(build_named(name, config), SIDTrie(make.codes()), make.tokens())


def test_steps_that_are_not_one_pass_are_told(make):
    """Nemotron-H holds its time steps above a floor in a whole pass, and not in a step behind one."""
    config = {
        **STORED,
        "head_dim": 8,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
    }
    model = build_named("NemotronHForCausalLM", config)
    codes, tokens = make.codes(), make.tokens()
    with pytest.warns(
        UserWarning, match=r"NemotronHForCausalLM: scores will be close to the model's"
    ):
        engine = BeamEngine(model, SIDTrie(codes), tokens, strategy="expand")
    out = engine.search(*make.pad_left(PROMPTS), num_beams=len(codes))
    off = (out.scores - make.oracle(model, PROMPTS, codes, tokens).gather(1, out.items)).abs()
    assert 1e-3 < off.max() < 0.1


def test_both_strategies_agree(setup, make):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # asked for: no warning
        expand = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens, strategy="expand")
    for width in (1, 6, 30):
        ours = setup.engine.search(setup.ids, setup.mask, num_beams=width)
        theirs = expand.search(setup.ids, setup.mask, num_beams=width)
        assert ours.items.tolist() == theirs.items.tolist()
        assert ours.exact.tolist() == theirs.exact.tolist()
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)


def test_the_comparison_notices_a_lost_mask(make, monkeypatch):
    step = "genrec.decode.strategies.TreeDecoder._masks"
    monkeypatch.setattr(step, lambda *_: None)
    with pytest.warns(UserWarning, match="standard deviations"):
        engine = BeamEngine(make.model(), SIDTrie(make.codes()), make.tokens())
    assert engine.strategy == "expand"


def test_attention_without_4d_masks_falls_back(make):
    model = make.model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="set_attn_implementation"):
        BeamEngine(model, SIDTrie(make.codes()), make.tokens(), strategy="tree")


def test_unknown_choices(make):
    parts = make.model(), SIDTrie(make.codes()), make.tokens()
    with pytest.raises(ValueError, match="strategy='trie'; expected auto"):
        BeamEngine(*parts, strategy="trie")
    with pytest.raises(ValueError, match="head='half'; expected auto, full or sid"):
        BeamEngine(*parts, head="half")


# --- the restricted head ---------------------------------------------------------------------


def test_the_restricted_head_normalises_over_the_level(setup, make):
    """Scores equal the oracle's with every other token's logit taken out."""
    engine = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens, head="sid")
    out = engine.search(setup.ids, setup.mask, num_beams=len(setup.codes))
    sids = torch.from_numpy(setup.codes)
    for user, prompt in enumerate(setup.prompts):
        names = torch.stack(
            [torch.from_numpy(t)[sids[:, i]] for i, t in enumerate(setup.tokens)], dim=1
        )
        rows = torch.cat([torch.tensor(prompt).expand(len(names), -1), names], dim=1)
        with torch.no_grad():
            logits = setup.model(input_ids=rows).logits[:, len(prompt) - 1 : -1]
        total = torch.zeros(len(names))
        for level, tokens in enumerate(setup.tokens):
            log_probs = logits[:, level, torch.from_numpy(tokens)].log_softmax(-1)
            total += log_probs.gather(1, sids[:, level : level + 1]).squeeze(1)
        assert sorted(out.items[user].tolist()) == list(range(len(setup.codes)))
        torch.testing.assert_close(out.scores[user], total[out.items[user]], atol=1e-4, rtol=0)
    assert (out.scores.diff(dim=1) <= 0).all()
    assert out.exact.all()


def test_the_restricted_head_refuses_what_caps_logits(make):
    capped = build("gemma2", **SMALL, final_logit_softcapping=0.5)
    with pytest.raises(ValueError, match="changes logits behind its output matrix"):
        BeamEngine(capped, SIDTrie(make.codes()), make.tokens(), head="sid")
    BeamEngine(capped, SIDTrie(make.codes()), make.tokens())  # the full head has the model's own


def test_a_model_says_what_it_was_trained_among(make, tmp_path):
    model, parts = make.model(), (SIDTrie(make.codes()), make.tokens())
    set_softmax(model, "codes")
    model.save_pretrained(tmp_path)
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    engine, sid = BeamEngine(model, *parts), BeamEngine(model, *parts, head="sid")
    ids = torch.tensor([[1, 2, 3]])
    outs = [one.search(ids, torch.ones_like(ids), num_beams=10) for one in (engine, sid)]
    torch.testing.assert_close(outs[0].scores, outs[1].scores)
    with pytest.raises(
        ValueError, match=r"trained among the codes .*train.softmax=codes.*use auto"
    ):
        BeamEngine(model, *parts, head="full")
    set_softmax(model, "vocabulary")
    assert not trained_among_codes(model)
    full = BeamEngine(model, *parts).search(ids, torch.ones_like(ids), num_beams=10)
    assert (full.scores < outs[0].scores).all()


def test_codes_are_scored_among_their_level_where_rows_alone_will_not_do(make):
    """A cap on the logits: all of them are made, and the probabilities are of the level's."""
    capped = build("gemma2", **SMALL, final_logit_softcapping=0.5)
    set_softmax(capped, "codes")
    trie, tokens = SIDTrie(make.codes()), make.tokens()
    out = BeamEngine(capped, trie, tokens).search(
        torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.int64), num_beams=len(make.codes())
    )
    item = int(out.items[0, 0])
    sid = make.codes()[item]
    names = [int(own[code]) for own, code in zip(tokens, sid, strict=True)]
    with torch.no_grad():
        logits = capped(input_ids=torch.tensor([[1, 2, 3, *names]])).logits[0, 2:-1]
    total = sum(
        logits[level, torch.from_numpy(own)].log_softmax(-1)[code]
        for level, (own, code) in enumerate(zip(tokens, sid, strict=True))
    )
    torch.testing.assert_close(out.scores[0, 0], total, atol=1e-4, rtol=0)
