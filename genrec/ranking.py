"""Ranked lists of items, the one form that every part makes, and the one top-k with its tie rule.

The tie rule: the higher score first; of equal scores the lower item number. Scores are compared as
the float32 that is kept, so that what a reader sees as equal is ranked as equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import polars as pl
    import torch

    Array = npt.NDArray[Any] | torch.Tensor


@dataclass(frozen=True)
class RankedLists:
    """The lists of U users, best first; numpy arrays, or tensors of one device.

    Attributes:
        items: int [U, K], item numbers (of an index: ids); -1 where a user has fewer than K items.
            A -1 stands only after a user's last item.
        scores: float32 [U, K], higher is better within one user; -inf where `items` is -1.
    """

    items: Any
    scores: Any

    @property
    def valid(self) -> Any:
        """Whether there is an item at this place. bool [U, K]."""
        return self.items >= 0

    @property
    def ranks(self) -> npt.NDArray[np.int32]:
        """Places from 1, 0 where there is no item. int32 [U, K]."""
        items = np.asarray(self.items)
        return np.where(items >= 0, np.arange(1, items.shape[1] + 1), 0).astype(np.int32)

    def __len__(self) -> int:
        """U."""
        return len(self.items)

    @classmethod
    def empty(cls, users: int, k: int, *, ids: npt.DTypeLike = np.int32) -> Self:
        """Returns U lists without items, in numpy, whose items are of the type `ids`."""
        return cls(np.full((users, k), -1, ids), np.full((users, k), -np.inf, np.float32))

    def put(self, rows: slice, lists: RankedLists) -> None:
        """Fills in the lists of some of the users; these may be tensors, of whatever device."""
        for name in ("items", "scores"):
            part = getattr(lists, name)
            getattr(self, name)[rows] = part if isinstance(part, np.ndarray) else part.cpu().numpy()

    def renumbered(self, numbers: npt.NDArray[np.integer]) -> RankedLists:
        """Returns the lists, in numpy, with `numbers[i]` in place of item i. int [N]."""
        items = np.asarray(self.items)
        return RankedLists(np.where(items >= 0, numbers[items], -1), self.scores)

    @classmethod
    def concatenated(cls, parts: Sequence[RankedLists]) -> RankedLists:
        """Returns the lists of several groups of users, in numpy, one group after the other."""
        items, scores = (
            np.concatenate([np.asarray(getattr(part, name)) for part in parts])
            for name in ("items", "scores")
        )
        return RankedLists(items, scores)

    def filtered(self, allowed: Iterable[npt.NDArray[np.bool_]], k: int) -> RankedLists:
        """Returns the first k items of each list that are allowed there, in numpy.

        Args:
            allowed: for each list, which of the N items may stay. U masks, bool [N].
            k: length of the new lists; a place without an item is -1.
        """
        kept = RankedLists.empty(len(self), k)
        for row, (mask, items) in enumerate(zip(allowed, self.items, strict=True)):
            first = np.flatnonzero((items >= 0) & mask[items])[:k]
            kept.items[row, : len(first)] = items[first]
            kept.scores[row, : len(first)] = self.scores[row, first]
        return kept

    def to_table(self, users: npt.ArrayLike) -> pl.DataFrame:
        """Returns the lists as a table of schema `RECOMMENDATIONS`, by user, rank, item.

        Args:
            users: int [U], each user once.

        Raises:
            ValueError: the shapes do not fit, a user stands twice, or an item follows a -1.
        """
        import polars as pl  # who searches writes no tables

        from genrec import schema

        users, items = np.asarray(users), np.asarray(self.items)
        scores = np.asarray(self.scores)
        if items.ndim != 2 or items.shape != scores.shape or users.shape != items.shape[:1]:
            raise ValueError(
                f"users {users.shape}, items {items.shape}, scores {scores.shape}: expected [U], "
                "[U, K] and [U, K]"
            )
        if len(np.unique(users)) != len(users):
            raise ValueError("a user stands twice; each user has one list")
        valid = items >= 0
        if (valid[:, 1:] & ~valid[:, :-1]).any():
            raise ValueError("an item follows a -1; put a user's items first, the -1s last")
        row, place = np.nonzero(valid)
        columns = {
            "user": users[row],
            "item": items[row, place],
            "score": scores[row, place],
            "rank": self.ranks[row, place],
        }
        table = pl.DataFrame(columns).cast(dict(schema.RECOMMENDATIONS))  # type: ignore[arg-type]
        return table.sort("user", "rank", "item")


def top_k(scores: Array, k: int) -> RankedLists:
    """Returns each row's k best columns by the tie rule.

    Args:
        scores: float32 [U, N], numpy or torch; -inf leaves an item out. Float64 is rounded first.
        k: length of the lists; places beyond N are -1.

    Returns:
        Lists of the same library and device as `scores`: int32 or, for tensors, int64 items.

    Raises:
        ValueError: k is below 1.
        FloatingPointError: a score is NaN or +inf.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    if isinstance(scores, np.ndarray):
        return _top_k_numpy(scores.astype(np.float32, copy=False), k)
    return _top_k_torch(scores.float(), k)


