"""Models: sizes, seeds, dropout, SID rows, and that every saved form gives the same logits."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from genrec.lm.adapters import save_adapter
from genrec.lm.batch import code_token_ids
from genrec.lm.model import (
    _train_tokenizer,
    build_scratch,
    load_adapter,
    load_pretrained,
    save_merged,
)

TEXTS = ["a red lamp for the desk", "blue chair <a_1>", "green tea"] * 20
SIDS = {"levels": 2, "codes": 8}
SPARE_ROWS = 5


def scratch(**changes):
    size = {"hidden": 32, "layers": 2, "heads": 2, "vocab": 300} | SIDS | changes
    return build_scratch(texts=TEXTS, **size)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pretrained(request, tmp_path_factory):
    """The folder of a small causal LM that knows nothing of SIDs, and has spare vocabulary rows."""
    folder = str(tmp_path_factory.mktemp("base"))
    tokenizer = _train_tokenizer(TEXTS, 280)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + SPARE_ROWS,
        hidden_size=64,  # 4-bit blocks are 64 wide
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=request.param,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model, ids):
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids).logits


def ids_with_sids(tokenizer):
    tokens = code_token_ids(tokenizer, [8, 8])
    words = tokenizer("a red lamp", add_special_tokens=False)["input_ids"]
    sids = [int(token) for pair in zip(*tokens, strict=True) for token in pair]
    return torch.tensor([[*words, *sids, words[0]]])  # every SID token is read and written


def learn(model, ids, steps=4):
    """A few steps at a high rate, so that every trained weight differs from its start."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_scratch_has_the_size_asked_for():
    model, tokenizer = scratch()
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 2)
    assert config.head_dim * config.num_attention_heads == config.hidden_size
    assert config.vocab_size == len(tokenizer) <= 300 + 16
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_default_is_about_a_million_parameters():
    model, _ = build_scratch(texts=TEXTS, levels=4, codes=256)
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.5e6


def test_hidden_must_divide_among_heads():
    with pytest.raises(ValueError, match=r"hidden=30 must be a multiple of 2 x heads \(4\)"):
        scratch(hidden=30, heads=4)


def test_same_seed_same_weights_and_tokenizer(tmp_path):
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    one, other, again = (scratch(seed=seed) for seed in (0, 1, 0))
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random state is its own"
    for (name, a), b, c in zip(
        one[0].named_parameters(), other[0].parameters(), again[0].parameters(), strict=True
    ):
        assert torch.equal(a, c)
        assert name.endswith("norm.weight") or not torch.equal(a, b)
    assert one[1].get_vocab() == again[1].get_vocab()


def test_dropout_acts_in_training_only_and_leaves_no_trace(tmp_path):
    model, tokenizer = scratch(dropout=0.5)
    ids = ids_with_sids(tokenizer)
    assert torch.equal(logits(model, ids), logits(model, ids))
    model.train()
    model.config.attention_dropout = 0.0  # what is left comes from the hooks
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    assert not torch.equal(model(ids).logits, model(ids).logits)
    none, _ = scratch(dropout=0.0)
    none.train()
    assert torch.equal(none(ids).logits, none(ids).logits)
    save_merged(model, tokenizer, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {
        name for name, _ in none.named_parameters()
    }


def test_sid_rows_start_like_the_codebooks():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2, 40))
    books = [
        np.repeat(centres, 4, axis=0) + 0.1 * rng.standard_normal((8, 40)),
        rng.standard_normal((8, 3)),
    ]
    model, tokenizer = scratch(hidden=64, sid_init=books)
    weight = model.get_input_embeddings().weight.detach()
    rows = weight[code_token_ids(tokenizer, [8, 8])[0]]
    near = torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0)
    far = torch.nn.functional.cosine_similarity(rows[0], rows[4], dim=0)
    assert near > 0.9 > 0.5 > far
    old = weight[: -2 * 8]
    assert 0.5 < rows.std() / old.std() < 2, "new rows are as large as old ones"
    with pytest.raises(ValueError, match="level 1 has 7 vectors, expected 8"):
        scratch(sid_init=[books[0], books[1][:7]])


def test_scratch_saves_and_loads_alone(tmp_path):
    model, tokenizer = scratch()
    save_merged(model, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = ids_with_sids(AutoTokenizer.from_pretrained(tmp_path))
    torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-5, rtol=0)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".jinja"}


