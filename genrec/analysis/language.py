"""What a language model can do beside recommending: find prose likely, do what it is asked."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec.engines import Engine, Message, Reply, Request
from genrec.prompts import Instruction

_MOST = 64  # tokens of a reply


def perplexity(
    folder: str | Path,
    texts: Sequence[str],
    *,
    without: Collection[str] = (),
    device: str = "cpu",
    dtype: str = "auto",
) -> float:
    """Returns exp of the mean negative log-likelihood of a token, given the tokens of its text before.

    The first token of a text has nothing before it and does not count.

    Args:
        folder: of the model and its tokenizer.
        texts: with two tokens or more each.
        without: tokens that the probabilities leave out where the model has them, such as those of
            SIDs: so a model with further tokens can be compared with the one that it was made of.
        device: where it is computed.
        dtype: torch dtype of the weights by name; "auto" keeps that of the files.

    Raises:
        ValueError: no texts, or one of a single token.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    known = tokenizer.get_vocab()
    left_out = torch.tensor(
        [known[token] for token in without if token in known], device=device
    ).long()
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].to(device)
        if ids.shape[1] < 2:
            raise ValueError(f"'{text}': one token has no likelihood; give texts of several words")
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        logits = logits.index_fill(1, left_out, -math.inf)
        total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    if not count:
        raise ValueError("no texts; expected one or more")
    return math.exp(total / count)


def followed(engine: Engine, instructions: Sequence[Instruction]) -> list[tuple[bool, Reply]]:
    """Has a model answer instructions, greedily, and says of each whether the reply is accepted.

    Args:
        engine: with the model.
        instructions: what is asked, and the expression that a good reply holds.

    Raises:
        EngineError: nothing can be asked.
    """
    requests = [
        Request(messages=(Message("user", one.ask),), max_tokens=_MOST) for one in instructions
    ]
    replies = dict(engine.generate(requests))
    return [
        (re.search(one.accepts, replies[row].text, re.IGNORECASE) is not None, replies[row])
        for row, one in enumerate(instructions)
    ]