def best_first(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns the positions of the scores, best first, equal ones in order. [N] -> int64 [N]."""
    return np.argsort(-scores, kind="stable")


def places_in_rows(row: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Returns the place of each entry within its own row, from 0. Ascending int [n] -> int64 [n]."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def best_of_rows(
    row: npt.NDArray[np.integer], score: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the k best entries of each row, where rows have different lengths.

    Args:
        row: int [n], the row of each entry, 0 or more.
        score: float32 [n]; equal ones keep the order in which they are given.
        k: how many of each row.

    Returns:
        Positions of the entries, int64 [m], row by row, best first, and the place of each in its row,
        from 0.
    """
    bits = (score + np.float32(0)).view(np.int32).astype(np.int64)  # + 0: no -0.0
    # A row and a falling score make one integer key, faster to sort than two keys.
    key = (row.astype(np.int64) << 32) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = np.argsort(key, kind="stable")
    place = places_in_rows(row[order])
    best = place < k
    return order[best], place[best]


def first_allowed(
    order: npt.NDArray[np.int64],
    k: int,
    *,
    num_rows: int,
    banned_row: npt.NDArray[np.int64],
    banned_item: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Returns for each row the first k items of one order that are not banned there.

    Only the head of `order` is looked at: a row with b banned items needs its first k + b.

    Args:
        order: int [N], all items, best first.
        k: how many.
        num_rows: B.
        banned_row: int [n], the row of each ban.
        banned_item: int [n], the item of each ban.

    Returns:
        int64 [B, k], -1 where fewer are left.
    """
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    longest = int(np.bincount(banned_row, minlength=1).max())
    head = min(len(order), k + longest)
    banned = np.zeros((num_rows, head), dtype=bool)
    place = position[banned_item]
    banned[banned_row[place < head], place[place < head]] = True
    first = np.argsort(banned, axis=1, kind="stable")[:, :k]  # allowed places first, in order
    items = np.where(np.take_along_axis(banned, first, axis=1), -1, order[first])
    return np.pad(items, ((0, 0), (0, k - items.shape[1])), constant_values=-1)


def tied_ranks(items: npt.NDArray[Any], tied: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Returns ranks from 1 in which tied neighbours share a rank: 1, 2, 2, 4.

    Args:
        items: int [U, K], -1 where there is none.
        tied: bool [U, K - 1], whether the item on place i + 1 ties with the one on place i.

    Returns:
        int32 [U, K]; 0 where there is no item.
    """
    place = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape).copy()
    if items.shape[1] > 1:
        place[:, 1:][tied & (items[:, 1:] >= 0)] = 0
        place = np.maximum.accumulate(place, axis=1)
    return np.where(items >= 0, place, 0).astype(np.int32)


def _top_k_numpy(scores: npt.NDArray[np.float32], k: int) -> RankedLists:
    width = min(k, scores.shape[1])
    lists = RankedLists.empty(len(scores), k)
    if not len(scores) or not width:
        return lists
    # The set first: all that are better than the score on the last place, then its equals in order.
    last = np.partition(scores, -width, axis=1)[:, [-width]]
    if np.isnan(last).any() or not (scores.max(axis=1) < np.inf).all():
        raise FloatingPointError("a score is NaN or infinite")
    above, equal = scores > last, scores == last
    room = width - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), width)
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    columns = np.take_along_axis(columns, order, axis=1)
    lists.items[:, :width] = np.where(np.isneginf(values), -1, columns)
    lists.scores[:, :width] = values
    return lists


def _top_k_torch(scores: torch.Tensor, k: int) -> RankedLists:
    width = min(k, scores.shape[1])
    columns = _columns_torch(scores, width)
    values = scores.gather(1, columns)
    if width and not (values[:, 0] < float("inf")).all():  # NaN comes first too
        raise FloatingPointError("a score is NaN or infinite")
    items = columns.masked_fill(~values.isfinite(), -1)
    shape = (len(scores), k)
    listed = RankedLists(items.new_full(shape, -1), values.new_full(shape, -float("inf")))
    listed.items[:, :width], listed.scores[:, :width] = items, values
    return listed


def _columns_torch(scores: torch.Tensor, width: int) -> torch.Tensor:
    """The columns of each row's `width` best scores, equal ones in order; int64 [U, width].

    `topk` promises nothing about ties, and a stable sort of everything takes 25 times as long: so
    rows in which a finite score stands twice up to the place after the last are ranked again, by keys.
    """
    best, columns = scores.topk(min(width + 1, scores.shape[1]), dim=1)
    tied = ((best[:, 1:] == best[:, :-1]) & best[:, 1:].isfinite()).any(dim=1)
    columns = columns[:, :width]
    if tied.any():
        columns[tied] = sort_keys(scores[tied]).topk(width, dim=1).indices
    return columns


def sort_keys(scores: torch.Tensor) -> torch.Tensor:
    """Returns distinct integers that sort as the tie rule does, highest first. [U, N] -> int64 [U, N].

    The bits of a float32 in an order that integers share, and below them the column.
    """
    import torch

    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: no -0.0
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (rising << 32) - torch.arange(scores.shape[1], device=scores.device)
