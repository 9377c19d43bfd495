"""Adapters through a whole training: killed and resumed, saved, reloaded, merged; every kind of them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from genrec.lm.adapters import _dequantized, attach, rows_alone, save_adapter
from genrec.lm.batch import code_token_ids
from genrec.lm.callbacks import read_log
from genrec.lm.model import load_adapter, load_pretrained, save_merged
from genrec.lm.train import train

SETTINGS = {
    "max_steps": 18,
    "tokens_per_batch": 200,
    "lr": 1e-2,
    "eval_every": 9,
    "save_every": 4,
    "ema": 0.8,
    "log_every": 1,
    "metric": "loss",
    "seed": 5,
    "device": "cpu",
}
SIDS = {"levels": 2, "codes": 8}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "qlora": {"tune": "qlora"},
    "lora over bfloat16": {"dtype": torch.bfloat16},
}


class Killed(Exception):
    """Stands in for a kill between two steps."""


def kill(name: str, done: int, total: int) -> None:
    if done == 11:  # in the middle of the second epoch, three steps after the last checkpoint
        raise Killed


@dataclass
class Trained:
    """A model that was trained without a break, and what it takes to make it again."""

    options: dict[str, Any]
    base: str
    data: tuple[Any, ...]  # tokenizer, train, valid
    out: Path
    model: Any = None
    summary: dict[str, Any] = field(default_factory=dict)

    def fresh(self) -> Any:
        return load_pretrained(self.base, rank=4, alpha=8, device="cpu", **SIDS, **self.options)[0]

    @property
    def kept(self) -> dict[str, Any]:
        """The options that a saved adapter needs to find its base again."""
        return {name: self.options[name] for name in ("tune", "dtype") if name in self.options}


@pytest.fixture(scope="module")
def base(scratch, tmp_path_factory):
    """Wide enough for the blocks of 4-bit weights."""
    folder = tmp_path_factory.mktemp("base")
    model, *data = scratch(hidden=192, layers=1)
    save_merged(model, data[0], folder)
    return str(folder), tuple(data)


@pytest.fixture(scope="module", params=KINDS)
def trained(request, base, tmp_path_factory):
    if request.param == "qlora":
        pytest.importorskip("bitsandbytes", reason="4-bit weights need the qlora extra")
    found = Trained(KINDS[request.param], *base, tmp_path_factory.mktemp("trained"))
    found.model = found.fresh()
    found.summary = train(found.model, *found.data, out=found.out, **SETTINGS)
    return found


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of every token of the vocabulary, SIDs too."""
    return model.eval()(input_ids=torch.arange(316)[None]).logits.float()


def test_only_the_adapter_learns_and_in_float32(trained):
    found = losses(trained.out)
    assert sum(found[-3:]) < 0.9 * sum(found[:3])
    assert trained.summary["trainable"] < 0.2 * trained.summary["parameters"]
    learnt = {p.dtype for p in trained.model.parameters() if p.requires_grad}
    assert learnt == {torch.float32}, "small steps are lost in bfloat16"
    start = dict(trained.fresh().named_parameters())
    for name, parameter in trained.model.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, start[name]), name
            if trained.options.get("dtype"):
                assert parameter.dtype == torch.bfloat16, name


def test_a_resumed_adapter_equals_an_undisturbed_one(trained, tmp_path):
    """Not a bit differs, 4-bit bases too: they are rounded anew, from the same weights."""
    with pytest.raises(Killed):
        train(trained.fresh(), *trained.data, out=tmp_path, progress=kill, **SETTINGS)
    steps: list[int] = []
    options = SETTINGS | {"progress": lambda name, done, total: steps.append(done)}
    model = trained.fresh()
    assert train(model, *trained.data, out=tmp_path, **options) == trained.summary
    assert steps[0] > 8, "it went on"
    assert losses(tmp_path) == losses(trained.out)
    for (name, one), other in zip(
        trained.model.named_parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_saved_reloaded_and_merged_give_the_same_logits(trained, tmp_path):
    """To the last bit where the adapter stays one, on a 4-bit base written out in fp32 too.

    Merging adds in another order (1e-5 in fp32, the base of which is no longer in 4 bits), and over
    bfloat16 it rounds every weight to eight bits.
    """
    expected = logits(trained.model)
    save_adapter(trained.model, tmp_path / "adapter")
    given = {"device": "cpu", **SIDS, **trained.kept}
    again, _ = load_adapter(trained.base, tmp_path / "adapter", **given)
    assert torch.equal(logits(again), expected)

    if trained.options.get("tune") == "qlora":
        assert torch.equal(logits(_dequantized(again)), expected)
        again, _ = load_adapter(trained.base, tmp_path / "adapter", **given)
    dtype = trained.options.get("dtype", torch.float32)
    save_merged(again, trained.data[0], tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == dtype
    off = (logits(merged) - expected).abs().max() / expected.abs().max()
    assert off < (1e-5 if dtype == torch.float32 else 2**-6)


@pytest.mark.parametrize("trained", ["qlora"], indirect=True)
def test_an_adapter_of_4_bits_says_other_things_on_the_whole_base(trained, tmp_path):
    save_adapter(trained.model, tmp_path)
    whole = attach(AutoModelForCausalLM.from_pretrained(trained.base), tmp_path)
    expected = logits(trained.model)
    off = (logits(whole) - expected).abs().max() / expected.abs().max()
    assert off > 1e-2, "so its model card loads the base in 4 bits"


FIRST = {**SETTINGS, "max_steps": 12}
TUNED: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora over an untied head": {"use_dora": True},
    "full": {"tune": "full"},
    "full with an untied head": {"tune": "full"},
}


@pytest.fixture(params=TUNED)
def two_stages(request, base, scratch, tmp_path_factory):
    """Returns a function that makes the same model anew, and the rows of its SID tokens."""
    folder, data = base
    if "untied" in request.param:
        model, *_ = scratch(hidden=64, layers=1)
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 0.9)
        folder = str(tmp_path_factory.mktemp("untied"))
        save_merged(model, data[0], folder)
    rows = np.concatenate(code_token_ids(data[0], [8, 8])).tolist()

    def fresh():
        return load_pretrained(folder, rank=4, device="cpu", **SIDS, **TUNED[request.param])[0]

    return fresh, rows, data


