"""Batches: the budget, each example once, seeds and epochs, several processes; padded and packed."""

from functools import partial

import numpy as np
import pytest
import torch
import transformers.modeling_flash_attention_utils as flash
from hypothesis import given, strategies as st
from torch.nn import functional as F
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from genrec.lm.batch import IGNORED
from genrec.lm.callbacks import read_log
from genrec.lm.loss import TargetLoss
from genrec.lm.model import load_pretrained, save_merged
from genrec.lm.sampler import (
    Collator,
    PackingCollator,
    TokenBudgetSampler,
    check_packing,
    masked_attention,
    row_for,
    spread,
)
from genrec.lm.train import train

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


@given(lengths=lengths, budget=st.integers(16, 300), seed=st.integers(0, 3))
def test_every_example_once_within_the_budget(lengths, budget, seed):
    sampler = TokenBudgetSampler(lengths, budget, seed=seed)
    for number in (0, 1, 2):
        batches = epoch(sampler, number)
        assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
        assert len(batches) == len(sampler), "Trainer plans its steps by this"
        for rows in batches:
            longest = max(lengths[row] for row in rows)
            assert len(rows) == 1 or len(rows) * longest <= budget


def test_batches_by_hand():
    # Classes of 8 tokens: 1, 1, 1, 2, 2, 4; a budget of 24 holds 3 x 8, then 1 x 16, then 1 x 32.
    sampler = TokenBudgetSampler([3, 30, 8, 9, 1, 16], 24, shuffle=False)
    assert list(sampler) == [[0, 2, 4], [3], [5], [1]]


def test_epochs_differ_and_repeat():
    sampler = TokenBudgetSampler(np.arange(1, 200) % 40 + 1, 200, seed=4)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert first != second
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}
    assert epoch(sampler, 0) == first
    assert epoch(TokenBudgetSampler(np.arange(1, 200) % 40 + 1, 200, seed=5), 0) != first


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch(processes):
    sizes = np.random.default_rng(0).integers(1, 40, 50)
    whole = epoch(TokenBudgetSampler(sizes, 128, seed=1), 2)
    shares = [
        epoch(TokenBudgetSampler(sizes, 128, seed=1, rank=rank, processes=processes), 2)
        for rank in range(processes)
    ]
    for rows, *parts in zip(whole, *shares, strict=True):
        together = [row for part in parts for row in part]
        assert all(parts), "a process without rows would leave the others waiting"
        assert set(together) == set(rows)
        assert len(together) == max(len(rows), processes)


