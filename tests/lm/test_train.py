"""Training: loss by hand, log, best checkpoint, early stopping, resume equal to no interruption."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from genrec.lm.callbacks import Average, read_log
from genrec.lm.checkpoints import last_complete_checkpoint
from genrec.lm.conditions import differences, write_conditions
from genrec.lm.train import train

STEPS = 40
SETTINGS = {
    "max_steps": STEPS,
    "tokens_per_batch": 200,
    "lr": 1e-2,
    "eval_every": 12,
    "save_every": 9,
    "log_every": 5,
    "ema": 0.8,
    "metric": "loss",
    "seed": 5,
    "device": "cpu",
}


class Killed(Exception):
    """Stands in for a kill between two steps."""


def killer(step):
    def progress(name, done, total):
        assert (name, total) == ("train", STEPS)
        if done == step:
            raise Killed

    return progress


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=0)


def log_of(out):
    lines = read_log(out / "log.jsonl")
    for line in lines:
        for name in ("tokens_per_second", "memory_gb"):
            line.pop(name, None)
    return lines


@pytest.fixture(scope="module")
def undisturbed(scratch, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    model, *rest = scratch()
    summary = train(model, *rest, out=out, **SETTINGS)
    return summary, weights(model), log_of(out)


def test_it_learns_and_says_so(undisturbed, scratch):
    summary, _, log = undisturbed
    assert summary["steps"] == STEPS
    assert not summary["stopped_early"]
    assert (
        summary["parameters"]
        == summary["trainable"]
        == sum(p.numel() for p in scratch()[0].parameters())
    )
    steps = [line for line in log if "loss" in line]
    assert steps[-1]["loss"] < 0.6 * steps[0]["loss"]
    validations = {line["step"]: line["valid"]["loss"] for line in log if "valid" in line}
    assert list(validations) == [12, 24, 36, 40]
    assert summary["best_step"] == min(validations, key=validations.get)
    assert summary["valid"] == {"loss": min(validations.values())}


def test_the_log_has_one_line_per_step_and_the_loss_of_each_task(undisturbed):
    _, _, log = undisturbed
    lines = [line for line in log if "loss" in line]
    # Every 5 steps, and wherever a checkpoint (9) or a validation (12) stands.
    expected = {*range(5, 41, 5), *range(9, 41, 9), *range(12, 41, 12)}
    assert [line["step"] for line in lines] == sorted(expected)
    for line in lines:
        assert set(line["tasks"]) <= {"history_to_sid", "title_to_sid", "sid_to_title"}
        assert set(line["shares"]) == set(line["tasks"])
        assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-5)
        assert min(line["tasks"].values()) <= line["loss"] * 1.3
        assert 0 <= line["padding"] < 0.6
        assert line["lr"] > 0
    peak = max(line["lr"] for line in lines)
    assert peak == pytest.approx(1e-2, rel=0.05)
    assert lines[-1]["lr"] < 0.02 * peak


@pytest.mark.parametrize("step", [7, 20, 39], ids=["no-checkpoint", "mid-epoch", "near-the-end"])
def test_a_resumed_run_equals_an_undisturbed_one(undisturbed, scratch, tmp_path, step):
    with pytest.raises(Killed):
        train(*scratch(), out=tmp_path, progress=killer(step), **SETTINGS)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # killed while writing
    model, *rest = scratch()
    assert train(model, *rest, out=tmp_path, **SETTINGS) == undisturbed[0]
    assert_same(undisturbed[1], weights(model))
    assert log_of(tmp_path) == undisturbed[2]


def test_a_half_written_checkpoint_is_skipped(undisturbed, scratch, tmp_path):
    with pytest.raises(Killed):
        train(*scratch(), out=tmp_path, progress=killer(26), **SETTINGS)
    newest = last_complete_checkpoint(tmp_path)
    assert newest.name == "checkpoint-24"
    state = newest / "trainer_state.json"
    state.write_text(state.read_text()[:-20])
    model, *rest = scratch()
    steps = []
    train(
        model,
        *rest,
        out=tmp_path,
        progress=lambda name, done, total: steps.append(done),
        **SETTINGS,
    )
    assert steps[0] == 19, "from the checkpoint before"
    assert_same(undisturbed[1], weights(model))


def test_an_unfinished_checkpoint_is_removed(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "model.safetensors").touch()
    assert last_complete_checkpoint(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_finished_run_only_loads_its_best_weights(undisturbed, scratch, tmp_path):
    model, *rest = scratch()
    train(model, *rest, out=tmp_path, **SETTINGS)
    again, *rest = scratch()
    summary = train(again, *rest, out=tmp_path, progress=killer(1), **SETTINGS)
    assert summary == undisturbed[0]
    assert_same(weights(model), weights(again))
    assert log_of(tmp_path) == undisturbed[2]


CHILD = """
import json, sys, time
from pathlib import Path
from datasets import load_from_disk
from genrec.lm.model import build_scratch
from genrec.lm.conditions import differences, write_conditions
from genrec.lm.train import train

