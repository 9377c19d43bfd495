"""SIDs as codes: how they are written, how often they collide, and how collisions are resolved.

Resolution moves as few items as possible, each to its nearest free code on the *last* level, so that
every code keeps its meaning. Only a group larger than the codebook needs a further level.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrec.sid.residual import Floats, Ints

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"<([a-z])_(0|[1-9][0-9]*)>")


def token_name(level: int, code: int) -> str:
    """Returns how one code is written: `token_name(0, 12)` is `<a_12>`.

    Raises:
        ValueError: the level has no letter, or the code is negative.
    """
    if not 0 <= level < len(_LETTERS) or code < 0:
        raise ValueError(
            f"level {level}, code {code}: expected a level in [0, {len(_LETTERS)}) and a code >= 0"
        )
    return f"<{_LETTERS[level]}_{code}>"


def parse_token(token: str) -> tuple[int, int]:
    """Returns (level, code): `parse_token("<a_12>")` is `(0, 12)`.

    Raises:
        ValueError: `token` is not of this form.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise ValueError(
            f"{token!r} is no SID token; expected a level letter and a code, such as '<a_12>'"
        )
    return _LETTERS.index(match[1]), int(match[2])


def is_token(text: str) -> bool:
    """Says whether a text is written as a SID token is, such as `<a_12>`."""
    return _TOKEN.fullmatch(text) is not None


def sid_tokens(sid: Sequence[int] | NDArray[np.integer]) -> list[str]:
    """Returns a whole SID as tokens: `sid_tokens([12, 3])` is `["<a_12>", "<b_3>"]`."""
    return [token_name(level, int(code)) for level, code in enumerate(sid)]


def format_sid(sid: Sequence[int] | NDArray[np.integer]) -> str:
    """Returns a whole SID as text: `format_sid([12, 3])` is `<a_12><b_3>`."""
    return "".join(sid_tokens(sid))


def collision_rate(sids: NDArray[np.integer]) -> float:
    """Returns the share of items that share their SID with another item.

    Some papers report `duplicate_rate` under this name, which is always less.

    Args:
        sids: int [N, L].
    """
    shared = group_sizes(sids)
    return float((shared > 1).mean()) if len(shared) else 0.0


def duplicate_rate(sids: NDArray[np.integer]) -> float:
    """Returns the least share of items that must move for every item to have its own SID.

    It is 1 - (distinct SIDs) / N.

    Args:
        sids: int [N, L].
    """
    return 1 - len(np.unique(sids, axis=0)) / len(sids) if len(sids) else 0.0


class Resolution(NamedTuple):
    """What `resolve_collisions` returns.

    Attributes:
        sids: int32 [N, L], no two rows equal; [N, L+1] where some prefix group exceeds K items.
        moved: bool [N], the items whose code on the last level changed.
    """

    sids: Ints
    moved: NDArray[np.bool_]


def resolve_collisions(sids: Ints, distances: Floats, *, codes: int) -> Resolution:
    """Gives every item its own SID by moving as few items as possible.

    Items that share their first L-1 codes form a group. In a group of at most K items, every code in
    use keeps the item nearest to it (ties: the lowest item); the others are assigned to the group's
    unused codes at the least sum of distances (Hungarian algorithm). No resolution moves fewer: of n
    items that share one SID, n-1 must leave.

    A group of more than K items cannot be resolved on the last level. Nobody in it moves; the whole
    catalogue gets a further level, whose code is an item's rank by distance among the items of its
    SID (0 where it is alone). More than K items of one SID need that rank in base K, hence more
    than one further level.

    Args:
        sids: int [N, L], codes in [0, K).
        distances: float [N, K], item to each code of the last level (squared distance of the
            residual before it), from `Quantizer.last_level_distances`.
        codes: K.

    Raises:
        ValueError: shapes or codes do not fit together.
    """
    _check(sids, distances, codes)
    resolved = sids.astype(np.int32, copy=True)
    overfull: list[NDArray[np.intp]] = []
    for group in _groups(sids[:, :-1]):
        if len(group) > codes:
            overfull.append(group)
        else:
            resolved[group, -1] = _spread(resolved[group, -1], distances[group])
    moved = resolved[:, -1] != sids[:, -1]
    if overfull:
        resolved = np.hstack([resolved, _disambiguate(resolved, distances, overfull, codes)])
    return Resolution(resolved, moved)


