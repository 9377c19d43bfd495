"""The trie of all SIDs of a catalogue, as flat sorted arrays.

Rows are sorted lexicographically, so the children of a node, the items below a node and the items
of one SID are each a contiguous range: a node is one integer and needs 12 bytes. The layout
follows STATIC (arXiv 2602.22647) without its next-state array and dense tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import index

import numpy as np
from numpy.typing import ArrayLike, NDArray


class SIDTrie:
    """Prefixes of SIDs -> codes that may follow, and SIDs -> items. Immutable.

    Attributes:
        num_items: number of items N.
        levels: number of codes per SID, L.
        num_codes: per level, the largest code + 1.
        fan_out: per level, the largest number of children that a node of the level above has.
        node_codes: per level, the code of each node. int32 [n_l].
        first_child: per level, where the children of each node start in the next level; children of
            node i are nodes first_child[i] to first_child[i + 1]. int32 [n_l + 1]. Not for the last
            level, whose nodes are SIDs.
        first_row: per level, where the rows of each node start in `row_items`. int32 [n_l + 1].
        row_items: the items in order of (SID, item). int32 [N].
    """

    def __init__(self, codes: ArrayLike) -> None:
        """Builds the trie.

        Args:
            codes: the SIDs. Integer array [N, L], row i is item i; several items may share a SID.

        Raises:
            ValueError: if the array is empty, not two-dimensional, not of integers, or has a code
                below 0 or above 2**31 - 1.
        """
        table = _checked(codes)
        self.num_items, self.levels = table.shape
        # lexsort is stable, which keeps items that share a SID in ascending order.
        order = np.lexsort(table.T[::-1])
        table = table[order]
        self.row_items = order.astype(np.int32)

        starts = np.zeros(self.num_items, dtype=bool)  # does a new node of this level start here?
        starts[0] = True
        self.node_codes: list[NDArray[np.int32]] = []
        self.first_row: list[NDArray[np.int32]] = []
        for level in range(self.levels):
            column = table[:, level]
            starts[1:] |= column[1:] != column[:-1]
            first = np.flatnonzero(starts)
            self.node_codes.append(column[first])
            self.first_row.append(np.append(first, self.num_items).astype(np.int32))
        # A child of a node starts where the node starts, so pointers are positions of equal rows.
        self.first_child = [
            np.searchsorted(below, above).astype(np.int32)
            for above, below in zip(self.first_row, self.first_row[1:], strict=False)
        ]
        self.num_codes = [int(codes_.max()) + 1 for codes_ in self.node_codes]
        self.fan_out = [len(self.node_codes[0])]
        self.fan_out += [int(np.diff(pointers).max()) for pointers in self.first_child]

    @cached_property
    def row_of_item(self) -> NDArray[np.int32]:
        """Where each item stands in `row_items`. int32 [N]."""
        rows = np.empty(self.num_items, dtype=np.int32)
        rows[self.row_items] = np.arange(self.num_items, dtype=np.int32)
        return rows

    def __repr__(self) -> str:
        nodes = ", ".join(str(len(codes)) for codes in self.node_codes)
        return f"SIDTrie(items={self.num_items}, levels={self.levels}, nodes=[{nodes}])"

    def children(self, prefix: Iterable[int]) -> NDArray[np.int32]:
        """Returns the codes that may follow a prefix.

        Args:
            prefix: the first codes of a SID; empty for the first level.

        Returns:
            Ascending int32 array; empty if the prefix is a whole SID, which nothing follows.

        Raises:
            KeyError: if no item starts so.
        """
        prefix = tuple(index(code) for code in prefix)
        if not prefix:
            return self.node_codes[0].copy()
        node = self._node(prefix)
        if len(prefix) == self.levels:
            return np.empty(0, dtype=np.int32)
        start, end = self.first_child[len(prefix) - 1][node : node + 2]
        return self.node_codes[len(prefix)][start:end].copy()

    def items(self, sid: Iterable[int]) -> NDArray[np.int32]:
        """Returns the items that share a SID.

        Args:
            sid: the L codes.

        Returns:
            Ascending int32 array of at least one item.

        Raises:
            KeyError: if no item has this SID.
        """
        sid = tuple(index(code) for code in sid)
        if len(sid) != self.levels:
            raise KeyError(f"{sid} has {len(sid)} codes; a SID of this catalogue has {self.levels}")
        start, end = self.first_row[-1][(node := self._node(sid)) : node + 2]
        return self.row_items[start:end].copy()

    def sids_of_rows(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Returns the SIDs of sorted rows, not of items.

        Args:
            rows: positions in `row_items`, any shape [...].

        Returns:
            int32 [..., L].
        """
        columns = [
            codes[np.searchsorted(first[1:], rows, side="right")]
            for codes, first in zip(self.node_codes, self.first_row, strict=True)
        ]
        return np.stack(columns, axis=-1)

    def _node(self, prefix: Sequence[int]) -> int:
        """Walks from the root; returns the number of the prefix's node within its level."""
        if len(prefix) > self.levels:
            raise KeyError(f"no item starts with {tuple(prefix)}: SIDs have {self.levels} codes")
        start, end, node = 0, len(self.node_codes[0]), 0
        for level, code in enumerate(prefix):
            siblings = self.node_codes[level][start:end]
            node = start + int(np.searchsorted(siblings, code))
            if node == end or self.node_codes[level][node] != code:
                raise KeyError(f"no item starts with {tuple(prefix[: level + 1])}")
            if level + 1 < self.levels:
                start, end = (int(i) for i in self.first_child[level][node : node + 2])
        return node


def _checked(codes: ArrayLike) -> NDArray[np.int32]:
    """Returns `codes` as an int32 table [N, L], or says what is wrong with them."""
    expected = "expected an integer array [items, levels], one row of codes per item"
    try:
        table = np.asarray(codes)
    except ValueError as error:  # numpy's word for rows of unequal length
        raise ValueError(f"SIDs of unequal length; {expected}") from error
    if table.ndim != 2:
        raise ValueError(f"SIDs of shape {table.shape}; {expected}")
    if table.size == 0:
        raise ValueError(f"no SIDs: shape {table.shape}; {expected}")
    if not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"SIDs of dtype {table.dtype}; {expected}")
    low, high = table.min(), table.max()
    if low < 0 or high >= 2**31:
        item, level = np.argwhere((table < 0) | (table >= 2**31))[0]
        raise ValueError(
            f"item {item} has code {table[item, level]} on level {level}; codes are 0 to 2**31 - 1"
        )
    return table.astype(np.int32)
