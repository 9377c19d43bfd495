"""What only a GPU shows: that its kernels search, pack and train as a CPU does.

`recipes/bench/gpu.py` runs these where there may be only torch, transformers, peft, accelerate and
pytest, and without `conftest.py`: so no fixtures of it, and no other library.
"""

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import is_flash_attn_2_available

from genrec.decode import BeamEngine
from genrec.lm.adapters import adapt
from genrec.lm.batch import IGNORED
from genrec.lm.loss import TargetLoss
from genrec.lm.sampler import Collator, PackingCollator, check_packing
from genrec.sid.trie import SIDTrie

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
TEXT, CODES, LEVELS = 100, 16, 3
TOKENS = [TEXT + CODES * level + np.arange(CODES) for level in range(LEVELS)]
TASKS = ["any"]


def model_of(attention="sdpa", spread=0.3, dtype=torch.float32):
    """A small Qwen3, whose logits are far from flat."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=TEXT + LEVELS * CODES,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=spread,
        attn_implementation=attention,
    )
    return Qwen3ForCausalLM(config).to(dtype).eval()


def examples(count=24):
    """Rows of 5 to 40 tokens, the second half of each to be learned."""
    rng = np.random.default_rng(0)
    for length in rng.integers(5, 41, count).tolist():
        ids = rng.integers(1, TEXT, length).tolist()
        labels = [IGNORED] * (length // 2) + ids[length // 2 :]
        yield {"input_ids": ids, "labels": labels, "task": TASKS[0]}


def batch_of(collate):
    return {name: part.to(DEVICE) for name, part in collate(list(examples())).items()}


@pytest.mark.parametrize("strategy", ["tree", "expand"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_search_finds_what_it_finds_on_a_cpu(strategy, attention):
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(CODES, size=(400, LEVELS)), axis=0)
    ids = torch.from_numpy(rng.integers(1, TEXT, size=(4, 20)))
    mask = torch.ones_like(ids)
    mask[1, :12] = 0
    model, found = model_of(attention), []
    for device in ("cpu", DEVICE):
        engine = BeamEngine(model.to(device), SIDTrie(codes), TOKENS, strategy=strategy)
        found.append(engine.search(ids, mask, num_beams=12))
    here, there = found
    torch.testing.assert_close(there.scores.cpu(), here.scores.cpu(), atol=1e-3, rtol=0)
    # Items whose scores nearly tie may change places.
    shared = [len(set(a) & set(b)) for a, b in zip(here.items.tolist(), there.items.tolist())]  # noqa: B905
    assert min(shared) >= 11


def test_half_precision_keeps_nearly_all_of_a_list():
    rng = np.random.default_rng(1)
    codes = np.unique(rng.integers(CODES, size=(400, LEVELS)), axis=0)
    ids = torch.from_numpy(rng.integers(1, TEXT, size=(4, 20)))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        engine = BeamEngine(model_of(dtype=dtype).to(DEVICE), SIDTrie(codes), TOKENS)
        found.append(engine.search(ids, torch.ones_like(ids), num_beams=20).items.tolist())
    shared = [len(set(a) & set(b)) / 20 for a, b in zip(*found, strict=True)]
    assert np.mean(shared) > 0.8


KERNELS = [
    ("sdpa", 64),
    ("sdpa", None),
    pytest.param(
        *("flash_attention_2", None),
        marks=pytest.mark.skipif(
            not is_flash_attn_2_available(), reason="flash-attn is not installed"
        ),
    ),
]


@pytest.mark.parametrize(("attention", "row"), KERNELS)
def test_packed_examples_learn_what_padded_ones_do(attention, row):
    """The same losses, in another order; under bfloat16, for the kernels that know no other type."""
    losses = {}
    for name, own, collate in [
        ("padded", "sdpa", Collator(0, TASKS)),
        ("packed", attention, PackingCollator(0, TASKS, row=row)),
    ]:
        model, batch = model_of(own, spread=0.1).to(DEVICE), batch_of(collate)
        with torch.no_grad(), torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
            if name == "packed":
                check_packing(model, vocabulary=TEXT)
            losses[name] = TargetLoss(model)(model, batch)[0].sort().values
    torch.testing.assert_close(losses["packed"], losses["padded"], atol=0.05, rtol=0.02)


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("max_logits", [2**27, 200])
def test_steps_in_half_precision_learn(tune, max_logits):
    model = model_of(spread=0.02).to(DEVICE)
    if tune == "lora":
        model = adapt(model, np.concatenate(TOKENS).tolist(), rank=8, dropout=0.0)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, fused=True)
    batch, losses = batch_of(Collator(0, TASKS)), []
    target_loss = TargetLoss(model, max_logits=max_logits)
    for _ in range(30):
        with torch.autocast(torch.device(DEVICE).type, torch.bfloat16):
            loss = target_loss(model, batch)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0], losses
