"""What a learned fusion looks at: a candidate in the sources' lists, its item, its user's history.

`Gate` takes the first functions alone; `LambdaRank` takes `features`, all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from genrec.retrieve.fusion.candidates import Candidates, Floats, contributions
from genrec.retrieve.sequences import Flat, flatten, training_sequences

Views = Mapping[str, npt.NDArray[np.float32]]
Matrix = npt.NDArray[np.float32]

_DECAY = 0.7  # what an item of the history counts, of the next newer one


class Facts(NamedTuple):
    """What is known of the N items beside the lists and their popularity; each may be absent.

    Attributes:
        follows: float32 [N, N], how often item j came right after item i in training.
        seen: float32 [N, 2], at which share of the training interactions, in the order of time, an
            item was first and last seen; NaN for one that was not.
        views: float32 [N, D] by name, rows of length 1, or 0 where a view knows nothing of an item.
    """

    follows: sparse.csr_array | None = None
    seen: Matrix | None = None
    views: Views = MappingProxyType({})


def facts_of(
    train: pl.DataFrame,
    *,
    num_items: int,
    interactions: pl.DataFrame | None = None,
    views: Views | None = None,
) -> Facts:
    """Collects what is known of the items.

    Args:
        train: training sequences, schema `SPLIT`.
        num_items: N.
        interactions: with times, schema `INTERACTIONS`; only rows of "train" are looked at. None where
            there are no times.
        views: as `Facts.views`.
    """
    flat = flatten(training_sequences(train), num_items=num_items)
    pair = flat.row[:-1] == flat.row[1:]
    places = (flat.item[:-1][pair], flat.item[1:][pair])
    ones = np.ones(int(pair.sum()), np.float32)
    follows = sparse.csr_array((ones, places), shape=(num_items, num_items))
    seen = None if interactions is None else _seen(interactions, num_items)
    return Facts(follows, seen, views or {})


def of_sources(rows: Candidates) -> Floats:
    """Returns score, 1/rank and presence in each source's list, float64 [C, 3 S]."""
    present = rows.present.astype(np.float64)
    return np.concatenate(
        [contributions(rows, "minmax"), np.nan_to_num(1 / rows.rank), present], axis=1
    )


