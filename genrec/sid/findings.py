"""What is wrong with SIDs that a quantiser made, as sentences that say what to change.

The bounds are ours: ordinary SIDs stay well clear of them (of the demo level b uses all codes, its
perplexity is a fifth of K and 4 % of the items collide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.sid.codes import token_name

if TYPE_CHECKING:
    from genrec.sid.quantizer import Floats, Quantizer

_COLLIDING = 1 / 3  # of the items
_IN_USE = 0.5  # of the codes that a level could use
_EVEN = 0.1  # perplexity over the same
_NOTHING_LEFT = 0.05  # of the norm: the levels before have told nearly everything


def quantizer_findings(
    stats: Mapping[str, Any], embeddings: Floats, quantizer: Quantizer
) -> list[str]:
    """Returns what is odd about SIDs, as sentences with the setting to change; empty where nothing is.

    Args:
        stats: as `codes.sid_stats` returns.
        embeddings: float32 [N, D], what was quantised.
        quantizer: the fitted quantiser.
    """
    items, levels = stats["items"], len(stats["utilisation"])
    rate, further = stats["collision_rate"]["before"], stats["levels"] - levels
    weak = [n for n in range(levels) if _weak(stats, n)] if items > 1 else []
    if rate <= _COLLIDING and not further and not weak:
        return []
    distinct = len(np.unique(embeddings, axis=0))
    alike = distinct <= items * (1 - _COLLIDING)
    more_words = (
        f"many items have the same vector ({distinct} different among {items}): give them words or "
        "pictures that tell them apart (embed.text.fields, embed.image, embed.behaviour)"
    )
    found: dict[str, list[str]] = {}  # what is wrong, by what to change
    if rate > _COLLIDING or further:
        told = (
            f"{round(rate * items)} of {items} items share their SID with another before resolution, "
            f"up to {stats['largest_group']} on one SID"
        )
        if further:
            told += f", and to tell them apart takes {further} further level(s)"
        found.setdefault(more_words if alike else _finer(quantizer), []).append(told)
    left = [1.0, *stats["relative_residual_norm"]]
    enough = next((n for n in weak if left[n] < _NOTHING_LEFT), levels)
    for level in weak:
        if alike:
            fix = more_words
        elif level >= enough:
            fix = f"{enough} level(s) leave {left[enough]:.1%} over: lower quantize.levels to {enough}"
        else:
            fix = _livelier(quantizer)
        used = round(stats["utilisation"][level] * stats["codes"])
        found.setdefault(fix, []).append(
            f"level {token_name(level, 0)[1]} uses {used} of {stats['codes']} codes, with a perplexity "
            f"of {stats['perplexity'][level]:.1f}"
        )
    return [f"{', '.join(told)}; {fix}" for fix, told in found.items()]


def _weak(stats: Mapping[str, Any], level: int) -> bool:
    codes = stats["codes"]
    return stats["utilisation"][level] < _IN_USE or stats["perplexity"][level] < _EVEN * codes


def _finer(quantizer: Quantizer) -> str:
    return f"raise quantize.levels or quantize.codes; or {_livelier(quantizer)}"


def _livelier(quantizer: Quantizer) -> str:
    """What brings codes into use."""
    if quantizer.kind != "rkmeans":
        return (
            "train longer (quantize.epochs), try another quantize.lr, or set quantize.kind=rkmeans"
        )
    if getattr(quantizer, "code_dim", None) is None:
        return "set quantize.code_dim to 32"
    return "lower quantize.code_dim"