def vocabulary(model: Any) -> list[torch.Tensor]:
    """The input's and the output's rows, as the model computes with them."""
    whole = save_copy(model)
    return [whole.get_input_embeddings().weight, whole.get_output_embeddings().weight]


def save_copy(model: Any) -> Any:
    model = copy.deepcopy(model)
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def test_rows_alone_train_nothing_else_and_leave_the_model_ready(two_stages, tmp_path):
    fresh, rows, data = two_stages
    model, start = fresh(), fresh()
    flags = {name: p.requires_grad for name, p in start.named_parameters()}
    with rows_alone(model, rows) as alone:
        summary = train(alone, *data, out=tmp_path, **FIRST)
        trained = [p for p in alone.parameters() if p.requires_grad]
        assert all(p.grad is None for p in alone.parameters() if not p.requires_grad)
    matrices = 1 if model.config.tie_word_embeddings else 2
    assert len(trained) == matrices
    assert summary["trainable"] == len(rows) * model.config.hidden_size * matrices
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert not summary["stopped_early"]
    others = np.setdiff1d(np.arange(316), rows)
    for before, after in zip(vocabulary(start), vocabulary(model), strict=True):
        assert torch.equal(before[others], after[others])
        assert (before[rows] - after[rows]).abs().max() > 1e-3
    was = dict(save_copy(start).named_parameters())
    for name, parameter in save_copy(model).named_parameters():
        if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
            torch.testing.assert_close(parameter, was[name], rtol=0, atol=1e-6)
    # And the second stage begins where the first one ended.
    expected = logits(model)
    train(model, *data, out=tmp_path / "second", **{**FIRST, "lr": 1e-30, "ema": 0.0})
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-6)


def test_a_second_stage_is_the_same_after_a_first_that_was_only_opened(two_stages, tmp_path):
    """As a killed run begins again: the first stage's best weights come from its checkpoint."""
    fresh, rows, data = two_stages
    found = []
    for out in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        model = fresh()
        with rows_alone(model, rows) as alone:
            if out.name == "b":
                with pytest.raises(Killed):
                    train(alone, *data, out=out / "rows", progress=kill, **FIRST)
            first = train(alone, *data, out=out / "rows", **FIRST)
        second = out / f"second-{len(found)}"
        found.append((first, train(model, *data, out=second, **SETTINGS), losses(second)))
        found[-1] += ([p.detach().clone() for p in model.parameters()],)
    for other in found[1:]:
        assert other[:3] == found[0][:3]
        assert all(map(torch.equal, found[0][3], other[3]))


def test_rows_have_a_rate_of_their_own(base, tmp_path):
    """AdamW's first step is the rate itself, whatever the gradient: also by OneCycleLR."""
    folder, data = base
    given = {**SETTINGS, "max_steps": 1, "warmup": 0.0, "weight_decay": 0.0, "ema": 0.0}
    for scheduler in ("constant_with_warmup", "one-cycle"):
        model = load_pretrained(folder, rank=4, dropout=0.0, device="cpu", **SIDS)[0]
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        options = given | {"lr": 1e-4, "lr_rows": 3e-3, "scheduler": scheduler}
        train(model, *data, out=tmp_path / scheduler, **options)
        moved = {n: (p - start[n]).abs().max().item() for n, p in model.named_parameters()}
        rows = max(by for name, by in moved.items() if "trainable_tokens" in name)
        rest = max(by for name, by in moved.items() if "lora_B" in name)
        assert rows / rest == pytest.approx(30, rel=1e-2)
        if scheduler != "one-cycle":
            assert rest == pytest.approx(1e-4, rel=1e-2)


def test_a_rate_of_rows_that_are_not_apart_is_refused(base, tmp_path):
    folder, data = base
    model = load_pretrained(folder, tune="full", device="cpu", **SIDS)[0]
    with pytest.raises(ValueError, match=r"lr_rows=0\.1: this model has no SID rows"):
        train(model, *data, out=tmp_path, **SETTINGS, lr_rows=0.1)
