"""One pass per user is prefix expansion: same logits at the same targets, same gradient.

The stated weighting: a step's loss is the mean over its target *tokens*, in either form. So where both
have the same targets (histories of at most max_history + 1 items) their gradients are equal as they
are; beyond it they differ in what comes before a target, which the last tests pin down.
"""

import numpy as np
import polars as pl
import pytest
import torch

from genrec import schema
from genrec.lm.batch import IGNORED, code_token_ids
from genrec.lm.compose import compose
from genrec.lm.corpus import encode_examples
from genrec.lm.loss import TargetLoss
from genrec.lm.model import load_pretrained, save_merged
from genrec.lm.sampler import Collator
from genrec.lm.tasks import Corpus

USERS = (2, 3, 5, 9)  # items of each


@pytest.fixture(scope="module")
def shop(corpus):
    rng = np.random.default_rng(3)
    rows = [
        {"user": user, "history": items[:-1], "target": items[-1]}
        for user, items in enumerate(rng.permutation(30)[:count].tolist() for count in USERS)
    ]
    table = pl.DataFrame(rows, schema=dict(schema.SPLIT))
    return Corpus(corpus.items, corpus.sids, table, table)


@pytest.fixture(scope="module", params=["scratch", "lora"])
def model(request, scratch, tmp_path_factory):
    made, tokenizer, *_ = scratch(dropout=0.0)
    if request.param == "lora":
        folder = tmp_path_factory.mktemp("base")
        save_merged(made, tokenizer, folder)
        made, _ = load_pretrained(str(folder), levels=2, codes=8, rank=4, dropout=0.0)
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.manual_seed(1))
    return made, tokenizer


def batch_of(shop, tokenizer, **options):
    tasks = {"history_to_sid": options}
    limit = options.pop("max_history", 50)
    examples, _ = compose(shop, tasks, style="compact", seed=0, max_history=limit)
    tokens = code_token_ids(tokenizer, [8, 8])
    data = encode_examples(tokenizer, tokens, examples, max_length=200).data
    return Collator(tokenizer.pad_token_id, ["history_to_sid"])(list(data))


def targets_of(model, batch):
    """The logits before each target token, with the tokens that stand before it as their name."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found = {}
    for row, place in (batch["labels"] != IGNORED).nonzero().tolist():
        before = tuple(batch["input_ids"][row, : place + 1].tolist())
        assert before not in found
        found[before] = logits[row, place - 1]
    return found


def gradient(model, batch):
    model.zero_grad()
    losses, _ = TargetLoss(model)(model, batch)
    (losses.sum() / len(losses)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_same_logits_and_the_same_gradient(shop, model):
    model, tokenizer = model
    stream = batch_of(shop, tokenizer, expand="stream")
    prefix = batch_of(shop, tokenizer, expand="prefix")
    assert len(stream["input_ids"]) == len(USERS)
    assert len(prefix["input_ids"]) == sum(USERS) - len(USERS)
    one, other = targets_of(model, stream), targets_of(model, prefix)
    assert one.keys() == other.keys(), "after the same tokens, the same target"
    assert len(one) == 2 * (sum(USERS) - len(USERS)), "two levels for every next item"
    for before, logits in one.items():
        torch.testing.assert_close(other[before], logits, atol=1e-5, rtol=0)
    ours, theirs = gradient(model, stream), gradient(model, prefix)
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(theirs[name], grad, atol=1e-5, rtol=0)
    # And the saving, already here: 32 tokens and a start for each user against one row per item.
    assert stream["attention_mask"].sum() < 0.5 * prefix["attention_mask"].sum()


def last_tokens(batch, count):
    """Each target token with up to `count` tokens before it, however far its row goes back."""
    return {
        tuple(batch["input_ids"][row, max(0, place - count) : place + 1].tolist())
        for row, place in (batch["labels"] != IGNORED).nonzero().tolist()
    }


def test_beyond_max_history_the_forms_differ_as_stated(shop, model):
    """A user of nine items, at most three in a prompt.

    `prefix` asks for all eight next items, after at most three. `window` (stride of three) also asks
    for all eight, after one to three. `stream` asks for the newest three only.
    """
    _, tokenizer = model
    count = {
        expand: int(
            (batch_of(shop, tokenizer, expand=expand, max_history=3)["labels"] != IGNORED).sum()
        )
        for expand in ("stream", "window", "prefix")
    }
    every = 2 * (sum(USERS) - len(USERS))
    assert count == {"prefix": every, "window": every, "stream": 2 * (1 + 2 + 3 + 3)}
    prefix = batch_of(shop, tokenizer, expand="prefix", max_history=3)
    for expand in ("stream", "window"):
        batch = batch_of(shop, tokenizer, expand=expand, max_history=3)
        assert batch["attention_mask"].sum(1).max() <= 1 + 2 * 4, "max_history + 1 items"
        assert last_tokens(batch, 2) <= last_tokens(prefix, 2), "the same items in the same order"
