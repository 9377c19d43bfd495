"""Reading a model's probabilities: which tokens spell a word, odds of two words, odds of a text."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from genrec.engines.protocol import EngineError, Score


@lru_cache
def word_tokens(tokenizer: Any, word: str) -> tuple[int, ...]:
    """Returns the tokens that spell a word alone, whatever its case and the space around it.

    Raises:
        EngineError: there is none.
    """
    size = len(tokenizer)
    spelt = tokenizer.batch_decode([[token] for token in range(size)])
    tokens = tuple(token for token in range(size) if _plain(spelt[token]) == word)
    if not tokens:
        raise EngineError(
            f"this model's tokenizer has no token for '{word}' among its {size:,}, so its answer "
            "cannot be read off one word; use method: likelihood (engine hf)"
        )
    return tokens


def next_odds(model: Any, inputs: Any, yes: Sequence[int], no: Sequence[int]) -> list[Score]:
    """Returns log p(yes) / p(no) of the next token, before a model's settings change any logit.

    Args:
        model: a causal LM or VLM of transformers.
        inputs: what the model takes, input_ids [B, T] among it, padded on the left.
        yes: tokens of one word.
        no: tokens of the other.
    """
    import torch

    config = copy.deepcopy(model.generation_config)
    config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
    config.update(max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
    with torch.inference_mode():  # generate knows how each architecture takes padded prompts
        (logits,) = model.generate(**inputs, generation_config=config).logits
    chances = logits.float().log_softmax(dim=-1)
    odds = chances[:, list(yes)].logsumexp(dim=-1) - chances[:, list(no)].logsumexp(dim=-1)
    return [Score(value) for value in odds.tolist()]


def listed_odds(top: Iterable[tuple[str, float]], yes: str, no: str) -> Score:
    """Returns the log-odds of two words from the likeliest tokens, as endpoints list them.

    Where one of the words is not listed, its probability is at most that of the last token listed:
    the score is the bound that follows, and says so. Where neither is, nothing is known.

    Args:
        top: (text, log-probability) of the likeliest tokens.
        yes: a word, as `_plain` leaves it.
        no: the other.
    """
    logs: dict[str, list[float]] = {}
    for text, chance in top:
        logs.setdefault(_plain(text), []).append(chance)
    if yes not in logs and no not in logs:
        likeliest = ", ".join(repr(text) for text in list(logs)[:5])
        return Score(
            None, f"no answer: neither '{yes}' nor '{no}' among the likeliest: {likeliest}"
        )
    least = min(chance for chances in logs.values() for chance in chances)
    ours, theirs = (_sum(logs.get(word, [least])) for word in (yes, no))
    return Score(ours - theirs, bound=yes not in logs or no not in logs)


def likelihoods(
    model: Any, tokenizer: Any, inputs: Any, said: Sequence[tuple[str, int]]
) -> list[Score]:
    """Returns log p(text | prompt), the sum over the text's tokens.

    Args:
        model: a causal LM or VLM of transformers.
        tokenizer: its own; a text is encoded alone, with special tokens split.
        inputs: what the model takes, input_ids [B, T] among it, without padding. Texts follow it
            padded on the right, where no token sees them.
        said: B texts, and how many tokens of each count.
    """
    import torch

    options = {"add_special_tokens": False, "split_special_tokens": True}
    ids = [tokenizer(text, **options)["input_ids"][:most] for text, most in said]
    prompt = inputs["input_ids"]
    width, device = max(map(len, ids)), prompt.device
    added = torch.zeros((len(ids), width), dtype=torch.long, device=device)
    real = torch.zeros_like(added)
    for row, tokens in enumerate(ids):
        added[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long, device=device)
        real[row, : len(tokens)] = 1
    longer = {"input_ids": added, "attention_mask": real}
    both = {
        name: torch.cat([value, longer.get(name, torch.zeros_like(added)).to(value)], dim=1)
        if getattr(value, "shape", None) == prompt.shape
        else value
        for name, value in inputs.items()
    }
    with torch.inference_mode():
        logits = model(**both).logits[:, prompt.shape[1] - 1 : -1].float()
    each = logits.log_softmax(dim=-1).gather(2, added[..., None])[..., 0]
    return [Score(value) for value in (each * real).sum(dim=1).tolist()]


def _plain(text: str) -> str:
    return text.strip(" \n\t\u0120\u2581").casefold()


def _sum(chances: Sequence[float]) -> float:
    most = max(chances)
    return most + math.log(sum(math.exp(chance - most) for chance in chances))