@pytest.mark.parametrize(("rows", "processes"), [(1, 2), (2, 3), (3, 4), (4, 8)])
def test_more_processes_than_rows_leave_the_mean_as_it_is(rows, processes):
    """Every row counts equally often over all processes, each of which has as many."""
    shares = [
        epoch(TokenBudgetSampler([8] * rows, 8 * rows, rank=rank, processes=processes), 0)
        for rank in range(processes)
    ]
    (parts,) = zip(*shares, strict=True)
    assert len({len(part) for part in parts}) == 1
    times = np.bincount([row for part in parts for row in part], minlength=rows)
    assert set(times) == {np.lcm(rows, processes) // rows}


def test_batches_are_of_like_length():
    sizes = np.random.default_rng(0).integers(1, 200, 2000)
    padded = real = 0
    for rows in TokenBudgetSampler(sizes, 2048):
        padded += len(rows) * sizes[rows].max()
        real += sizes[rows].sum()
    assert real / padded > 0.9


def test_the_collator_pads_on_the_right():
    rows = [
        {"input_ids": [5, 6], "labels": [IGNORED, 6], "task": "b"},
        {"input_ids": [7], "labels": [7], "task": "a"},
    ]
    batch = {name: t.tolist() for name, t in Collator(9, ["a", "b"])(rows).items()}
    assert batch == {
        "input_ids": [[5, 6], [7, 9]],
        "labels": [[IGNORED, 6], [IGNORED, IGNORED]],  # before a first token stands nothing
        "attention_mask": [[1, 1], [1, 0]],
        "tasks": [[1, 1], [0, 0]],
    }


TASKS = ["history_to_sid", "sid_to_title", "title_to_sid"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=80), capacity=st.integers(10, 120))
def test_bins_hold_everything_and_are_about_equally_full(lengths, capacity):
    lengths = np.array(lengths)
    owner = spread(lengths, capacity)
    filled = np.bincount(owner, weights=lengths)
    assert (np.bincount(owner) > 0).all()
    assert (filled[np.bincount(owner) > 1] <= capacity).all()
    if lengths.max() <= capacity // 4:
        # First-fit's bound is 1.7 times the fewest; what is small against a bin does far better.
        assert len(filled) <= -(-lengths.sum() * 4 // (3 * capacity)) + 1
        assert filled.max() - filled.min() <= max(lengths.max(), capacity / 2)


def test_rows_by_hand():
    rows = [
        {"input_ids": [5, 6], "labels": [IGNORED, 6], "task": "b"},
        {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "task": "a"},
        {"input_ids": [7], "labels": [7], "task": "a"},
    ]
    batch = {name: t.tolist() for name, t in PackingCollator(9, ["a", "b"], row=4)(rows).items()}
    assert batch == {
        "input_ids": [[1, 2, 3], [5, 6, 7]],
        "position_ids": [[0, 1, 2], [0, 1, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 1]],
        "labels": [[IGNORED, 2, 3], [IGNORED, 6, IGNORED]],
        "tasks": [[0, 0, 0], [1, 1, 0]],
    }
    one = PackingCollator(9, ["a", "b"], row=None)(rows)
    assert one["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0]]
    padded = PackingCollator(9, ["a", "b"], row=3)(rows[:2])
    assert padded["input_ids"].tolist() == [[1, 2, 3], [5, 6, 9]]
    assert padded["position_ids"].tolist() == [[0, 1, 2], [0, 1, 0]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def vocabulary(scratch):
    return len(scratch()[1])


def architectures(size):
    torch.manual_seed(0)
    wide = {"vocab_size": size, "intermediate_size": 32, "head_dim": 8, **SHAPE}
    yield LlamaForCausalLM(LlamaConfig(**wide, num_key_value_heads=1))
    yield GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2))
    gemma = Gemma3TextConfig(
        **wide, num_key_value_heads=1, sliding_window=5, final_logit_softcapping=2.0
    )
    gemma.layer_types = ["sliding_attention", "full_attention"]
    yield Gemma3ForCausalLM(gemma)


def gradients(model, batch, **options):
    loss = TargetLoss(model, **options)
    losses, tasks = loss(model, batch)
    model.zero_grad()
    losses.sum().backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    order = torch.argsort(losses.detach())
    return losses.detach()[order], tasks[order], found


def assert_packing_changes_nothing(model, data, row):
    """The losses of all targets, as a set, and every gradient of their sum."""
    rows = [data[i] for i in (0, 1, 5, 45, 50, 80, 84)]
    padded = gradients(model, Collator(0, TASKS)(rows))
    batch = PackingCollator(0, TASKS, row=row)(rows)
    assert len(batch["input_ids"]) < len(rows), "nothing was packed"
    packed = gradients(model, batch)
    torch.testing.assert_close(packed[0], padded[0], atol=1e-5, rtol=0)
    assert packed[1].bincount().tolist() == padded[1].bincount().tolist()
    assert packed[2].keys() == padded[2].keys()
    assert packed[2]
    for name, gradient in padded[2].items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(packed[2][name], gradient, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("row", [40, None], ids=["rows", "one-row"])
def test_the_scratch_model_learns_the_same(scratch, row):
    model, _, data, _ = scratch(dropout=0.0)
    check_packing(model, vocabulary=300)
    assert_packing_changes_nothing(model, data, row)


@pytest.mark.parametrize("index", range(3), ids=["llama", "gpt2", "gemma3-sliding"])
def test_other_architectures_learn_the_same(scratch, index):
    _, tokenizer, data, _ = scratch()
    model = list(architectures(len(tokenizer)))[index].eval()  # dropout off
    check_packing(model, vocabulary=len(tokenizer))
    assert_packing_changes_nothing(model, data, 40)


def test_lora_learns_the_same(scratch, tmp_path):
    base, tokenizer, data, _ = scratch(dropout=0.0)
    save_merged(base, tokenizer, tmp_path)
    model, _ = load_pretrained(str(tmp_path), levels=2, codes=8, rank=4, dropout=0.0)
    check_packing(model, vocabulary=len(tokenizer))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # else nothing would flow to A
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.manual_seed(1))
    assert_packing_changes_nothing(model, data, 40)


def test_a_model_that_mixes_packed_examples_is_refused():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"in this model \(mamba\) an example sees.*packing=false"):
        check_packing(MambaForCausalLM(config), vocabulary=50)


