"""Memory on paper against what autograd keeps, what models hold, and the ZeRO paper's own table."""

import peft
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.lm.adapters import adapt
from genrec.lm.loss import MAX_LOGITS
from genrec.lm.scale import Shape, estimate

SIZES = {
    "vocab_size": 100,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 160,
}
ROWS, RANK = [90, 91, 92], 4
LENGTH = 64


def build(tune, layers=2, tied=True, dropout=0.0):
    config = Qwen3Config(num_hidden_layers=layers, tie_word_embeddings=tied, **SIZES)
    model = Qwen3ForCausalLM(config)
    if tune == "lora":
        model = adapt(model, ROWS, rank=RANK, dropout=dropout)
    return model.train(), Shape.of(config)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted(tied):
    model, shape = build("full", tied=tied)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    model, shape = build("lora", tied=tied)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.adapter(RANK, len(ROWS)) == trained


def kept(model, rows, precision):
    """Bytes of the storages that the backward pass of the layers needs, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    alive, sizes = [], {}

    def pack(tensor):
        alive.append(tensor)  # or a freed address would be counted once for two tensors
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    body = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    amp = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), amp:
        output = body.model(torch.zeros(rows, LENGTH, dtype=torch.long)).last_hidden_state
    assert output.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("tune", "dropout"), [("full", 0.0), ("lora", 0.0), ("lora", 0.1)])
def test_activations_are_what_autograd_keeps(tune, dropout, precision):
    """Per token and layer: differences of models of two and three layers, of two and six rows."""
    found = {
        (layers, rows): kept(build(tune, layers, dropout=dropout)[0], rows, precision)
        for layers in (2, 3)
        for rows in (2, 6)
    }
    per_layer = {rows: found[3, rows] - found[2, rows] for rows in (2, 6)}
    per_token = (per_layer[6] - per_layer[2]) / (4 * LENGTH)

    def paper(layers, tokens):
        settings = {"dropout": dropout > 0, "gpu": False, "rank": RANK, "precision": precision}
        shape = build(tune, layers)[1]
        return estimate(
            shape, tune=tune, tokens=tokens, length=1, targets=0, **settings
        ).activations

    expected = {tokens: paper(3, tokens) - paper(2, tokens) for tokens in (0, 1)}
    assert expected[1] - expected[0] == pytest.approx(per_token, rel=0.01)
    weights_again = per_layer[2] - per_token * 2 * LENGTH  # autocast's copies, whatever the tokens
    assert expected[0] == pytest.approx(weights_again, rel=0.15)


def test_zero_by_its_own_paper():
    """arXiv 1910.02054, figure 1, at 16 bytes a parameter: 7.5 billion on 64 devices."""
    shape = Shape(4096, 32, 32, 32, 128, 11008, 128000, True)
    common = {"tune": "full", "tokens": 0, "length": 1, "targets": 0, "devices": 64}
    states = {}
    for sharding in ("none", "zero2", "zero3"):
        e = estimate(shape, precision="fp32", sharding=sharding, **common)
        states[sharding] = (e.weights + e.gradients + e.optimizer) / shape.parameters
    assert states["zero2"] == pytest.approx(4 + 12 / 64)
    assert states["zero3"] == pytest.approx(16 / 64)
    alone = estimate(shape, precision="fp32", **common | {"devices": 1})
    assert (alone.weights + alone.gradients + alone.optimizer) / shape.parameters == 16
    assert states["none"] == 20, "DDP's buckets hold the gradients once more"
    small = estimate(shape, precision="fp32", optimizer_bytes=2, **common | {"devices": 1})
    embedding = 128000 * 4096
    assert small.optimizer == 2 * (shape.parameters - embedding) + 8 * embedding


def test_operations_by_hand():
    shape = Shape(8, 2, 2, 1, 4, 16, 50, True)
    linear = 2 * (8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 16)
    forward = 2 * linear * 100 + 2 * 100 * 10 * 8 * 2  # products, and attention over half of T
    head = 2 * 50 * 8 * 30
    common = {"tokens": 100, "length": 10, "targets": 30, "rank": 2, "precision": "fp32"}
    full = estimate(shape, tune="full", **common)
    assert full.operations == 3 * forward + 3 * head
    again = estimate(shape, tune="full", checkpointing=True, **common)
    assert again.operations == 4 * forward + 3 * head
    lora = estimate(shape, tune="lora", **common)
    adapters = 6 * shape.adapter(2, 0) * 100
    assert lora.operations == 3 * forward - 2 * linear * 100 + 3 * head + adapters
    rows = estimate(shape, tune="lora", new_rows=40, **common)
    assert rows.operations == lora.operations, "rows are looked up"
    timed = estimate(shape, tune="full", devices=4, speed=1e3, link=1e2, **common)
    moved = 2 * 4 * shape.parameters * 3 / 4
    assert timed.seconds == pytest.approx(full.operations / 4 / 1e3 + moved / 1e2)


def test_four_bits_hold_the_matrices_only():
    shape = Shape(4096, 36, 32, 8, 128, 12288, 151936, False)  # Qwen3-8B
    common = {"tokens": 0, "length": 1, "targets": 0, "precision": "bf16"}
    lora, qlora = (estimate(shape, tune=tune, **common).weights for tune in ("lora", "qlora"))
    assert shape.parameters == pytest.approx(8.19e9, rel=0.001)
    assert (lora - qlora) / 1e9 == pytest.approx((4 - 0.516) * 6.945, rel=0.001)


def test_logits_are_counted_up_to_the_bound_of_the_loss():
    shape = Shape(8, 2, 2, 1, 4, 16, 2**20, True)
    common = {"tune": "full", "tokens": 4096, "length": 8, "precision": "fp32"}
    few, bound, more = (
        estimate(shape, targets=int(n * MAX_LOGITS / 2**20), **common).logits for n in (0.5, 1, 3)
    )
    assert few * 2 == bound == more == 12 * MAX_LOGITS
