"""In which precision training multiplies: what is asked for, and what `auto` sees to be faster."""

import json

import pytest
import torch

from genrec.lm import precision
from genrec.lm.precision import in_bfloat16, speed_of_bfloat16


@pytest.fixture
def models(scratch):
    """One that is trained whole, and one of which a part is frozen."""
    whole, frozen = scratch()[0], scratch()[0]
    frozen.get_input_embeddings().weight.requires_grad_(False)
    return whole, frozen


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, True), (1.2, False), (0.3, False)])
def test_auto_takes_what_is_faster_where_a_part_is_frozen(models, monkeypatch, gain, chosen):
    monkeypatch.setattr(precision, "speed_of_bfloat16", lambda width: gain)
    whole, frozen = models
    assert in_bfloat16(frozen, "auto", device="cpu") is chosen
    assert not in_bfloat16(whole, "auto", device="cpu")


def test_several_processes_never_measure_each_for_itself(models, monkeypatch):
    monkeypatch.setattr(precision, "speed_of_bfloat16", lambda width: 2.0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not in_bfloat16(models[1], "auto", device="cpu")
    assert in_bfloat16(models[1], "bfloat16", device="cpu")


def test_a_gpu_without_it_is_told(models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert not in_bfloat16(models[0], "auto", device="cuda")
    with pytest.raises(ValueError, match=r"this GPU has none; take auto or float32"):
        in_bfloat16(models[0], "bfloat16", device="cuda")


def test_the_measure_is_of_real_products():
    """Of a float32 that is as fast as itself, and so never of none at all."""
    assert 0.01 < speed_of_bfloat16(64) < 100


def test_training_multiplies_in_what_was_asked_for(scratch, tmp_path):
    """Weights stay float32, and the loss is that of float32 to what bfloat16 rounds."""
    from genrec.lm.train import train

    losses = {}
    for asked in ("float32", "bfloat16"):
        model, *rest = scratch()
        train(
            model,
            *rest,
            out=tmp_path / asked,
            max_steps=2,
            precision=asked,
            eval_every=2,
            metric="loss",
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        lines = (tmp_path / asked / "log.jsonl").read_text().splitlines()
        losses[asked] = next(r["valid"]["loss"] for r in map(json.loads, lines) if "valid" in r)
        assert model(torch.tensor([[1, 2]])).logits.dtype == torch.float32
        assert not hasattr(model, "_original_forward"), "afterwards it multiplies as it did before"
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