class FlashKernel:
    """Stands in for the flash kernel, as transformers calls it: plain attention, example by example.

    It sees no mask, only where packed examples begin; so it is right only if transformers was given
    position ids from which it can tell.
    """

    def __init__(self):
        self.lengths = []

    def dense(self, q, k, v, **options):
        return self.attend(q, k, v)

    def attend(self, q, k, v):
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # [..., heads, T, D]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-3, -2)

    def varlen(self, q, k, v, *, cu_seqlens_q, cu_seqlens_k, **options):
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
        self.lengths.append(cu_seqlens_q.diff().tolist())
        parts = zip(*(x.split(self.lengths[-1]) for x in (q, k, v)), strict=True)
        return torch.cat([self.attend(*part) for part in parts])


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_flash_attention_is_told_where_examples_begin(scratch, monkeypatch, name):
    model, tokenizer, data, _ = scratch(dropout=0.0)
    if name == "llama":
        model = next(architectures(len(tokenizer)))
    rows = [data[i] for i in (0, 1, 5, 45, 50, 80, 84)]
    expected = gradients(model, Collator(0, TASKS)(rows))

    kernel = FlashKernel()
    functions = (kernel.dense, kernel.varlen, None, None, None), (lambda **_: {}, dict)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _: functions)
    model.config._attn_implementation = "flash_attention_2"
    check_packing(model, vocabulary=len(tokenizer))
    kernel.lengths.clear()
    found = gradients(model, PackingCollator(0, TASKS, row=row_for(model))(rows))
    assert kernel.lengths == [[len(row["input_ids"]) for row in rows]] * 2, "two layers"
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-4, rtol=0)


def test_flash_attention_gets_one_row(scratch):
    model = scratch()[0]
    assert row_for(model) == 64
    with masked_attention(model):
        assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation = partial(setattr, model.config, "_attn_implementation")
    model.set_attn_implementation("flash_attention_2")  # not installed here
    assert row_for(model) is None
    with pytest.raises(ZeroDivisionError), masked_attention(model):
        assert model.config._attn_implementation == "sdpa"
        raise ZeroDivisionError
    assert model.config._attn_implementation == "flash_attention_2"


def test_packed_batches_hold_every_length_and_are_equally_full():
    sizes = np.random.default_rng(0).integers(5, 60, 3000)
    sampler = TokenBudgetSampler(sizes, 1024, seed=1, packing=True)
    batches = list(sampler)
    assert sorted(row for rows in batches for row in rows) == list(range(len(sizes)))
    assert len(batches) == len(sampler)
    tokens = np.array([sizes[rows].sum() for rows in batches])
    assert tokens.max() <= 1024
    assert tokens.min() > 0.8 * tokens.max()
    assert all(np.ptp(sizes[rows]) > 40 for rows in batches)
    sampler.set_epoch(1)
    again = list(sampler)
    assert len(again) == len(batches)
    assert {tuple(sorted(b)) for b in again} != {tuple(sorted(b)) for b in batches}
    shares = [
        list(TokenBudgetSampler(sizes, 1024, seed=1, packing=True, rank=r, processes=2))
        for r in range(2)
    ]
    for rows, *parts in zip(batches, *shares, strict=True):
        assert sorted(row for part in parts for row in part) == sorted(rows)


def test_training_packed_learns_and_wastes_nothing(scratch, tmp_path):
    settings = {"max_steps": 30, "tokens_per_batch": 512, "lr": 1e-2, "log_every": 5}
    settings |= {"eval_every": 30, "metric": "loss", "device": "cpu"}
    summary = train(*scratch(), out=tmp_path, packing=True, **settings)
    log = [line for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert all(len(line["tasks"]) == 3 for line in log), "every batch has every task"
    assert max(line["padding"] for line in log) < 0.15
    assert summary["valid"]["loss"] > 0