folder = Path(sys.argv[1])
given = json.loads((folder / "given.json").read_text())
model, tokenizer = build_scratch(**given["model"])
data = [load_from_disk(folder / name) for name in ("train", "valid")]
slow = lambda *_: time.sleep(0.02)
train(model, tokenizer, *data, out=folder / "out", progress=slow, **given["settings"])
"""


def test_sigkill_is_survived(undisturbed, scratch, size, tmp_path):
    """The same in a process of its own, killed by the kernel at whatever it is doing."""
    model, tokenizer, train_data, valid_data = scratch()
    train_data.save_to_disk(tmp_path / "train")
    valid_data.save_to_disk(tmp_path / "valid")
    (tmp_path / "given.json").write_text(json.dumps({"model": size, "settings": SETTINGS}))
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)])
    out = tmp_path / "out"
    while not list(out.glob("checkpoint-*/trainer_state.json")):
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    time.sleep(0.2)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert train(model, tokenizer, train_data, valid_data, out=out, **SETTINGS) == undisturbed[0]
    assert_same(undisturbed[1], weights(model))
    assert log_of(out) == undisturbed[2]


def scripted(values, snapshots=None):
    """A validation that returns given recalls, one per call, and notes the weights it saw."""
    values = iter(values)

    def validate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        if snapshots is not None:
            snapshots.append(weights(model))
        return {"recall@10": next(values)}

    return validate


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_best_validated_weights_are_kept(scratch, tmp_path, ema):
    seen = []
    model, *rest = scratch()
    validate = scripted([0.1, 0.3, 0.2, 0.3], seen)
    settings = SETTINGS | {"metric": "recall@10", "ema": ema}
    summary = train(model, *rest, out=tmp_path, validate=validate, **settings)
    assert summary["best_step"] == 24, "a tie does not replace the earlier one"
    assert summary["valid"]["recall@10"] == 0.3
    assert_same(seen[1], weights(model))
    assert any((seen[1][n] - seen[3][n]).abs().max() > 1e-3 for n in seen[1])
    assert not model.training


def test_early_stopping_and_its_count_survive_a_kill(scratch, tmp_path):
    recalls = [0.1, 0.5, 0.4, 0.4, 0.9]
    settings = SETTINGS | {"metric": "recall@10", "eval_every": 6, "patience": 2}
    whole, *rest = scratch()
    expected = train(whole, *rest, out=tmp_path / "a", validate=scripted(recalls), **settings)
    assert expected["stopped_early"]
    assert (expected["steps"], expected["best_step"]) == (24, 12)

    with pytest.raises(Killed):  # after the first validation without a gain
        train(
            *scratch(),
            out=tmp_path / "b",
            validate=scripted(recalls),
            progress=killer(20),
            **settings,
        )
    model, *rest = scratch()
    validate = scripted(recalls[3:])
    assert train(model, *rest, out=tmp_path / "b", validate=validate, **settings) == expected
    assert_same(weights(whole), weights(model))
    # And a run that had stopped stays so.
    assert train(model, *rest, out=tmp_path / "b", validate=scripted([]), **settings) == expected


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_completions(scratch, tmp_path, smoothing):
    """Against log-softmax by hand over every target of the only batch."""
    model, tokenizer, data, valid = scratch(dropout=0.0)
    data = data.select([0, 45, 80])  # one example of each task
    start = {n: p.clone() for n, p in weights(model).items()}
    settings = SETTINGS | {"max_steps": 1, "log_every": 1, "label_smoothing": smoothing, "ema": 0.0}
    train(model, tokenizer, data, valid, out=tmp_path, **settings)
    (line,) = [line for line in log_of(tmp_path) if "loss" in line]

    for name, parameter in model.named_parameters():
        parameter.data = start[name]
    by_task = {}
    for row in data:
        scores = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                hit, spread = scores[position, label], scores[position].mean()
                loss = -(1 - smoothing) * hit - smoothing * spread
                by_task.setdefault(row["task"], []).append(loss.item())
    assert line["tasks"] == {
        task: pytest.approx(sum(losses) / len(losses), rel=1e-5) for task, losses in by_task.items()
    }
    every = [loss for losses in by_task.values() for loss in losses]
    assert line["shares"] == {
        task: pytest.approx(sum(losses) / sum(every), abs=1e-5) for task, losses in by_task.items()
    }
    assert (tmp_path / "losses.png").read_bytes()[:4] == b"\x89PNG"
    assert line["loss"] == pytest.approx(sum(every) / len(every), rel=1e-5)


def test_prompts_get_no_loss(scratch):
    """Changing a prompt's labels changes nothing, because they are -100 to begin with."""
    _, _, data, _ = scratch()
    for row in data:
        targets = [label for label in row["labels"] if label != -100]
        assert targets == row["input_ids"][-len(targets) :]
        assert len(targets) < row["length"]


def test_one_cycle_rises_and_falls(scratch, tmp_path):
    settings = SETTINGS | {"scheduler": "one-cycle", "warmup": 0.3, "log_every": 1, "ema": 0.0}
    train(*scratch(), out=tmp_path, **settings)
    rates = [line["lr"] for line in log_of(tmp_path) if "lr" in line]
    peak = rates.index(max(rates))
    assert 10 <= peak <= 13, "0.3 of 40 steps"
    assert max(rates) == pytest.approx(1e-2, rel=1e-2)
    assert rates[0] == pytest.approx(1e-2 / 25, rel=0.5)
    assert rates[-1] < 1e-4