def counts_of(popularity: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns training interactions of the items, int64 [N].

    Raises:
        ValueError: these are no counts.
    """
    counts = np.asarray(popularity)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"popularity is {counts.dtype} {counts.shape}; expected integers (N,), 0 or more"
        )
    return counts.astype(np.int64)


def check_items(rows: Candidates, num_items: int) -> None:
    """Checks that every candidate is an item.

    Raises:
        ValueError: one lies outside 0..num_items-1.
    """
    wrong = (rows.item < 0) | (rows.item >= num_items)
    if wrong.any():
        raise ValueError(
            f"candidate item {rows.item[wrong][0]} is unknown; expected 0..{num_items - 1}"
        )


def histories(rows: Candidates, users: pl.DataFrame) -> tuple[npt.NDArray[np.int64], pl.Series]:
    """Returns the row of `users` that each candidate belongs to, int64 [C], and their histories.

    Args:
        rows: the candidates.
        users: columns user and history.

    Raises:
        ValueError: a user stands twice, or has candidates but no history.
    """
    if users["user"].is_duplicated().any():
        raise ValueError("a user stands twice; expected one history per user")
    numbered = users.select(pl.col("user").cast(pl.Int32)).with_row_index("row")
    owners = pl.DataFrame({"user": rows.user}, schema={"user": pl.Int32})
    row = owners.join(numbered, on="user", how="left", maintain_order="left")["row"]
    if row.null_count():
        user = rows.user[row.is_null().to_numpy()][0]
        raise ValueError(f"user {user} has candidates, but no row with a history")
    return row.to_numpy().astype(np.int64), users["history"]


def feature_names(sources: Sequence[str], facts: Facts) -> list[str]:
    """Returns the names of the columns of `blocks`."""
    names = [f"{what} {name}" for what in _OF_SOURCE for name in sources] + [*_OF_LISTS, *_COUNTS]
    names += _FOLLOWS if facts.follows is not None else ()
    names += _SEEN if facts.seen is not None else ()
    return names + [f"{view}: {what}" for view in sorted(facts.views) for what in _NEARNESS]


def blocks(
    rows: Candidates, users: pl.DataFrame, popularity: npt.NDArray[np.int64], facts: Facts
) -> Iterator[tuple[slice, Matrix]]:
    """Yields the features of all candidates, some users at a time.

    Args:
        rows: all candidates of each user.
        users: columns user and history.
        popularity: int64 [N], training interactions of each item.
        facts: what else is known of the items.

    Yields:
        Which rows, and their features, float32 [n, F], in the order of `feature_names`. NaN is what is
        not known: nearness to no history, times of an item that training does not hold.

    Raises:
        ValueError: a user stands twice or has no history, or an item lies outside 0..N-1.
    """
    num_items = len(popularity)
    check_items(rows, num_items)
    owner, history = histories(rows, users)
    starts = [*np.flatnonzero(np.diff(owner, prepend=-1)).tolist(), len(owner)]
    step = max(1, min(_USERS, _CELLS // num_items))
    for first in range(0, len(starts) - 1, step):
        own = starts[first : first + step + 1]
        part, item = slice(own[0], own[-1]), rows.item[own[0] : own[-1]]
        flat = flatten([history[row] for row in owner[own[:-1]].tolist()], num_items=num_items)
        place = np.repeat(np.arange(len(own) - 1), np.diff(own))
        length = np.bincount(flat.row, minlength=flat.num_rows)[place]
        columns = [
            _of_lists(rows.taken(part)),
            np.log1p(np.stack([popularity[item], length], axis=1)),
        ]
        if facts.follows is not None:
            columns.append(_follows(item, place, flat, facts.follows))
        if facts.seen is not None:
            columns.append(facts.seen[item])
        columns += [_nearness(item, own, flat, facts.views[name]) for name in sorted(facts.views)]
        yield part, np.concatenate(columns, axis=1, dtype=np.float32)


_USERS, _CELLS = 512, 2**24  # users of a block; cells of [users, items] that it may hold
_OF_SOURCE = ("score", "1/rank")
VOTE = "sum of z-scores"
_OF_LISTS = ("sources", "best rank", "sum of 1/(1 + rank)", VOTE)
_COUNTS = ("popularity", "history")
_FOLLOWS = ("follows the last item", "follows the history")
_SEEN = ("first seen", "last seen")
_NEARNESS = ("last item", "mean of history", "nearest of history")


def _of_lists(rows: Candidates) -> Floats:
    """What the sources say of each candidate, [C, 2 S + 4]."""
    together = [
        rows.present.sum(axis=1),
        np.nanmin(rows.rank, axis=1),
        np.nan_to_num(1 / (1 + rows.rank)).sum(axis=1),
        contributions(rows, "zscore").sum(axis=1),
    ]
    place = np.nan_to_num(1 / rows.rank)
    return np.concatenate(
        [contributions(rows, "minmax"), place, np.stack(together, axis=1)], axis=1
    )


def _follows(
    item: npt.NDArray[np.int32],
    place: npt.NDArray[np.int64],
    flat: Flat,
    follows: sparse.csr_array,
) -> Matrix:
    """How often each candidate came after the last item, and after those of the history, [C, 2].

    Args:
        item: int [C].
        place: int [C], whose candidate it is.
        flat: the users' histories.
        follows: as `Facts.follows`.
    """
    shape = (flat.num_rows, follows.shape[0])
    columns = []
    for weight in (np.float32(flat.back == 0), np.float32(_DECAY) ** flat.back.astype(np.float32)):
        seen = sparse.csr_array((weight, (flat.row, flat.item)), shape=shape)
        columns.append((seen @ follows).toarray()[place, item])
    return np.stack(columns, axis=1)


def _nearness(item: npt.NDArray[np.int32], own: Sequence[int], flat: Flat, view: Matrix) -> Matrix:
    """Cosine of each candidate with the last item, the whole and the nearest of a history, [C, 3].

    Args:
        item: int [C].
        own: int [U + 1], where each user's candidates begin, of the whole table.
        flat: the users' histories.
        view: float32 [N, D].
    """
    found = np.full((len(item), 3), np.nan, np.float32)
    bounds = np.searchsorted(flat.row, np.arange(flat.num_rows + 1))
    for user in range(flat.num_rows):
        seen = flat.item[bounds[user] : bounds[user + 1]]
        if len(seen):
            part = slice(own[user] - own[0], own[user + 1] - own[0])
            cosine = view[item[part]] @ view[seen].T
            found[part] = np.stack([cosine[:, -1], cosine.mean(axis=1), cosine.max(axis=1)], axis=1)
    return found


def _seen(interactions: pl.DataFrame, num_items: int) -> Matrix:
    """See `Items.seen`."""
    train = interactions.filter(pl.col("split") == "train")
    share = (pl.col("timestamp").rank("average") - 0.5) / pl.len()
    times = (
        train.select("item", share=share)
        .group_by("item")
        .agg(first=pl.col("share").min(), last=pl.col("share").max())
    )
    found = np.full((num_items, 2), np.nan, np.float32)
    found[times["item"].to_numpy()] = times.select("first", "last").to_numpy()
    return found
