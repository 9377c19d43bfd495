"""What is to be said of SIDs: their statistics, and what is wrong with them, with what to change.

The bounds are ours: ordinary SIDs stay well clear of them (of the demo level b uses all codes, its
perplexity is a fifth of K and 4 % of the items collide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec.sid.codes import collision_rate, duplicate_rate, group_sizes, token_name
from genrec.sid.residual import Floats, Ints, power_of_two

if TYPE_CHECKING:
    from genrec.sid.quantizer import Quantizer

_COLLIDING = 1 / 3  # of the items
_IN_USE = 0.5  # of the codes that a level could use
_EVEN = 0.1  # perplexity over the same
_NOTHING_LEFT = 0.05  # of the norm: the levels before hold nearly everything


def sid_stats(
    embeddings: Floats, before: Ints, after: Ints, quantizer: Quantizer[Any]
) -> dict[str, Any]:
    """Describes how good SIDs are: the content of `stats.json`.

    Args:
        embeddings: float32 [N, D], what was quantized.
        before: int32 [N, L], what `quantizer.encode` gave.
        after: int32 [N, L or more], after `resolve_collisions`; equal to `before` if not resolved.
        quantizer: the fitted quantizer.

    Returns:
        items, levels (of `after`), codes; collision_rate and duplicate_rate, each {before, after};
        moved (items whose code changed); largest_group (items sharing one SID before);
        utilisation [L] (share of the K codes in use) and perplexity [L] (exp of the entropy of code
        use, at most K), both before;
        reconstruction_cosine {before, after} (mean cosine of the decoded SID and the embedding);
        relative_residual_norm [L] (norm of what is left after each level, over the norm of what was
        quantized; before).
    """
    levels = before.shape[1]
    return {
        "items": len(before),
        "levels": after.shape[1],
        "codes": quantizer.codes,
        "collision_rate": {"before": collision_rate(before), "after": collision_rate(after)},
        "duplicate_rate": {"before": duplicate_rate(before), "after": duplicate_rate(after)},
        "moved": int((before != after[:, :levels]).any(axis=1).sum()),
        "largest_group": int(group_sizes(before).max()),
        **_usage(before, quantizer.codes),
        "reconstruction_cosine": {
            "before": _mean_cosine(embeddings, quantizer.decode(before)),
            "after": _mean_cosine(embeddings, quantizer.decode(after[:, :levels])),
        },
        "relative_residual_norm": quantizer.residual_norms(embeddings, before).tolist(),
    }


def published_stats(sids: NDArray[np.integer]) -> dict[str, Any]:
    """Describes SIDs that came without a quantizer; see `sid_stats` for the keys.

    K is taken as the largest code + 1.
    """
    codes = int(sids.max()) + 1
    return {
        "items": len(sids),
        "levels": sids.shape[1],
        "codes": codes,
        "collision_rate": collision_rate(sids),
        "duplicate_rate": duplicate_rate(sids),
        "largest_group": int(group_sizes(sids).max()),
        **_usage(sids, codes),
    }


def prefix_recall(sids: Ints, items: Ints, targets: Ints, *, k: int = 10) -> list[float]:
    """Says at which code a list goes wrong: of how many users the target's first codes are in it.

    Args:
        sids: int [N, L].
        items: int [U, K], ranked items of each user, -1 where there is none.
        targets: int [U], what each user chose.
        k: places of a list that count.

    Returns:
        For each length from 1 to L, the share of users for whom one of the first k items begins with
        the target's first codes of that length. The last is recall@k where no two items share a SID.
    """
    top = items[:, :k]
    alike = (sids[top] == sids[targets][:, None]) & (top >= 0)[..., None]  # [U, k, L]
    return [float(x) for x in np.logical_and.accumulate(alike, axis=2).any(axis=1).mean(axis=0)]


def quantizer_findings(
    stats: Mapping[str, Any], embeddings: Floats, quantizer: Quantizer[Any]
) -> list[str]:
    """Returns what is odd about SIDs, as sentences with the setting to change; empty where nothing is.

    Args:
        stats: as `sid_stats` returns.
        embeddings: float32 [N, D], what was quantized.
        quantizer: the fitted quantizer.
    """
    items, levels = stats["items"], len(stats["utilisation"])
    rate, further = stats["collision_rate"]["before"], stats["levels"] - levels
    weak = [n for n in range(levels) if _weak(stats, n)] if items > 1 else []
    if rate <= _COLLIDING and not further and not weak:
        return []
    distinct = len(np.unique(embeddings, axis=0))
    alike = distinct <= items * (1 - _COLLIDING)
    alike_fix = (
        f"many items have the same vector ({distinct} different among {items}): give them texts or "
        "images that tell them apart (embed.text.fields, embed.image, embed.behaviour)"
    )
    problems: dict[str, list[str]] = {}  # by what to change
    if rate > _COLLIDING or further:
        problem = (
            f"{round(rate * items)} of {items} items share their SID with another before resolution, "
            f"up to {stats['largest_group']} on one SID"
        )
        if further:
            problem += f", and to tell them apart takes {further} further level(s)"
        finer = f"raise quantize.levels or quantize.codes; or {quantizer.advice}"
        problems[alike_fix if alike else finer] = [problem]
    left = [1.0, *stats["relative_residual_norm"]]
    enough = next((n for n in weak if left[n] < _NOTHING_LEFT), levels)
    for level in weak:
        if alike:
            fix = alike_fix
        elif level >= enough:
            fix = f"{enough} level(s) leave {left[enough]:.1%} over: lower quantize.levels to {enough}"
        else:
            fix = quantizer.advice
        used = round(stats["utilisation"][level] * stats["codes"])
        problems.setdefault(fix, []).append(
            f"level {token_name(level, 0)[1]} uses {used} of {stats['codes']} codes, with a perplexity "
            f"of {stats['perplexity'][level]:.1f}"
        )
    return [f"{', '.join(problem)}; {fix}" for fix, problem in problems.items()]


def _weak(stats: Mapping[str, Any], level: int) -> bool:
    codes = stats["codes"]
    return stats["utilisation"][level] < _IN_USE or stats["perplexity"][level] < _EVEN * codes


def _usage(sids: NDArray[np.integer], codes: int) -> dict[str, list[float]]:
    utilisation, perplexity = [], []
    for column in sids.T:
        share = np.bincount(column, minlength=codes) / len(column)
        used = share[share > 0]
        utilisation.append(len(used) / codes)
        perplexity.append(float(np.exp(-(used * np.log(used)).sum())))
    return {"utilisation": utilisation, "perplexity": perplexity}


def _mean_cosine(a: Floats, b: Floats) -> float:
    """Returns the mean cosine of corresponding rows; rows of zeros count as 0."""
    a, b = (side / np.float32(power_of_two(side)) for side in (a, b))  # no cosine depends on it
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.einsum("nd,nd->n", a, b)
    return float(np.mean(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)))
