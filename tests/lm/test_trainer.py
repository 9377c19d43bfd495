"""What stops a training: a loss that is not finite, with the batch that shows why. And its precision."""

import json

import pytest
import torch
from transformers import TrainingArguments

from genrec.lm import train as training
from genrec.lm.batch import IGNORED
from genrec.lm.train import train

SETTINGS = {"max_steps": 20, "tokens_per_batch": 200, "log_every": 5, "eval_every": 20}
SETTINGS |= {"metric": "loss", "device": "cpu", "seed": 5}


def stopped(arguments, out, **changes):
    with pytest.raises(FloatingPointError) as caught:
        train(*arguments, out=out, **SETTINGS | changes)
    (path,) = out.glob("not-finite-*.json")
    assert str(path) in str(caught.value)
    return str(caught.value), json.loads(path.read_text())


@pytest.mark.parametrize("packing", [False, True])
def test_a_loss_that_is_not_finite_stops_with_its_batch(scratch, tmp_path, packing):
    model, tokenizer, data, valid = scratch(dropout=0.0)
    bad = tokenizer.convert_tokens_to_ids("<a_2>")

    def break_rows(module, inputs, output):
        output[inputs[0] == bad] = float("nan")
        return output

    hit = [bad in row["input_ids"] for row in data]
    assert 0.02 < sum(hit) / len(hit) < 0.5
    model.get_input_embeddings().register_forward_hook(break_rows)
    message, found = stopped((model, tokenizer, data, valid), tmp_path, packing=packing)
    assert f"the training loss is nan at step {found['step']}: " in message
    assert "Lower train.lr or raise train.warmup" in message
    losses = [loss for row in found["batch"] for loss in row["losses"]]
    missing = losses.count(None)
    assert f"{missing} of {len(losses)} targets" in message
    # A packed row is lost whole: nothing times what is not finite is not finite.
    assert 0 < missing <= len(losses) - (not packing), "others are fine, so it is the data"
    assert any(bad in row["input_ids"] for row in found["batch"])
    for row in found["batch"]:
        assert len(row["input_ids"]) == len(row["labels"])
        assert tokenizer.decode(row["input_ids"]) == row["text"]
        assert len(row["losses"]) == sum(label != IGNORED for label in row["labels"][1:])
        assert row["input_ids"][0] == tokenizer.bos_token_id
        assert packing or (None in row["losses"]) <= (bad in row["input_ids"])
    before = found["batch_before"]
    assert bool(before) == (found["step"] > 1)
    assert all(bad not in row["input_ids"] for row in before)


def test_broken_weights_break_every_row(scratch, tmp_path):
    model, *rest = scratch()
    model.model.norm.weight.data.fill_(float("nan"))
    message, found = stopped((model, *rest), tmp_path)
    assert "is nan at step 1:" in message
    assert {loss for row in found["batch"] for loss in row["losses"]} == {None}
    assert found["batch_before"] == []


def test_a_rate_that_is_far_too_high_is_caught_with_the_batch_before(scratch, tmp_path):
    model, *rest = scratch(dropout=0.0)
    changes = {"lr": 1e30, "scheduler": "constant_with_warmup", "warmup": 0.0, "max_grad_norm": 0.0}
    _, found = stopped((model, *rest), tmp_path, **changes)
    assert found["step"] > 1
    assert found["batch_before"]
    assert torch.isfinite(torch.tensor([len(row["labels"]) for row in found["batch"]])).all()


def test_blocks_of_logits_have_the_precision_of_the_rest(scratch, tmp_path, monkeypatch):
    def bfloat16(**given):
        return TrainingArguments(**given | {"bf16": True})

    monkeypatch.setattr(training, "TrainingArguments", bfloat16)
    model, *rest = scratch()
    made = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, logits: made.append((len(logits), logits.dtype)))
    settings = SETTINGS | {"max_steps": 2, "max_logits": 4 * model.config.vocab_size}
    train(model, *rest, out=tmp_path, **settings)
    assert {dtype for _, dtype in made} == {torch.bfloat16}
    assert {1, 4} <= {rows for rows, _ in made}, "in the model, and in blocks outside of it"
