"""Chooses how to decode a model by trying it: beams of a small batch against plain sequences.

The configuration tells much, but not all: a model may ignore `position_ids` or a 4D mask (ALiBi), or
let padding into a recurrent state, or change with the length of what is in the batch (RoPE). Two
prompts of unequal length with two crossing beams each show it, whatever the architecture. Whether a
far longer text in the same batch changes anything is tried with its positions alone, without the text.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import torch

from genrec.decode.checks import evaluating
from genrec.decode.head import FullHead, SIDHead
from genrec.decode.rope import LengthRope, switch_lengths
from genrec.decode.strategies import NoCache, Strategy, make_decoder, tree_refusal

# Windows and switches of RoPE beyond it are not tried out: the test would cost more than a search.
_LONGEST = 512
_EXACT = 2e-4  # standard deviations: float32 on a CPU is a hundred times nearer


class Chosen(NamedTuple):
    """A strategy that was seen to work.

    Attributes:
        strategy: its name.
        token_bytes: what the cache holds of one token of one row, bytes; of a recurrent state,
            which has no tokens, its share.
    """

    strategy: Strategy
    token_bytes: float


def choose(model: Any, strategy: Strategy | Literal["auto"]) -> Chosen:
    """Finds the strategy for a model.

    Args:
        model: the causal LM.
        strategy: `auto` prefers `tree` and falls back to `expand` with a warning that says why.

    Returns:
        The strategy, tried out.

    Raises:
        ValueError: if none, or the one asked for, decodes this model rightly.
    """
    if strategy not in ("auto", "tree", "expand"):
        raise ValueError(f"strategy={strategy!r}; expected auto, tree or expand")
    name = type(model).__name__
    refusal: str | None = None
    if strategy != "expand":
        refusal = tree_refusal(model.config.get_text_config())
        outcome = refusal or _try(model, "tree")
        if isinstance(outcome, float):
            return Chosen("tree", outcome)
        refusal = outcome
        if strategy == "tree":
            raise ValueError(f"{name} cannot be decoded under a tree mask: {refusal}")
    outcome = _try(model, "expand")
    if isinstance(outcome, str):
        also = f"; nor under a tree mask: {refusal}" if refusal else ""
        raise ValueError(f"{name} cannot be decoded with one row per beam: {outcome}{also}")
    if refusal:
        warnings.warn(
            f"{name} cannot be decoded under a tree mask: {refusal}. Decoding with one row per "
            "beam instead, which is slower and takes as many times the memory as there are beams "
            "(strategy='expand' accepts that without this warning)",
            stacklevel=4,
        )
    return Chosen("expand", outcome)


def _try(model: Any, strategy: Strategy) -> float | str:
    """Returns bytes per token if beams equal plain sequences, or says how they do not."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    room = getattr(config, "max_position_embeddings", None)
    lengths = [4 + (window if window <= _LONGEST else 0)]
    # The steps of the first prompt cross the switch, the second one stays behind it.
    lengths += sorted(n - 1 for n in switch_lengths(config) if 4 < n <= min(_LONGEST, room or n))
    lengths = [max(2, min(length, room - 2)) if room else length for length in lengths]
    try:
        with evaluating(model):
            if refusal := _later_changes(model):
                return refusal
            outcomes = [_compare(model, strategy, length) for length in lengths]
            refusals = [entry for entry in outcomes if isinstance(entry, str)]
            if refusals:
                return refusals[0]
            return _neighbour_changes(model) or outcomes[0]
    except NoCache as error:
        return str(error)
    except Exception as error:  # whatever foreign code raises: it cannot be decoded so
        said = (str(error).splitlines() or ["no message"])[0]
        return f"{type(error).__name__}: {said} (raised by the model as it was tried)"


