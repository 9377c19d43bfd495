"""The trie of all SIDs of a catalogue, as flat sorted arrays.

Rows are sorted lexicographically, so the children of a node, the items below a node and the items
of one SID are each a contiguous range: a node is one integer and needs 8 bytes, its code and where
its children start. The layout follows STATIC (arXiv 2602.22647) without its next-state array and
dense tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


class SIDTrie:
    """Prefixes of SIDs -> codes that may follow, and SIDs -> items. Immutable.

    Attributes:
        num_items: number of items N.
        levels: number of codes per SID, L.
        num_codes: per level, the largest code + 1.
        fan_out: per level, the largest number of children that a node of the level above has.
        node_codes: per level, the code of each node. int32 [n_l].
        first_child: per level, where what is below each node starts: children of node i are nodes
            first_child[l][i] to first_child[l][i + 1] of the next level. Below the last level,
            whose nodes are SIDs, are the rows of `row_items`. int32 [n_l + 1].
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
        columns = _checked(codes)
        # lexsort is stable, which keeps items that share a SID in ascending order.
        order = np.lexsort(columns[::-1]).astype(np.int32)
        rows = np.arange(len(order), dtype=np.int32)
        starts = np.zeros(len(order), dtype=bool)  # does a new node of this level start here?
        starts[0] = True
        self.node_codes: list[NDArray[np.int32]] = []
        self.first_child: list[NDArray[np.int32]] = []
        above = np.zeros(1, dtype=np.int32)  # rows where the nodes of the level above start
        for level, column in enumerate(columns):
            column = column[order]
            starts[1:] |= column[1:] != column[:-1]
            first = rows[starts]
            self.node_codes.append(column[first].astype(np.int32))
            if level:  # a child of a node starts where the node starts
                number = np.cumsum(starts, dtype=np.int32)  # of each row's node, from 1
                self.first_child.append(_closed(number[above] - 1, len(first)))
            above = first
        self.first_child.append(_closed(above, len(order)))
        self.row_items = order
        self._measure()

    def _measure(self) -> None:
        self.num_items, self.levels = len(self.row_items), len(self.node_codes)
        self.num_codes = [int(codes.max()) + 1 for codes in self.node_codes]
        self.fan_out = [len(self.node_codes[0])]
        self.fan_out += [int(np.diff(pointers).max()) for pointers in self.first_child[:-1]]

    def arrays(self) -> dict[str, NDArray[np.int32]]:
        """Returns all that the trie is made of, by name; `from_arrays` is the inverse."""
        named = {"row_items": self.row_items}
        for level in range(self.levels):
            named[f"node_codes.{level}"] = self.node_codes[level]
            named[f"first_child.{level}"] = self.first_child[level]
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, NDArray[np.int32]]) -> SIDTrie:
        """Makes a trie of what `arrays` returned; other names are left alone.

        Raises:
            ValueError: if an array is missing or does not fit the others.
        """
        levels = sum(name.startswith("node_codes.") for name in named)
        wanted = ["row_items"]
        wanted += [f"{part}.{i}" for i in range(levels) for part in ("node_codes", "first_child")]
        missing = [name for name in wanted if name not in named]
        if missing or not levels:
            raise ValueError(f"no trie: {missing or ['node_codes.0']} missing; build and save it")
        trie = cls.__new__(cls)
        trie.row_items = named["row_items"]
        trie.node_codes = [named[f"node_codes.{level}"] for level in range(levels)]
        trie.first_child = [named[f"first_child.{level}"] for level in range(levels)]
        below = [*(len(codes) for codes in trie.node_codes[1:]), len(trie.row_items)]
        for level, (codes, pointers) in enumerate(
            zip(trie.node_codes, trie.first_child, strict=True)
        ):
            ends = pointers.shape == (len(codes) + 1,) and (pointers[0], pointers[-1])
            if not len(codes) or ends != (0, below[level]):
                raise ValueError(f"no trie: level {level} does not fit the one below")
        trie._measure()
        return trie

    def save(self, path: str | Path) -> None:
        """Writes the trie as one safetensors file."""
        save_file(self.arrays(), path)

    @classmethod
    def load(cls, path: str | Path) -> SIDTrie:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds no trie.
        """
        try:
            return cls.from_arrays(load_file(path))
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: {error}; expected a file written by SIDTrie.save") from error

    @cached_property
    def row_of_item(self) -> NDArray[np.int32]:
        """The place of each item in `row_items`. int32 [N]."""
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
        start, end = self.first_child[-1][(node := self._node(sid)) : node + 2]
        return self.row_items[start:end].copy()

    def below(self, prefix: Iterable[int]) -> NDArray[np.int32]:
        """Returns the items whose SIDs start with a prefix; all items for the empty one.

        Args:
            prefix: up to L codes.

        Returns:
            Ascending int32 array of at least one item.

        Raises:
            KeyError: if no item starts so.
        """
        prefix = tuple(index(code) for code in prefix)
        start, end = 0, len(self.node_codes[0])
        if prefix:
            start = self._node(prefix)
            end = start + 1
        for pointers in self.first_child[max(len(prefix) - 1, 0) :]:
            start, end = int(pointers[start]), int(pointers[end])
        return np.sort(self.row_items[start:end])

    def sids_of_rows(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Returns the SIDs of sorted rows, not of items.

        Args:
            rows: positions in `row_items`, any shape [...].

        Returns:
            int32 [..., L].
        """
        nodes, columns = np.asarray(rows), []
        for codes, first in zip(self.node_codes[::-1], self.first_child[::-1], strict=True):
            nodes = np.searchsorted(first[1:], nodes, side="right")
            columns.append(codes[nodes])
        return np.stack(columns[::-1], axis=-1)

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


def _closed(starts: NDArray[np.integer], end: int) -> NDArray[np.int32]:
    return np.append(starts, np.int32(end))


def _checked(codes: ArrayLike) -> list[NDArray[np.integer]]:
    """Returns the columns of `codes`, one per level, or says what is wrong with them."""
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
    # Columns of 8 or 16 bits are sorted by radix, several times faster and in less memory.
    dtype = np.uint8 if high < 2**8 else np.uint16 if high < 2**16 else np.int32
    return [table[:, level].astype(dtype) for level in range(table.shape[1])]
