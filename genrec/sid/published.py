"""SIDs that came with the data: what is odd about them, and what to do where they collide.

Files of one dataset differ a lot: of ten published for Amazon Scientific 2018, some have a SID for
every item and one has a fifth fewer; one has a single code on its first level. So they are looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.progress import Progress, silent
from genrec.sid.codes import collision_rate, further_levels, token_name
from genrec.sid.quantizer import MadeSIDs
from genrec.sid.residual import Ints
from genrec.sid.settings import PublishedSettings
from genrec.sid.stats import published_stats


class PublishedSIDs:
    """Takes SIDs as they came. Nothing is fitted: what makes SIDs of embeddings is a `Quantizer`.

    Args:
        settings: its settings; None takes the defaults.
        seed: nothing is drawn.
        device: nothing is computed.
        options: single settings instead, or changes to them.

    Raises:
        ValueError: an unknown option.
    """

    kind = "published"

    def __init__(
        self,
        settings: PublishedSettings | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self.settings = PublishedSettings.from_options(settings, **options)

    def make_sids(self, sids: Ints, *, progress: Progress = silent) -> MadeSIDs:
        """Resolves collisions if `settings.resolve` says so, and describes the SIDs.

        Args:
            sids: int32 [N, L], as published.
            progress: not used.
        """
        resolved = resolve_published(sids) if self.settings.resolve else None
        stats = inspect_published(sids, resolved=resolved)
        return MadeSIDs(sids if resolved is None else resolved, stats, None)


def resolve_published(sids: Ints) -> Ints:
    """Returns SIDs of which no two are equal, every published code unchanged.

    TIGER's way (arXiv 2305.05065, section 3.1): one more level tells items of one SID apart, 0 for the
    first of them and for items that are alone. Nothing better is at hand: without the quantizer
    nobody knows which codes are near each other. More items of one SID than a level has codes
    take more than one further level.

    Args:
        sids: int32 [N, L], codes in [0, K).

    Returns:
        int32 [N, L] as given where nothing collides, else [N, L + 1 or more].
    """
    _, group = np.unique(sids, axis=0, return_inverse=True)
    order = np.argsort(group.reshape(-1), kind="stable")
    ordered = group.reshape(-1)[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(ordered)]]))
    rank = np.empty(len(sids), dtype=np.int64)
    rank[order] = np.arange(len(sids)) - np.repeat(starts, sizes)
    if not rank.any():
        return sids
    return np.hstack([sids, further_levels(rank, codes=int(sids.max()) + 1)])


def inspect_published(sids: Ints, *, resolved: Ints | None = None) -> dict[str, Any]:
    """Describes published SIDs: the content of `stats.json`.

    Args:
        sids: int32 [N, L], as published.
        resolved: what `resolve_published` made of them; None where they are kept.

    Returns:
        What `codes.published_stats` returns, `levels` of what is used; and by level `letters`,
        `lowest`, `highest`, `codes_used`, `prefixes` (different beginnings up to this level);
        `degenerate_levels` (letters of those with one code only); `colliding_items`; `findings`, the
        oddities as sentences, empty where there are none. With `resolved`, collision_rate and
        duplicate_rate are {before, after}.
    """
    stats = published_stats(sids)
    used = [len(np.unique(column)) for column in sids.T]
    letters = [token_name(level, 0)[1] for level in range(sids.shape[1])]
    stats |= {
        "letters": letters,
        "lowest": sids.min(axis=0).tolist(),
        "highest": sids.max(axis=0).tolist(),
        "codes_used": used,
        "prefixes": [len(np.unique(sids[:, : n + 1], axis=0)) for n in range(sids.shape[1])],
        "degenerate_levels": [a for a, n in zip(letters, used, strict=True) if n == 1],
        "colliding_items": round(collision_rate(sids) * len(sids)),
    }
    stats["findings"] = [*_odd_levels(sids, letters, used), *_collisions(stats, resolved)]
    if resolved is not None:
        after = published_stats(resolved)
        stats["levels"] = resolved.shape[1]
        for rate in ("collision_rate", "duplicate_rate"):
            stats[rate] = {"before": stats[rate], "after": after[rate]}
    return stats


def _odd_levels(sids: NDArray[np.integer], letters: list[str], used: list[int]) -> list[str]:
    findings = []
    for level, (letter, count) in enumerate(zip(letters, used, strict=True)):
        low, high = int(sids[:, level].min()), int(sids[:, level].max())
        if count == 1 and len(sids) > 1:
            findings.append(
                f"level {letter} is degenerate: all items have the code {low}, so it says nothing "
                "and costs a decoding step"
            )
        elif low >= count:
            findings.append(
                f"level {letter} counts from {low} to {high} for {count} codes: its lower {low} tokens "
                "are never used (codes counted across levels, perhaps)"
            )
    return findings


def _collisions(stats: dict[str, Any], resolved: Ints | None) -> list[str]:
    if not stats["colliding_items"]:
        return []
    done = (
        "kept: they are scored as ties; quantize.resolve=true adds a level that tells them apart"
        if resolved is None
        else f"resolved by {resolved.shape[1] - len(stats['lowest'])} further level(s)"
    )
    return [
        f"{stats['colliding_items']} of {stats['items']} items share their SID with another, up to "
        f"{stats['largest_group']} on one SID; {done}"
    ]
