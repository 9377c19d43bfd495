"""Which items each user may be given: counted per trie node, so that no rebuild is ever needed.

The rows below a node are contiguous, so "how many eligible items has this node" is a difference of
two counts. Nodes without any are masked at every level: masking SIDs only would leave dead ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.sid.trie import SIDTrie

ItemLists = Sequence[Any]  # one collection of items per user
Allowed = torch.Tensor | NDArray[np.bool_] | ItemLists


@dataclass(frozen=True)
class Eligibility:
    """Counts of eligible catalogue rows, from one of three sources or two of them together.

    Attributes:
        num_items: number of items N.
        before: eligible rows before each row, from a mask. int32 [1 or B, N + 1], or None.
        keys: user * (N + 1) + row of every listed row, ascending. int64 [...], or None.
        listed: whether `keys` names the eligible rows (then `before` is None) or rows to take away
            from those that `before` counts (then every key is a row that `before` counts).
    """

    num_items: int
    before: torch.Tensor | None
    keys: torch.Tensor | None
    listed: bool

    @classmethod
    def build(
        cls,
        trie: SIDTrie,
        allowed: Allowed | None,
        exclude: ItemLists | None,
        *,
        users: int,
        device: torch.device,
    ) -> Eligibility | None:
        """Reads the two filters of a request.

        Args:
            trie: the catalogue.
            allowed: bool [N] for all users, bool [B, N], or B lists of items. None allows all.
            exclude: B lists of items. None excludes none.
            users: number of users B.
            device: where the counts are wanted.

        Returns:
            The eligibility; None if neither filter is given.

        Raises:
            ValueError: if a filter has the wrong shape or dtype or names an unknown item.
        """
        if allowed is None and exclude is None:
            return None
        keys = mask = None
        if allowed is not None:
            mask = _as_mask(allowed, trie, users)
            if mask is None:
                keys = _keys(allowed, trie.row_of_item, users, "allowed")
        listed = keys is not None
        if exclude is not None:
            banned = _keys(exclude, trie.row_of_item, users, "exclude")
            if keys is not None:
                keys = np.setdiff1d(keys, banned, assume_unique=True)
            elif mask is not None:
                user, row = np.divmod(banned, trie.num_items + 1)
                keys = banned[mask[user if len(mask) > 1 else 0, row]]
            else:
                keys = banned
        return cls(
            num_items=trie.num_items,
            before=None if mask is None else _counts_before(mask).to(device),
            keys=None if keys is None else torch.from_numpy(keys).to(device),
            listed=listed,
        )

    def count_before(self, user: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Counts a user's eligible rows before a row, up to a constant of the user.

        Args:
            user: int64, broadcastable to `row`.
            row: int64 [...], 0 to N.

        Returns:
            int64 [...]; differences of two of these count the eligible rows in between.
        """
        count = torch.zeros_like(row) if self.listed else row
        if self.before is not None:
            single = len(self.before) == 1
            count = self.before[0 if single else user.expand_as(row), row].long()
        if self.keys is not None:
            found = torch.searchsorted(self.keys, user * (self.num_items + 1) + row)
            count = found if self.listed else count - found
        return count

    def contains(self, user: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Tells whether each user may be given the item of each row.

        Args:
            user: int64 [...].
            row: int64 [...], 0 to N - 1.

        Returns:
            bool [...].
        """
        return self.count_before(user, row + 1) > self.count_before(user, row)


def _as_mask(allowed: Allowed, trie: SIDTrie, users: int) -> NDArray[np.bool_] | None:
    """Returns a dense mask in row order, [1 or B, N]; None if `allowed` is lists of items."""
    if not isinstance(allowed, torch.Tensor | np.ndarray):
        return None
    mask = allowed.cpu().numpy() if isinstance(allowed, torch.Tensor) else allowed
    if mask.dtype != np.bool_:
        return None
    if mask.shape not in ((trie.num_items,), (users, trie.num_items)):
        raise ValueError(
            f"allowed is a mask of shape {mask.shape}; expected [{trie.num_items}] (items) or "
            f"[{users}, {trie.num_items}] (users, items)"
        )
    return np.atleast_2d(mask)[:, trie.row_items]


def _counts_before(mask: NDArray[np.bool_]) -> torch.Tensor:
    counts = np.zeros((len(mask), mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(mask, axis=1, out=counts[:, 1:])
    return torch.from_numpy(counts)


def _keys(lists: Any, row_of_item: NDArray[np.int32], users: int, name: str) -> NDArray[np.int64]:
    """Returns user * (N + 1) + row of every listed item, ascending and without repeats."""
    if isinstance(lists, str) or not hasattr(lists, "__len__") or len(lists) != users:
        found = f"{len(lists)} entries" if hasattr(lists, "__len__") else type(lists).__name__
        raise ValueError(
            f"{name} has {found}; expected one list of items for each of {users} users"
        )
    items = [_user_items(entry, user, len(row_of_item), name) for user, entry in enumerate(lists)]
    user = np.repeat(np.arange(users), [len(entry) for entry in items])
    rows = row_of_item[np.concatenate(items)]
    return np.unique(user * (len(row_of_item) + 1) + rows)


def _user_items(entry: Any, user: int, num_items: int, name: str) -> NDArray[np.int64]:
    """Returns one user's list as an int64 array, or says what is wrong with it."""
    if isinstance(entry, torch.Tensor):
        entry = entry.cpu().numpy()
    elif isinstance(entry, set | frozenset):
        entry = sorted(entry)
    items = np.asarray(entry)
    if items.ndim == 1 and items.size == 0:
        return np.empty(0, dtype=np.int64)
    if items.ndim != 1 or not np.issubdtype(items.dtype, np.integer):
        raise ValueError(
            f"{name}[{user}] is {items.dtype} of shape {items.shape}; expected a list of item "
            "numbers (a mask must be one bool array [items] or [users, items])"
        )
    unknown = items[(items < 0) | (items >= num_items)]
    if unknown.size:
        raise ValueError(f"{name}[{user}] names item {unknown[0]}; items are 0 to {num_items - 1}")
    return items.astype(np.int64)
