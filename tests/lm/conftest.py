"""A shop of thirty items and forty users who walk through them in order: easy to learn, quick."""

import os

import numpy as np
import polars as pl
import pytest
import torch

from genrec import schema
from genrec.lm.batch import code_token_ids
from genrec.lm.compose import compose
from genrec.lm.corpus import encode_examples
from genrec.lm.model import build_scratch
from genrec.lm.tasks import Corpus

ITEMS, LEVELS, CODES = 30, 2, 8

# Tensors this small only wait for a second thread; and a child process must add up as we do.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def split(shortest: int) -> pl.DataFrame:
    rows = [
        {
            "user": user,
            "history": [(user + step) % ITEMS for step in range(shortest + user % 6)],
            "target": (user + shortest + user % 6) % ITEMS,
        }
        for user in range(40)
    ]
    return pl.DataFrame(rows, schema=dict(schema.SPLIT))


@pytest.fixture(scope="session")
def corpus():
    items = pl.DataFrame(
        {
            "item": range(ITEMS),
            "item_id": [f"i{i}" for i in range(ITEMS)],
            "title": [f"thing number {i} <a_1> blue" for i in range(ITEMS)],
            "description": [""] * ITEMS,
            "image": [None] * ITEMS,
        },
        schema=dict(schema.ITEMS),
    )
    sids = np.array([[item // CODES, item % CODES] for item in range(ITEMS)], dtype=np.int32)
    captions = [None if i % 5 == 0 else f"a blue thing, shape {i}" for i in range(ITEMS)]
    interests = [[f"use {i}", f"gift {i}"][: i % 3] for i in range(ITEMS)]
    return Corpus(items, sids, split(2), split(4), captions, interests)


@pytest.fixture(scope="session")
def examples(corpus):
    tasks = {"history_to_sid": {}, "title_to_sid": {}, "sid_to_title": {"rate": 0.5}}
    return compose(corpus, tasks, style="compact", seed=3)


@pytest.fixture(scope="session")
def size(examples):
    """The arguments of `build_scratch`."""
    texts = [s.text for e in examples[0] for s in e.prompt + e.completion if s.text]
    shape = {"hidden": 32, "layers": 2, "heads": 2, "vocab": 300}
    return {"texts": texts, "levels": LEVELS, "codes": CODES, **shape}


@pytest.fixture(scope="session")
def scratch(examples, size):
    """Returns a function that makes the same tiny model, tokenizer and encoded corpora anew."""

    def make(**changes):
        model, tokenizer = build_scratch(**size | changes)
        tokens = code_token_ids(tokenizer, [CODES] * LEVELS)
        data = [encode_examples(tokenizer, tokens, e, max_length=64).data for e in examples]
        return model, tokenizer, *data

    return make
