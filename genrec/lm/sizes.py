"""How large a model from scratch is, by the data: `train.model.size=auto`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_BASE = 256, 60_000  # a width, and the interactions that it is for
_STEP = 64  # widths are multiples of it
_WIDEST = 512
_DEEP = 512  # from this width on there are four layers
_HEAD = 32  # width of a head
_FEW, _SOME = 200_000, 2_000_000  # interactions


class Size(NamedTuple):
    """Of a model from scratch, as in `ScratchSettings`."""

    hidden: int
    layers: int
    heads: int
    dropout: float


def auto_size(*, users: int, items: int, interactions: int) -> Size:
    """Returns the size of a model for data of some size.

    The width grows with the square root of the interactions, so that parameters and examples grow alike;
    two layers do until it is wide. The less data there is, the more is dropped in training.

    Args:
        users: in all.
        items: N.
        interactions: in all.

    Raises:
        ValueError: one of them is below 1.
    """
    if min(users, items, interactions) < 1:
        raise ValueError(
            f"{users} users, {items} items, {interactions} interactions; expected 1 or more of each"
        )
    width, count = _BASE
    hidden = _STEP * round(width / _STEP * (interactions / count) ** 0.5)
    hidden = min(_WIDEST, max(_STEP, hidden))
    dropout = 0.25 if interactions < _FEW else 0.2 if interactions < _SOME else 0.1
    return Size(hidden, 4 if hidden >= _DEEP else 2, hidden // _HEAD, dropout)


def size_for(stats: Mapping[str, Any]) -> Size:
    """Returns `auto_size` of what prepare counted, its `stats.json`."""
    return auto_size(**{name: stats[name] for name in ("users", "items", "interactions")})