def test_one_cycle_may_rise_for_one_step(scratch, tmp_path):
    """Of nine steps and the one after them a tenth: torch's own schedule divides by zero there."""
    settings = SETTINGS | {"scheduler": "one-cycle", "warmup": 0.1, "log_every": 1, "ema": 0.0}
    train(*scratch(), out=tmp_path, **settings | {"max_steps": 9})
    rates = [line["lr"] for line in log_of(tmp_path) if "lr" in line]
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[1] == pytest.approx(1e-2, rel=0.05)


def test_the_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = Average(model, 0.5, resume=None)
    state = type("State", (), {"global_step": 0})()
    average.on_train_begin(None, state, None)
    for state.global_step, value in ((1, 1.0), (2, 2.0), (20, 4.0)):
        model.weight.data.fill_(value)
        average.on_step_end(None, state, None)
    # decay min(0.5, (1 + s) / (10 + s)): 2/11, 3/12, then 0.5.
    first = 0.0 * 2 / 11 + 1.0 * 9 / 11
    second = first * 3 / 12 + 2.0 * 9 / 12
    third = second * 0.5 + 4.0 * 0.5
    with average.applied():
        assert model.weight.item() == pytest.approx(third, rel=1e-6)
    assert model.weight.item() == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "recall@10"}, "needs validate"),
        ({"epochs": 1.0}, "give epochs or max_steps"),
        ({"device": "cuda:3"}, "CUDA_VISIBLE_DEVICES"),
        (
            {"metric": "ndcg", "validate": lambda model: {"recall": 0.1}},
            r"'ndcg'.*\['loss', 'recall'\]",
        ),
    ],
)
def test_bad_arguments_say_how_to_mend(scratch, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(*scratch(), out=tmp_path, **SETTINGS | changes)


def test_no_examples_is_an_error(scratch, tmp_path):
    model, tokenizer, data, valid = scratch()
    with pytest.raises(ValueError, match="no validation examples"):
        train(model, tokenizer, data, valid.select([]), out=tmp_path, **SETTINGS)


def begun(scratch, out):
    """Kills a run two steps after its checkpoint at step 18."""
    with pytest.raises(Killed):
        train(*scratch(), out=out, progress=killer(20), noted={"batch_size": 8}, **SETTINGS)


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.msg.startswith("train:")]


def test_going_on_under_the_same_conditions_says_nothing(scratch, tmp_path, caplog):
    begun(scratch, tmp_path)
    train(*scratch(), out=tmp_path, noted={"batch_size": 8}, **SETTINGS)
    train(*scratch(), out=tmp_path, **SETTINGS | {"tokens_per_batch": 300})
    assert said(caplog) == [], "and a finished run is only opened"


def test_going_on_under_other_conditions_says_each(scratch, tmp_path, caplog, monkeypatch):
    """Settings, threads, libraries: key by key, old -> new, once, with the way out."""
    monkeypatch.setattr("genrec.lm.conditions._LIBRARIES", ("torch", "peft"))
    monkeypatch.setattr("genrec.lm.conditions.version", lambda name: f"{name}-old")
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    begun(scratch, tmp_path)
    monkeypatch.setattr("genrec.lm.conditions.version", lambda name: f"{name}-new")
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    other = SETTINGS | {"tokens_per_batch": 300, "lr": 2e-2}
    train(*scratch(), out=tmp_path, noted={"batch_size": 2}, **other)
    (message,) = said(caplog)
    changes = (
        "tokens_per_batch: 200 -> 300; lr: 0.01 -> 0.02; batch_size: 8 -> 2; threads: 4 -> 1; "
        "torch: torch-old -> torch-new; peft: peft-old -> peft-new"
    )
    assert f"{tmp_path / 'checkpoint-18'} under other conditions" in message
    assert f"without a break: {changes} (checkpoint -> now). Remove {tmp_path} to" in message


def test_a_checkpoint_without_conditions_is_said_to_have_none(scratch, tmp_path, caplog):
    with pytest.raises(Killed):
        train(*scratch(), out=tmp_path, progress=killer(20), **SETTINGS)
    for file in tmp_path.glob("checkpoint-*/conditions.json"):
        file.unlink()
    train(*scratch(), out=tmp_path, **SETTINGS)
    assert "checkpoint-18 does not say under what settings" in caplog.text


def test_what_came_and_what_went_counts_too(tmp_path):
    write_conditions(tmp_path, {"processes": 1, "bitsandbytes": "0.48"})
    found = differences(tmp_path, {"processes": 2, "deepspeed": "0.17"})
    assert found == [
        "processes: 1 -> 2",
        "deepspeed: not set -> 0.17",
        "bitsandbytes: 0.48 -> not set",
    ]
    (tmp_path / "conditions.json").write_text("{")
    with pytest.raises(ValueError, match=r"conditions\.json: not JSON.*remove it"):
        differences(tmp_path, {})
