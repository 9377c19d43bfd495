"""How large a model from scratch is, by the data, and how fast it learns, by its width.

What `train.model.size=auto` and `train.lr=auto` stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from genrec.lm.settings import ScratchSettings, Train

_NARROWEST, _ENOUGH = 256, 60_000  # a width, and the interactions up to which it is taken
_STEP = 64  # widths are multiples of it
_WIDEST = 512
_DEEP = 512  # from this width on there are four layers
_HEAD = 32  # width of a head
_MANY = 2_000_000  # interactions
_RATE = 1e-3, 256  # a learning rate, and the width that it is for
COUNTED = ("users", "items", "interactions")


class Size(NamedTuple):
    """Of a model from scratch, as in `ScratchSettings`."""

    hidden: int
    layers: int
    heads: int
    dropout: float


def auto_size(*, users: int, items: int, interactions: int) -> Size:
    """Returns the size of a model for data of some size.

    From 60,000 interactions on the width grows with their square root, so that parameters and examples
    grow alike; two layers do until it is wide. The less data there is, the more is dropped in training.

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
    hidden = _STEP * round(_NARROWEST / _STEP * (interactions / _ENOUGH) ** 0.5)
    hidden = min(_WIDEST, max(_NARROWEST, hidden))
    dropout = 0.2 if interactions < _MANY else 0.1
    return Size(hidden, 4 if hidden >= _DEEP else 2, hidden // _HEAD, dropout)


def auto_lr(hidden: int) -> float:
    """Returns the highest learning rate of a model from scratch: the wider, the lower.

    As Adam's has to be for updates of one size whatever the width (arXiv 2203.03466).

    Args:
        hidden: its width.
    """
    rate, width = _RATE
    return rate * width / hidden


def by_data(section: Train) -> tuple[str, ...]:
    """Returns the fields of a recipe's section `train` that say `auto`, dotted."""
    model = section.model
    sized = isinstance(model, ScratchSettings) and model.size == "auto"
    return ("model.size",) * sized + ("lr",) * (section.lr == "auto")


def chosen(section: Train, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `auto` stands for in a recipe's section `train`: values by dotted field.

    Args:
        section: of the recipe.
        stats: what prepare counted, its `stats.json`.
    """
    if not (auto := by_data(section)):
        return {}
    assert isinstance(section.model, ScratchSettings)  # others refuse `auto`
    fields, hidden = dict[str, Any](), section.model.hidden
    if "model.size" in auto:
        size = auto_size(**{name: stats[name] for name in COUNTED})
        fields = {f"model.{name}": value for name, value in size._asdict().items()}
        hidden = size.hidden
    if "lr" in auto:
        fields["lr"] = auto_lr(hidden)
    return fields


def settled(section: Train, stats: Mapping[str, Any]) -> Train:
    """Returns the section with numbers where it says `auto`."""
    fields = chosen(section, stats)
    lr = fields.pop("lr", section.lr)
    own = {name.removeprefix("model."): value for name, value in fields.items()}
    model = section.model.model_copy(update=own | {"size": None} if own else {})
    return section.model_copy(update={"model": model, "lr": lr})
