"""One beam step over the trie: score every child of every beam, keep the best, bound the rest.

The mask comes before the top-k, so what is kept is exactly the best of what the catalogue has. All
shapes are known beforehand and nothing is read back from the device. A level takes one of two ways
to the children, chosen when the trie is laid out: their list, which is short in a sparse level, or
one bit per code, where a node has children for a good part of all codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.decode.filters import Eligibility
from genrec.sid.trie import SIDTrie


class Beams(NamedTuple):
    """The beams of a batch after one level, each user's in ascending order of node.

    Attributes:
        nodes: their trie nodes on this level. int64 [B, W].
        scores: sum of log-probabilities; -inf for a slot that no eligible prefix fills.
            float32 [B, W].
        parents: which beam of the level above each one continues. int64 [B, W].
        bound: the best score that was pruned so far, which is the most that any lost item can
            have. float32 [B].
    """

    nodes: torch.Tensor
    scores: torch.Tensor
    parents: torch.Tensor
    bound: torch.Tensor


class Children(NamedTuple):
    """The children of some nodes, padded to the largest number on the level, F.

    Attributes:
        codes: int64 [B, W, F].
        live: whether it is a child, and one below which the user may be given an item.
            bool [B, W, F].
        nodes: their nodes; any node where not live. int32 [B, W, F].
    """

    codes: torch.Tensor
    live: torch.Tensor
    nodes: torch.Tensor


class TrieOnDevice:
    """The arrays of a `SIDTrie` as tensors where the model is, 8 bytes per node."""

    def __init__(self, trie: SIDTrie, *, device: torch.device | str, packed: bool = True) -> None:
        """Lays the trie out.

        Args:
            trie: the catalogue.
            device: where to. The CPU shares the trie's memory.
            packed: whether wide levels may use bits; the lists found are the same.
        """
        self.device = torch.device(device)
        self.levels, self.num_codes, self.fan_out = trie.levels, trie.num_codes, trie.fan_out
        self.codes = [torch.from_numpy(codes).to(device) for codes in trie.node_codes]
        # One more at the front: the children of the root.
        root = torch.tensor([0, len(trie.node_codes[0])], dtype=torch.int32, device=device)
        self.first_child = [root, *(torch.from_numpy(p).to(device) for p in trie.first_child)]
        self.row_items = torch.from_numpy(trie.row_items).to(device)
        self._bits = [_bits(trie, level) if packed else None for level in range(trie.levels)]
        self._bits = [None if bits is None else bits.to(device) for bits in self._bits]
        # Of each byte its bits as 8 bools, held as one int64 so that a lookup moves 8 at a time.
        flags = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._flags = torch.from_numpy(flags.view(np.int64).squeeze(1).copy()).to(device)
        self._popcount = torch.from_numpy(flags.sum(1, dtype=np.int64)).to(device)

    def start(self, users: int) -> Beams:
        """Returns the state before the first level: each user has the root as the only beam."""
        zeros = torch.zeros(users, 1, dtype=torch.int64, device=self.device)
        nothing = torch.full((users,), -torch.inf, device=self.device)
        return Beams(nodes=zeros, scores=zeros.float(), parents=zeros, bound=nothing)

    def advance(
        self,
        level: int,
        beams: Beams,
        log_probs: torch.Tensor,
        *,
        width: int,
        eligible: Eligibility | None = None,
    ) -> Beams:
        """Takes every beam one level down and keeps the best.

        Args:
            level: the level to go to.
            beams: the beams of the level above.
            log_probs: of every code of the level after each beam. float32 [B, W, C].
            width: how many beams to keep at most.
            eligible: the request's filters.

        Returns:
            The beams of `level`; min(width, candidates, nodes of the level) of them.
        """
        above = beams.nodes.shape[1]
        keep = min(width, above * self.fan_out[level], len(self.codes[level]))
        if self._bits[level] is None or eligible is not None:
            return self._by_list(level, beams, log_probs, keep, eligible)
        return self._by_bits(level, beams, log_probs, keep)

    def children(
        self, level: int, nodes: torch.Tensor, eligible: Eligibility | None = None
    ) -> Children:
        """Returns the children on `level` of nodes of the level above, int64 [B, W]."""
        pointers, last = self.first_child[level], len(self.codes[level])
        start, end = pointers[nodes].unsqueeze(-1), pointers[nodes + 1].unsqueeze(-1)
        # Children are contiguous, so they need no table; one boundary more closes the last.
        count = self.fan_out[level] + (eligible is not None)
        bounds = start + torch.arange(count, dtype=torch.int32, device=self.device)
        child = bounds[..., : self.fan_out[level]]
        live = child < end
        if eligible is not None:
            user = torch.arange(len(nodes), device=self.device).view(-1, 1, 1)
            rows = self.first_rows(level, bounds.clamp(max=last))
            live &= eligible.count_before(user, rows).diff(dim=-1) > 0
        child = child.clamp(max=last - 1)
        return Children(self.codes[level][child].long(), live, child)

    def first_rows(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Returns where the rows below nodes of `level` start; its number of nodes is allowed."""
        for pointers in self.first_child[level + 1 :]:
            nodes = pointers[nodes]
        return nodes

    def _by_list(
        self,
        level: int,
        beams: Beams,
        log_probs: torch.Tensor,
        keep: int,
        eligible: Eligibility | None,
    ) -> Beams:
        children = self.children(level, beams.nodes, eligible)
        scores = log_probs.gather(-1, children.codes) + beams.scores.unsqueeze(-1)
        scores = torch.where(children.live, scores, -torch.inf).flatten(1)
        kept, pruned = best(scores, keep)
        return Beams(
            nodes=children.nodes.flatten(1).gather(1, kept).long(),
            scores=scores.gather(1, kept),
            parents=kept // self.fan_out[level],
            bound=torch.maximum(beams.bound, pruned),
        )

    def _by_bits(self, level: int, beams: Beams, log_probs: torch.Tensor, keep: int) -> Beams:
        bits, codes = self._bits[level], self.num_codes[level]
        assert bits is not None
        words = bits[beams.nodes]  # [B, W, bytes]
        live = self._flags[words.int()].view(torch.bool)[..., :codes]
        scores = torch.where(live, log_probs + beams.scores.unsqueeze(-1), -torch.inf).flatten(1)
        kept, pruned = best(scores, keep)
        parents, code = kept // codes, kept % codes
        # A child's place among its siblings is the number of bits before its own.
        byte, place = code // 8, code % 8
        words = words.gather(1, parents.unsqueeze(-1).expand(-1, -1, words.shape[-1])).long()
        before = torch.arange(words.shape[-1], device=self.device) < byte.unsqueeze(-1)
        rank = (self._popcount[words] * before).sum(-1)
        own = words.gather(-1, byte.unsqueeze(-1)).squeeze(-1) & ((1 << place) - 1)
        start = self.first_child[level][beams.nodes.gather(1, parents)]
        nodes = start + rank + self._popcount[own]
        return Beams(
            nodes=nodes.clamp_(max=len(self.codes[level]) - 1),  # matters to empty slots only
            scores=scores.gather(1, kept),
            parents=parents,
            bound=torch.maximum(beams.bound, pruned),
        )