KINDS = {
    "full": {"tune": "full"},
    "lora": {"tune": "lora"},
    "dora": {"tune": "lora", "use_dora": True},
    "rslora": {"tune": "lora", "use_rslora": True},
    "qlora": {"tune": "qlora"},
    "qdora": {"tune": "qlora", "use_dora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_saved_form_gives_the_same_logits(pretrained, kind, tmp_path):
    tune = KINDS[kind]["tune"]
    model, tokenizer = load_pretrained(pretrained, rank=4, **KINDS[kind], **SIDS)
    ids = ids_with_sids(tokenizer)
    start = logits(model, ids)
    learn(model, ids)
    expected = logits(model, ids)
    assert (expected - start).abs().max() > 0.1, "nothing was learned: the test would show nothing"

    if tune != "full":
        save_adapter(model, tmp_path / "adapter")
        again, _ = load_adapter(pretrained, tmp_path / "adapter", tune=tune, **SIDS)
        torch.testing.assert_close(logits(again, ids), expected, atol=1e-6, rtol=0)

    save_merged(model, tokenizer, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    same = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert torch.equal(ids_with_sids(same), ids)
    assert not hasattr(merged.config, "quantization_config")
    torch.testing.assert_close(logits(merged, ids), expected, atol=1e-5, rtol=1e-5)


def test_the_options_reach_the_adapter(pretrained):
    """DoRA trains one more number per output of a layer; rsLoRA divides by the root of the rank."""
    sizes, scales = {}, {}
    for kind in ("lora", "dora", "rslora"):
        model, _ = load_pretrained(pretrained, rank=4, alpha=8, **KINDS[kind], **SIDS)
        sizes[kind] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        layer = model.base_model.model.model.layers[0].mlp.up_proj
        scales[kind] = layer.scaling["default"]
    outputs = 2 * (64 + 32 + 32 + 64 + 64 + 64 + 64)  # q, k, v, o, gate, up, down of two layers
    assert sizes["dora"] - sizes["lora"] == outputs
    assert sizes["rslora"] == sizes["lora"]
    assert scales == {"lora": 2.0, "dora": 2.0, "rslora": 4.0}


def test_lora_trains_the_sid_rows_and_no_other(pretrained, tmp_path):
    model, tokenizer = load_pretrained(pretrained, rank=4, **SIDS)
    base = AutoModelForCausalLM.from_pretrained(pretrained)
    ids = ids_with_sids(tokenizer)
    start = {
        name: getattr(model, f"get_{name}_embeddings")().weight.detach().clone()
        for name in ("input", "output")
    }
    learn(model, ids)
    merged = save_merged(model, tokenizer, tmp_path)
    rows = np.concatenate(code_token_ids(tokenizer, [8, 8]))
    for name in ("input", "output"):
        trained = getattr(merged, f"get_{name}_embeddings")().weight
        changed = (trained != start[name]).any(dim=1).nonzero().flatten().tolist()
        assert set(changed) == set(rows.tolist()), name
        old = getattr(base, f"get_{name}_embeddings")().weight[: rows.min()]
        assert torch.equal(trained[: len(old)], old)
    tied = base.config.tie_word_embeddings
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied


@pytest.mark.parametrize("kind", ["lora", "dora", "qlora"])
def test_adapters_and_checkpoints_are_small(pretrained, kind, tmp_path):
    """The matrices, DoRA's magnitudes and the 16 new rows: nothing of the vocabulary, nothing else."""
    model, _ = load_pretrained(pretrained, rank=4, **KINDS[kind], **SIDS)
    save_adapter(model, tmp_path / "adapter")
    model.save_pretrained(tmp_path / "checkpoint")  # what Trainer does
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # Of q, k, v, o, gate, up and down in both layers: inputs and outputs, four numbers for each.
    matrices = 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 64))
    magnitudes = 2 * (64 + 32 + 32 + 64 + 64 + 64 + 64) if kind == "dora" else 0
    rows = 16 * 64 * (1 if model.config.tie_word_embeddings else 2)
    assert trained == matrices + magnitudes + rows
    for folder in ("adapter", "checkpoint"):
        file = tmp_path / folder / "adapter_model.safetensors"
        assert sum(t.numel() for t in load_file(file).values()) == trained
        assert file.stat().st_size < 4 * trained + 20_000


def test_spare_rows_are_used_before_the_embedding_grows(pretrained):
    base = AutoTokenizer.from_pretrained(pretrained)
    small, tokenizer = load_pretrained(pretrained, levels=1, codes=3, tune="full")
    assert small.get_input_embeddings().num_embeddings == len(base) + SPARE_ROWS
    assert len(tokenizer) == len(base) + 3
    large, tokenizer = load_pretrained(pretrained, tune="full", **SIDS)
    assert large.get_input_embeddings().num_embeddings == len(tokenizer) == len(base) + 16


def test_validating_a_4_bit_model_does_not_change_it(pretrained):
    # bitsandbytes repacks the weights at the first CPU inference where the processor has bf16.
    model, tokenizer = load_pretrained(pretrained, tune="qlora", **SIDS)
    ids = ids_with_sids(tokenizer)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = model(input_ids=ids).logits.detach()
    logits(model, ids)
    model.train()
    assert torch.equal(model(input_ids=ids).logits.detach(), before)


def test_a_missing_model_names_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"train\.model\.name='.*nowhere': no such folder"):
        load_pretrained(str(tmp_path / "nowhere"), **SIDS)
