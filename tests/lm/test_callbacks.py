"""Trackers by name, memory in the log, and optimizers by name: what rides along with Trainer."""

import math

import pytest
import torch

from genrec.lm.callbacks import peak_memory, read_log, trackers
from genrec.lm.model import load_pretrained, save_merged
from genrec.lm.train import check_optimizer, train

SETTINGS = {
    "max_steps": 12,
    "tokens_per_batch": 200,
    "lr": 1e-2,
    "eval_every": 6,
    "save_every": 4,
    "log_every": 3,
    "ema": 0.8,
    "metric": "loss",
    "seed": 5,
    "device": "cpu",
}


class Killed(Exception):
    """Stands in for a kill between two steps."""


def test_tensorboard_gets_every_number_of_the_log(scratch, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with_tracker, *rest = scratch()
    places = {"out": tmp_path / "out", "track": ["tensorboard"], "track_in": tmp_path / "runs"}
    train(with_tracker, *rest, **places, **SETTINGS)
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    names = set(events.Tags()["scalars"])
    assert names >= {
        *("train/loss", "train/tasks/history_to_sid", "train/shares/title_to_sid"),
        *("train/tokens_per_second", "train/padding", "train/memory_gb", "eval/loss"),
    }
    log = read_log(tmp_path / "out" / "log.jsonl")
    told = {event.step: event.value for event in events.Scalars("train/tasks/title_to_sid")}
    wanted = {
        n["step"]: n["tasks"]["title_to_sid"] for n in log if "title_to_sid" in n.get("tasks", {})
    }
    assert told == pytest.approx(wanted, rel=1e-5)
    assert not (tmp_path / "out" / "runs").exists()

    without, *rest = scratch()
    train(without, *rest, out=tmp_path / "plain", **SETTINGS)
    for a, b in zip(with_tracker.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b), "watching changes nothing"


def test_no_tracker_by_default(scratch, tmp_path):
    assert trackers([], tmp_path) == []
    train(*scratch(), out=tmp_path, **SETTINGS)
    assert {path.suffix for path in tmp_path.iterdir()} == {".jsonl", ".png", ""}
    assert all(path.name.startswith("checkpoint-") for path in tmp_path.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tensorbord", ValueError, r"trackers=\['tensorbord'\]: .*tensorboard, trackio, wandb"),
        ("all", ValueError, "name each"),
        ("wandb", ImportError, r"trackers=\['wandb'\]: .*pip install wandb"),
        ("trackio", ImportError, "pip install trackio"),
    ],
)
def test_a_tracker_that_is_not_there_is_named(tmp_path, name, error, message):
    if error is ImportError:
        with pytest.raises(ImportError):
            __import__(name)  # the environment has it: nothing to show
    with pytest.raises(error, match=message):
        trackers([name], tmp_path)


def test_memory_is_the_peak_of_the_process():
    before = peak_memory(torch.device("cpu"))["memory_gb"]
    big = torch.ones(int((before + 0.25) * 2.5e8))  # as much as the peak so far, and 0.25 GB more
    after = peak_memory(torch.device("cpu"))["memory_gb"]
    assert after >= before + 0.2
    del big
    assert peak_memory(torch.device("cpu"))["memory_gb"] == after
    assert "gpu_memory_gb" not in peak_memory(torch.device("cpu"))


def dtypes(state):
    """Those of all tensors in a nest of mappings."""
    if torch.is_tensor(state):
        return {state.dtype}
    parts = state.values() if isinstance(state, dict) else []
    return {dtype for part in parts for dtype in dtypes(part)}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "adamw_8bit", "lion_8bit"])
def test_every_optimizer_learns_and_resumes(scratch, tmp_path, optimizer):
    """8-bit states on a CPU too; a killed run goes on as if it had not been."""

    def stop(name, done, total):
        if done == 10:
            raise Killed

    # The states of small tensors stay in 32 bits: from 4,096 numbers on they are in 8.
    settings = SETTINGS | {"optimizer": optimizer, "lr": 2e-3 if optimizer == "lion_8bit" else 1e-2}
    whole, *rest = scratch(hidden=64)
    expected = train(whole, *rest, out=tmp_path / "a", **settings)
    loss = [line["loss"] for line in read_log(tmp_path / "a" / "log.jsonl") if "loss" in line]
    assert loss[-1] < 0.95 * loss[0]
    with pytest.raises(Killed):
        train(*scratch(hidden=64), out=tmp_path / "b", progress=stop, **settings)
    saved = torch.load(tmp_path / "b/checkpoint-8/optimizer.pt", weights_only=True)
    assert (torch.uint8 in dtypes(saved["state"])) == optimizer.endswith("8bit")
    again, *rest = scratch(hidden=64)
    assert train(again, *rest, out=tmp_path / "b", **settings) == expected
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_an_optimizer_that_cannot_run_here_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"paged_adamw_8bit: pages.*take adamw_8bit"):
        check_optimizer("paged_adamw_8bit", cuda=False)
    check_optimizer("paged_adamw_8bit", cuda=True)
    monkeypatch.setattr("genrec.lm.train.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"adamw_8bit needs bitsandbytes: pip install .*\[qlora\]"
    ):
        check_optimizer("adamw_8bit", cuda=False)
    check_optimizer("adamw_torch", cuda=False)


def test_the_peak_is_in_the_log(scratch, tmp_path):
    train(*scratch(), out=tmp_path, **SETTINGS)
    peaks = [line["memory_gb"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert peaks == sorted(peaks)
    assert 0.1 < peaks[0] < 100
    assert not any(math.isnan(peak) for peak in peaks)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_layers_computed_again_learn_the_same(scratch, tmp_path, tune):
    """Gradient checkpointing: the same losses, dropout included, from twice as many passes."""
    base, tokenizer, *data = scratch(dropout=0.1)
    save_merged(base, tokenizer, tmp_path / "base")
    losses, calls = {}, {}
    for again in (False, True):
        size = {"levels": 2, "codes": 8, "tune": tune, "dropout": 0.1}
        model, _ = load_pretrained(str(tmp_path / "base"), **size)
        seen = calls[again] = []
        first = next(m for name, m in model.named_modules() if name.endswith("layers.0.mlp"))
        first.register_forward_pre_hook(lambda m, _, seen=seen: seen.append(m.training))
        out = tmp_path / str(again)
        train(model, tokenizer, *data, out=out, gradient_checkpointing=again, **SETTINGS)
        losses[again] = [n["loss"] for n in read_log(out / "log.jsonl") if "loss" in n]
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)
    assert sum(calls[True]) == 2 * sum(calls[False]) == 2 * SETTINGS["max_steps"]
