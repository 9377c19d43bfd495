"""Adapters through a whole training: killed and resumed, saved, reloaded, merged; every kind of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from genrec.lm.adapters import _dequantized, attach, save_adapter
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