def best(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Selects the `width` largest of each row; of equal ones the first, which `topk` leaves open.

    Args:
        scores: float32 [B, M].
        width: how many, at most M.

    Returns:
        Their positions, ascending, int64 [B, width], and the largest score left out, float32 [B].
    """
    users, candidates = scores.shape
    place = torch.arange(candidates, device=scores.device)
    if width == candidates:
        return place.expand(users, -1), torch.full_like(scores[:, 0], -torch.inf)
    # Distinct keys make the top-k deterministic: bits of a float that sort as the float does, then
    # the place, the first one highest.
    bits = scores.view(torch.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = torch.add(-place, bits, alpha=2**32)
    columns = keys.topk(width + 1, dim=1).indices
    return columns[:, :width].sort(dim=1).values, scores.gather(1, columns[:, width:]).squeeze(1)


def _bits(trie: SIDTrie, level: int) -> torch.Tensor | None:
    """Returns one bit per node of the level above and code, uint8 [n, ceil(C / 8)].

    None where lists are better: a node has children for less than a quarter of the codes, or the
    bits would take more memory than the level itself.
    """
    codes, nodes = trie.num_codes[level], len(trie.node_codes[level])
    above = len(trie.node_codes[level - 1]) if level else 1
    row = -(-codes // 8)
    if trie.fan_out[level] * 4 < codes or above * row > max(8 * nodes, 4096):
        return None
    counts = np.diff(trie.first_child[level - 1]) if level else np.array([nodes])
    parents = np.repeat(np.arange(above), counts)
    byte = parents * row + trie.node_codes[level] // 8  # ascending, as nodes are
    value = np.left_shift(1, trie.node_codes[level] % 8).astype(np.uint8)
    first: NDArray[np.int64] = np.flatnonzero(np.append(True, byte[1:] != byte[:-1]))
    packed = np.zeros(above * row, dtype=np.uint8)
    packed[byte[first]] = np.add.reduceat(value, first)
    return torch.from_numpy(packed.reshape(above, row))