def _compare(model: Any, strategy: Strategy, length: int) -> float | str:
    """As `_try`, with prompts of `length` tokens and of one less."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 2 * length + 9, device=device) * 7919 % _vocabulary(model)  # any will do
    prompts = ids[: 2 * length].view(2, -1)
    first, second = ids[2 * length :].view(2, 2, 2).unbind()
    mask = torch.ones_like(prompts)
    mask[1, 0] = 0  # positions must come from the mask, not from the column
    parents = torch.tensor([[1, 0], [1, 0]], device=device)
    head, rope = FullHead(model, []), LengthRope(model.config.get_text_config())
    whole = mask.sum(1).cpu() + 2
    parts, outputs = list(rope.parts(whole)), []
    for part in parts:  # as `BeamEngine` parts them
        users = part.to(device)
        with rope.fixed(model, int(whole[part].max())):
            decoder = make_decoder(strategy, head, model, prompts[users], mask[users], room=4)
            decoder.prefill()
            decoder.step(first[users], parents[users])
            outputs.append(decoder.step(second[users], parents[users]).float())
    logits = torch.cat(outputs)[torch.cat(parts).argsort().to(device)]
    expected = _plain(model, prompts, first, second)
    distance = (logits - expected).square().mean().sqrt() / expected.std().clamp(min=1e-9)
    # Low precision rounds by shape, to about a hundredth; a mask ignored is far beyond either.
    if distance > (0.01 if _is_exact(model) else 0.1):  # false for NaN, which `search` reports
        return (
            f"4D attention masks, position_ids or padding are not honoured: beams differ from "
            f"plain sequences by {distance:.2g} standard deviations"
        )
    if _is_exact(model) and device.type == "cpu" and distance > _EXACT:
        warnings.warn(
            f"{type(model).__name__}: scores will be close to the model's, not equal: its steps with a "
            f"cache differ from one pass over the text by {distance:.2g} standard deviations of its "
            f"logits (other models: less than {_EXACT}); `exact` holds for the steps with a cache",
            stacklevel=6,
        )
    rows, written = (1, 4) if strategy == "tree" else (2, 2)
    return _held_bytes(decoder.cache) / (rows * len(part) * (length + written))


def _neighbour_changes(model: Any) -> str | None:
    """Says how a text's logits change with the positions of another in its batch; None if not at all."""
    config, device = model.config.get_text_config(), next(model.parameters()).device
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    length = min(32, limit)
    ids = torch.arange(1, 2 * length + 1, device=device).view(2, -1) * 7919 % _vocabulary(model)
    near = torch.arange(length, device=device).expand(2, -1)
    far = near.clone()
    far[1, -1] = limit - 1
    with LengthRope(config).fixed(model, limit):  # what is known is the same for both then
        near_logits, far_logits = (
            model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions)
            .logits[0]
            .float()
            for positions in (near, far)
        )
    if (distance := _moved(model, near_logits, far_logits)) is not None:
        return (
            f"a text's scores change with the length of others in its batch, by {distance:.2g} standard "
            "deviations: a RoPE that goes by the longest position in the batch, and none of those "
            "that are known here (longrope, dynamic)"
        )
    return None


def _later_changes(model: Any) -> str | None:
    """Says how logits change with tokens that come later, None if not at all."""
    ids = torch.arange(1, 9, device=next(model.parameters()).device) % _vocabulary(model)
    changed = torch.cat([ids[:-1], ids[:1]])
    plain_logits, changed_logits = (
        model(input_ids=row[None], use_cache=False).logits[0, :-1].float() for row in (ids, changed)
    )
    if (distance := _moved(model, plain_logits, changed_logits)) is not None:
        return (
            f"logits change with the tokens that come later, by {distance:.2g} standard deviations: "
            "this is no causal LM"
        )
    return None


def _moved(model: Any, first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Returns how far apart logits [T, V] of equal shapes are, in standard deviations, if they are."""
    distance = float((first - second).square().mean().sqrt() / first.std().clamp(min=1e-9))
    return distance if distance > (1e-4 if _is_exact(model) else 0.03) else None


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def _is_exact(model: Any) -> bool:
    return model.dtype == torch.float32 and not getattr(model, "is_quantized", False)


def _plain(
    model: Any, prompts: torch.Tensor, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    """Returns the logits after [prompt, first of the other beam, second] without cache, [2, 2, V]."""
    last_logits = []
    for user, prompt in enumerate(prompts):
        prompt = prompt[user:]  # the second one has a column of padding
        rows = [prompt.expand(2, -1), first[user].flip(0)[:, None], second[user][:, None]]
        logits = model(input_ids=torch.cat(rows, dim=1), use_cache=False).logits
        last_logits.append(logits[:, -1].float())
    return torch.stack(last_logits)


def _held_bytes(cache: Any) -> int:
    """Returns the memory of all tensors in a cache's layers; views of one tensor count once."""
    storages = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            parts = list(value.values()) if isinstance(value, dict) else value
            for part in parts if isinstance(parts, list | tuple) else [parts]:
                if isinstance(part, torch.Tensor):
                    storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(storages.values())


def check_head(head: SIDHead, model: Any, codes: list[torch.Tensor]) -> None:
    """Checks that rows of the output matrix give the model's own logits.

    Args:
        head: the restricted head.
        model: the causal LM.
        codes: per level, the token of each code. int64 [C].

    Raises:
        ValueError: if the model does more behind its output matrix, such as capping.
    """
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device).unsqueeze(0) % model.config.get_text_config().vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with evaluating(model):
        expected = model(**inputs).logits[:, -1:].float()
        output, _ = head(last_only=True, **inputs)
        for level, tokens in enumerate(codes):
            actual = head.logits(level, output).float()
            wanted = expected[..., tokens.to(device)]
            # A cap or a scale changes differences between codes; the same for all would not matter.
            distance = ((actual - actual.mean()) - (wanted - wanted.mean())).abs().max()
            if (
                distance
                > 0.02 * wanted.std().clamp(min=1e-3) + (model.dtype != torch.float32) * 0.1
            ):
                raise ValueError(
                    f"{type(model).__name__} changes logits behind its output matrix (by up to "
                    f"{distance:.2g} on level {level}), so its rows alone do not give them; use "
                    "head='full'"
                )
