"""RoPE whose frequencies go by the length of the text: longrope (Phi-3 128k) and dynamic NTK.

transformers chooses them anew in every forward pass, by the highest position in the whole batch. A
cached prompt and the SID behind it, or two users side by side, would so get frequencies that one pass
over a user's text alone would not. Here they are those of the full text, prompt and SID: users are
parted by what they need, and each part is computed with it from the first token to the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

_KINDS = ("longrope", "dynamic")


class Switch(NamedTuple):
    """One RoPE of a model that goes by the length.

    Attributes:
        kind: `longrope`, which knows short and long, or `dynamic`, where every length is another.
        length: tokens of the longest text that counts as short.
        longest: tokens of the longest text at all; None where the configuration tells.
    """

    kind: str
    length: int
    longest: int | None = None


class LengthRope:
    """How a model's RoPE depends on the length of a text; in most models it does not.

    Attributes:
        switches: its RoPEs that go by the length, often none.
    """

    def __init__(self, config: Any) -> None:
        """Takes the text model's configuration."""
        self.switches = list(_switches(config))

    @property
    def longest(self) -> int | None:
        """Tokens that the model takes beyond its `max_position_embeddings`, if it does."""
        return max((s.longest for s in self.switches if s.longest is not None), default=None)

    def regime(self, length: int) -> tuple[int, ...]:
        """Returns what tells the frequencies of a text of `length` tokens from those of others."""
        return tuple(
            0 if length <= switch.length else 1 if switch.kind == "longrope" else length
            for switch in self.switches
        )

    def parts(self, lengths: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields the texts in parts of one regime each.

        Args:
            lengths: tokens of each, SID included. int64 [B].

        Yields:
            Their places, int64 [b], ascending.
        """
        by_regime: dict[tuple[int, ...], list[int]] = {}
        for place, length in enumerate(lengths.tolist()):
            by_regime.setdefault(self.regime(length), []).append(place)
        for places in by_regime.values():
            yield torch.tensor(places)

    @contextmanager
    def fixed(self, model: nn.Module, length: int) -> Iterator[None]:
        """Gives the model the frequencies of a text of `length` tokens, whatever it is fed.

        The RoPE is shown one position more, the text's last, and what it answers to that is cut off.

        Args:
            model: the causal LM.
            length: tokens, SID included.
        """
        modules = [
            module for module in model.modules() if self.switches and _kinds_of(module) is not None
        ]

        def lengthen(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            if "position_ids" in kwargs:
                return args, {**kwargs, "position_ids": _with_last(kwargs["position_ids"], length)}
            return (args[0], _with_last(args[1], length), *args[2:]), kwargs

        def shorten(_: nn.Module, __: Any, output: Any) -> Any:
            if isinstance(output, torch.Tensor):
                return output[..., :-1, :].contiguous()
            return type(output)(part[..., :-1, :].contiguous() for part in output)

        with ExitStack() as stack:
            for module in modules:
                _forget(module)  # a longer text than this one may have been there before
                stack.callback(_forget, module)
                hook = module.register_forward_pre_hook(lengthen, with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(shorten).remove)
            yield


def refuse_in_vllm(config: Any, max_model_len: int, *, levels: int) -> None:
    """Refuses a model to which vLLM gives other frequencies than transformers.

    vLLM chooses once, at its start (seen in 0.32's `Phi3LongRoPEScaledRotaryEmbedding` and
    `DynamicNTKScalingRotaryEmbedding`): of longrope the long ones if `max_model_len` is beyond the
    switch, of dynamic NTK those of its longest text.

    Args:
        config: the text model's.
        max_model_len: tokens that vLLM was started for, prompt and SID.
        levels: tokens of a SID, L.

    Raises:
        ValueError: if scores would be others than the model's; says how to start vLLM.
    """
    for kind, length, _ in _switches(config):
        if kind == "longrope" and max_model_len > length:
            raise ValueError(
                f"this model's RoPE (longrope) has other frequencies for texts of more than {length} "
                f"tokens, and vLLM, started for {max_model_len}, takes those for shorter ones too, "
                f"whose scores would be wrong: start it with max_model_len={length} (prompts of up "
                f"to {length - levels} tokens), or use BeamEngine (engine hf), which has both"
            )
        if kind == "dynamic":
            raise ValueError(
                "this model's RoPE (dynamic NTK) goes by the length of each text, and vLLM takes the "
                "frequencies of the longest one for all, whose scores would be wrong: use BeamEngine "
                "(engine hf)"
            )


def switch_lengths(config: Any) -> set[int]:
    """Returns lengths at which a model may switch, whatever its RoPE is called."""
    lengths = {switch.length for switch in _switches(config)}
    return lengths | set(_named(config.to_dict(), "original_max_position_embeddings"))


def _switches(config: Any) -> Iterator[Switch]:
    limit = int(getattr(config, "max_position_embeddings", None) or 0)
    own = getattr(config, "original_max_position_embeddings", None)
    for rope in _ropes(config):
        kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
        if kind == "longrope":
            yield Switch(kind, rope.get("original_max_position_embeddings") or own or limit)
        elif kind == "dynamic":
            yield Switch(kind, limit, int(limit * factor) if factor else None)


def _ropes(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the settings of each RoPE; models of several layer types have one for each."""
    # The second name is that of transformers before 5, which vLLM may run with.
    whole = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(whole, Mapping):
        return
    if "rope_type" in whole or "type" in whole:
        yield whole
    yield from (entry for entry in whole.values() if isinstance(entry, Mapping))


def _named(tree: Any, name: str) -> Iterator[int]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == name and isinstance(value, int):
                yield value
            yield from _named(value, name)


def _kinds_of(module: nn.Module) -> Mapping[str | None, str] | None:
    """Returns the kinds of a RoPE module by its layer type, None if none goes by the length."""
    kinds = getattr(module, "rope_type", None)
    kinds = kinds if isinstance(kinds, Mapping) else {None: kinds}
    return kinds if any(kind in _KINDS for kind in kinds.values()) else None


def _with_last(positions: torch.Tensor, length: int) -> torch.Tensor:
    last = positions.new_full((*positions.shape[:-1], 1), length - 1)
    return torch.cat([positions, last], dim=-1)


def _forget(module: nn.Module) -> None:
    """Makes a RoPE forget the longest text that it saw, by showing it a short one."""
    for layer_type, kind in (_kinds_of(module) or {}).items():
        if kind == "dynamic":
            buffer = next(module.buffers())
            first = torch.zeros(1, 1, dtype=torch.int64, device=buffer.device)
            module(buffer, first, **({} if layer_type is None else {"layer_type": layer_type}))