def _check(sids: Ints, distances: Floats, codes: int) -> None:
    if sids.ndim != 2 or sids.shape[1] < 1 or not np.issubdtype(sids.dtype, np.integer):
        raise ValueError(f"sids: expected int [N, L], found {sids.dtype} {list(sids.shape)}")
    if distances.shape != (len(sids), codes):
        raise ValueError(
            f"distances: expected [N, K] = [{len(sids)}, {codes}], found {list(distances.shape)}"
        )
    if len(sids) and (sids.min() < 0 or sids.max() >= codes):
        raise ValueError(f"sids: codes in [{sids.min()}, {sids.max()}], expected [0, {codes})")
    if not np.isfinite(distances).all():
        raise ValueError(
            "distances: contain NaN or infinity; the embeddings or weights are damaged"
        )


def _groups(rows: NDArray[np.integer]) -> Iterator[NDArray[np.intp]]:
    """Yields the ascending indices of equal rows, for every row that occurs more than once."""
    if not len(rows):
        return
    if rows.shape[1]:
        _, label = np.unique(rows, axis=0, return_inverse=True)
    else:  # one level: every item has the same, empty prefix
        label = np.zeros(len(rows), dtype=np.intp)
    order = np.argsort(label.reshape(-1), kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(label.reshape(-1)[order])) + 1):
        if len(group) > 1:
            yield group


def group_sizes(sids: NDArray[np.integer]) -> NDArray[np.intp]:
    """Returns, for every item, how many items have its SID. [N]."""
    sizes = np.ones(len(sids), dtype=np.intp)
    for group in _groups(sids):
        sizes[group] = len(group)
    return sizes


def _spread(last: Ints, distances: Floats) -> Ints:
    """Returns distinct last codes for one group of n <= K items; see `resolve_collisions`."""
    own = distances[np.arange(len(last)), last]
    order = np.lexsort((np.arange(len(last)), own, last))  # by code, then distance, then item
    keeps = np.ones(len(last), dtype=bool)
    keeps[order[1:]] = last[order[1:]] != last[order[:-1]]
    movers = np.flatnonzero(~keeps)
    spread = last.copy()
    if len(movers):
        from scipy.optimize import linear_sum_assignment  # who names tokens resolves no collisions

        free = np.setdiff1d(np.arange(distances.shape[1]), last)
        rows, columns = linear_sum_assignment(distances[np.ix_(movers, free)])
        spread[movers[rows]] = free[columns]
    return spread


def _disambiguate(
    sids: Ints, distances: Floats, groups: list[NDArray[np.intp]], codes: int
) -> Ints:
    """Returns the further levels: ranks within a SID, in base K, most significant digit first."""
    rank = np.zeros(len(sids), dtype=np.int64)
    for group in groups:
        for same in _groups(sids[group]):
            rows = group[same]
            own = distances[rows, sids[rows, -1]]
            rank[rows[np.lexsort((rows, own))]] = np.arange(len(rows))
    return further_levels(rank, codes=codes)


def further_levels(rank: NDArray[np.int64], *, codes: int) -> Ints:
    """Returns ranks as the codes of further levels: base K, most significant digit first.

    Args:
        rank: int64 [N], from 0.
        codes: K, at least 2 where a rank is above 0.

    Returns:
        int32 [N, as many levels as the largest rank needs].
    """
    base = max(codes, 2)
    digits = [rank % base]
    while (rank := rank // base).any():
        digits.append(rank % base)
    return np.stack(digits[::-1], axis=1).astype(np.int32)
