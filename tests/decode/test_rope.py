"""RoPE that goes by the length: every score is that of one pass over prompt and SID, alone."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from torch import nn

from genrec.decode import BeamEngine, beam_search
from genrec.decode.rope import LengthRope, refuse_in_vllm
from genrec.sid.trie import SIDTrie

SWITCH = 40
SIZES = (5, 4, 6, 3)  # a SID of four levels: prompts of 37 to 40 tokens cross the switch within it
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONG = {
    "max_position_embeddings": 128,
    "original_max_position_embeddings": SWITCH,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "factor": 3.2,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 3.0, 2.0, 5.0],
        "original_max_position_embeddings": SWITCH,
    },
}
DYNAMIC = {
    "max_position_embeddings": SWITCH,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0},
}
MSCALE = {"short_mscale": 1.1, "long_mscale": 1.3}


def build(kind):
    torch.manual_seed(0)
    if kind == "phimoe":  # it scales by the length too
        rope = {**LONG["rope_parameters"], **MSCALE}
        config = tf.PhimoeConfig(**SMALL, **{**LONG, "rope_parameters": rope}, num_local_experts=2)
        return tf.PhimoeForCausalLM(config).eval()
    if kind == "gemma3":  # one RoPE of the layer types goes by the length
        ropes = {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": LONG["rope_parameters"],
        }
        config = tf.Gemma3TextConfig(
            **SMALL,
            head_dim=8,
            max_position_embeddings=128,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters=ropes,
        )
        return tf.Gemma3ForCausalLM(config).eval()
    if kind == "phi3":
        return tf.Phi3ForCausalLM(tf.Phi3Config(**SMALL, **LONG)).eval()
    return tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, **DYNAMIC)).eval()


KINDS = ["phi3", "phimoe", "gemma3", "dynamic"]
LENGTHS = (30, 36, 37, 40, 41, 50)


@pytest.fixture(scope="module", params=KINDS)
def shop(request, make):
    """A model, its catalogue, prompts about the switch, and brute force by models used only once."""
    codes, tokens = make.codes(items=30, sizes=SIZES), make.tokens(sizes=SIZES)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 97, (n,), generator=generator).tolist() for n in LENGTHS]
    scores = [make.oracle(build(request.param), [one], codes, tokens) for one in prompts]
    return SimpleNamespace(
        kind=request.param,
        codes=codes,
        tokens=tokens,
        trie=SIDTrie(codes),
        prompts=prompts,
        scores=torch.cat(scores),
        expected=[make.expected(one[0], codes, len(codes)) for one in scores],
    )


def check(shop, out, users=None):
    users = list(range(len(LENGTHS))) if users is None else users
    assert out.exact.all()
    torch.testing.assert_close(
        out.scores, shop.scores[users].gather(1, out.items), atol=2e-4, rtol=0
    )
    assert out.items.tolist() == [shop.expected[user] for user in users]


@pytest.mark.parametrize("strategy", ["tree", "expand"])
def test_scores_are_those_of_one_pass_alone(make, shop, strategy):
    model = build(shop.kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine = BeamEngine(model, shop.trie, shop.tokens, strategy=strategy)
    beams = len(shop.codes)
    check(shop, engine.search(*make.pad_left(shop.prompts), num_beams=beams))
    # One by one, the longest first: nothing of it stays behind.
    for user in reversed(range(len(LENGTHS))):
        check(shop, engine.search(*make.pad_left([shop.prompts[user]]), num_beams=beams), [user])
    certified = engine.search(*make.pad_left(shop.prompts), num_beams=3, certify=True, max_beams=30)
    torch.testing.assert_close(
        certified.scores, shop.scores.gather(1, certified.items), atol=2e-4, rtol=0
    )


def test_prompts_that_cross_the_switch_are_computed_anew(make, shop):
    engine = BeamEngine(build(shop.kind), shop.trie, shop.tokens)
    names = range(len(LENGTHS))
    for cut in (10, 3, 2, 1, 0):
        short = [prompt[: len(prompt) - cut] for prompt in shop.prompts]
        out = engine.search(*make.pad_left(short), num_beams=len(shop.codes), keys=names)
    check(shop, out)
    assert engine.prompts.hits > 0
    hits = engine.prompts.hits
    check(shop, engine.search(*make.pad_left(shop.prompts), num_beams=30, keys=names))
    assert engine.prompts.hits - hits == sum(LENGTHS) - len(LENGTHS)


def test_the_restricted_head_is_alone_or_in_a_batch_the_same(make, shop):
    engine = BeamEngine(build(shop.kind), shop.trie, shop.tokens, head="sid")
    together = engine.search(*make.pad_left(shop.prompts), num_beams=30)
    for user, prompt in enumerate(shop.prompts):
        alone = BeamEngine(build(shop.kind), shop.trie, shop.tokens, head="sid").search(
            *make.pad_left([prompt]), num_beams=30
        )
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=2e-4, rtol=0)


def test_generate_with_our_search(make, shop):
    ids, mask = make.pad_left(shop.prompts)
    model = build(shop.kind)
    out = model.generate(
        ids,
        attention_mask=mask,
        num_beams=20,
        num_return_sequences=1,
        max_new_tokens=4,
        do_sample=False,
        length_penalty=0.0,
        return_dict_in_generate=True,
        custom_generate=beam_search(shop.trie, shop.tokens),
    )
    found = shop.scores[range(len(LENGTHS)), out.sequences_items[:, 0]]
    torch.testing.assert_close(out.sequences_scores, found, atol=2e-4, rtol=0)


def test_these_lengths_matter(make, shop):
    """Without any of it a score is another one by far."""
    model = build(shop.kind)
    ids, mask = make.pad_left([shop.prompts[0], shop.prompts[-1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        beside = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, -1]
        alone = build(shop.kind)(input_ids=torch.tensor([shop.prompts[0]])).logits[0, -1]
    assert (beside - alone).abs().max() > 0.05


def test_training_goes_on_after_a_search(make, shop):
    model = build(shop.kind)
    engine = BeamEngine(model, shop.trie, shop.tokens)
    engine.search(*make.pad_left(shop.prompts), num_beams=3)
    ids = torch.tensor([shop.prompts[0]])
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert loss.item() == build(shop.kind)(input_ids=ids, labels=ids).loss.item()


class ByLongest(nn.Module):
    """A RoPE that knows long texts, under a name of its own."""

    def __init__(self, inner, measure):
        super().__init__()
        self.inner, self.measure = inner, measure

    def forward(self, x, position_ids):
        longer = self.measure(x, position_ids) > SWITCH
        return self.inner(x, position_ids * (0.5 if longer else 1))


@pytest.mark.parametrize("strategy", ["auto", "tree", "expand"])
def test_a_switch_of_another_name_is_refused(make, strategy):
    model = make.model("llama", max_position_embeddings=4096)
    model.model.rotary_emb = ByLongest(model.model.rotary_emb, lambda _, at: int(at.max()) + 1)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM .* the length of others in its batch"):
        BeamEngine(model, SIDTrie(make.codes()), make.tokens(), strategy=strategy)


def test_a_switch_by_shape_is_refused_where_the_configuration_names_it(make):
    model = make.model("llama", max_position_embeddings=128)
    model.config.original_max_position_embeddings = SWITCH
    model.model.rotary_emb = ByLongest(model.model.rotary_emb, lambda x, _: x.shape[1])
    with pytest.raises(ValueError, match="differ from plain sequences"):
        BeamEngine(model, SIDTrie(make.codes()), make.tokens())


def test_a_known_switch_that_cannot_be_held_is_refused(make, monkeypatch):
    monkeypatch.setattr("genrec.decode.rope._kinds_of", lambda _: None)
    with pytest.raises(ValueError, match=r"Phi3ForCausalLM .* differ from plain sequences"):
        BeamEngine(build("phi3"), SIDTrie(make.codes()), make.tokens())


def test_others_are_searched_in_one_part(make):
    rope = LengthRope(make.model().config)
    assert rope.switches == []
    assert [part.tolist() for part in rope.parts(torch.tensor([3, 99, 5]))] == [[0, 1, 2]]


def test_vllm_must_choose_as_transformers_does(make):
    config = build("phi3").config
    refuse_in_vllm(config, SWITCH, levels=4)
    with pytest.raises(
        ValueError, match=r"started for 128.*max_model_len=40 \(prompts of up to 36"
    ):
        refuse_in_vllm(config, 128, levels=4)
    with pytest.raises(ValueError, match="dynamic NTK"):
        refuse_in_vllm(build("dynamic").config, 20, levels=4)
    refuse_in_vllm(make.model().config, 10**6, levels=4)
    before = SimpleNamespace(
        rope_scaling={"type": "longrope"}, original_max_position_embeddings=4096
    )
    with pytest.raises(ValueError, match="max_model_len=4096"):
        refuse_in_vllm(before, 8192, levels=3)
