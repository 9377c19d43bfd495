"""Which items each user may be given, counted per trie node: the trie is never built again.

The rows below a node are contiguous, so "how many eligible items has this node" is a difference of
two counts. Nodes without any are masked at every level: masking SIDs only would leave dead ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.sid.trie import SIDTrie

ItemLists = Sequence[Any]  # one collection of items per user


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
    def of_mask(
        cls, trie: SIDTrie, mask: Mask, *, device: torch.device | str = "cpu"
    ) -> Eligibility:
        """Counts a mask once, for any number of requests: pass the result as `allowed`.

        Args:
            trie: the catalogue.
            mask: the items to allow, bool [N] for all users or [B, N].
            device: where the model is.

        Raises:
            ValueError: if it is not a bool array of that shape.
        """
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool or mask.ndim not in (1, 2) or mask.shape[-1] != trie.num_items:
            raise ValueError(
                f"allowed is a mask of {mask.dtype}, shape {list(mask.shape)}; expected bool "
                f"[{trie.num_items}] (items) or [users, {trie.num_items}]"
            )
        rows = torch.from_numpy(trie.row_items).to(device)
        in_order = torch.atleast_2d(mask.to(device)).index_select(1, rows)
        before = torch.zeros(len(in_order), trie.num_items + 1, dtype=torch.int32, device=device)
        torch.cumsum(in_order, 1, dtype=torch.int32, out=before[:, 1:])
        return cls(num_items=trie.num_items, before=before, keys=None, listed=False)

    @classmethod
    def build(
        cls,
        trie: SIDTrie,
        allowed: Allowed | None,
        exclude: ItemLists | None,
        *,
        users: int,
        device: torch.device | str,
    ) -> Eligibility | None:
        """Reads the two filters of a request.

        Args:
            trie: the catalogue.
            allowed: bool [N] for all users, bool [B, N], such a mask counted before (`of_mask`), or
                B lists of items. None allows all.
            exclude: B lists of items. None excludes none.
            users: number of users B.
            device: where the counts are wanted.

        Returns:
            The eligibility; None if neither filter is given.

        Raises:
            ValueError: if a filter has the wrong shape or dtype or names an unknown item.
        """
        before = keys = None
        listed = False
        if _is_mask(allowed):
            allowed = cls.of_mask(trie, allowed, device=device)
        if isinstance(allowed, Eligibility):
            before = allowed._counts(trie, users).to(device)
        elif allowed is not None:
            keys, listed = _keys(allowed, trie.row_of_item, users, "allowed"), True
        if exclude is not None:
            banned = _keys(exclude, trie.row_of_item, users, "exclude")
            keys = banned if keys is None else np.setdiff1d(keys, banned, assume_unique=True)
        if before is None and keys is None:
            return None
        on_device = None if keys is None else torch.from_numpy(keys).to(device)
        if before is not None and on_device is not None:  # ban only what the mask counts
            user, row = on_device // (trie.num_items + 1), on_device % (trie.num_items + 1)
            counts = cls(trie.num_items, before, None, listed=False)
            on_device = on_device[counts.contains(user, row)]
        return cls(num_items=trie.num_items, before=before, keys=on_device, listed=listed)

    def take(self, users: torch.Tensor) -> Eligibility:
        """Returns the filters of some users, who are numbered from 0 in this order.

        Args:
            users: int64 [b], distinct.
        """
        before, keys = self.before, self.keys
        if before is not None and len(before) > 1:
            before = before[users.to(before.device)]
        if keys is not None:
            users = users.to(keys.device)
            order = users.argsort()
            user, row = keys // (self.num_items + 1), keys % (self.num_items + 1)
            place = torch.searchsorted(users[order], user).clamp(max=len(users) - 1)
            there = users[order][place] == user
            keys = order[place[there]] * (self.num_items + 1) + row[there]
            keys = keys.sort().values
        return Eligibility(self.num_items, before, keys, self.listed)

    def _counts(self, trie: SIDTrie, users: int) -> torch.Tensor:
        if self.before is None or self.keys is not None or self.num_items != trie.num_items:
            raise ValueError(
                f"allowed was counted for {self.num_items} items or from lists; expected what "
                f"Eligibility.of_mask returns for this catalogue of {trie.num_items} items"
            )
        if len(self.before) not in (1, users):
            raise ValueError(
                f"allowed is a mask of {len(self.before)} users; expected 1 or {users}"
            )
        return self.before

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
            position = torch.searchsorted(self.keys, user * (self.num_items + 1) + row)
            count = position if self.listed else count - position
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


Mask = torch.Tensor | NDArray[np.bool_]
Allowed = Mask | Eligibility | ItemLists


def _is_mask(allowed: Any) -> TypeGuard[Mask]:
    """Tells a mask from lists of items, which may also come as one array of integers."""
    if not isinstance(allowed, torch.Tensor | np.ndarray):
        return False
    return allowed.dtype in (torch.bool, np.bool_)


def _keys(lists: Any, row_of_item: NDArray[np.int32], users: int, name: str) -> NDArray[np.int64]:
    """Returns user * (N + 1) + row of every listed item, ascending and without repeats."""
    if isinstance(lists, str) or not hasattr(lists, "__len__") or len(lists) != users:
        given = f"{len(lists)} entries" if hasattr(lists, "__len__") else type(lists).__name__
        raise ValueError(
            f"{name} has {given}; expected one list of items for each of {users} users"
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
