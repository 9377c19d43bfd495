"""What a search returns, and how it is made from the last beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from genrec.decode.filters import Eligibility
from genrec.decode.step import Beams, TrieOnDevice
from genrec.ranking import RankedLists, tied_ranks
from genrec.sid.trie import SIDTrie


@dataclass(frozen=True)
class BeamResult(RankedLists):
    """The best items of each user, best first; all tensors are on the CPU.

    Order is by score, then SID, then item: items that share a SID follow each other with one score.

    Attributes:
        items: item numbers, -1 where not valid. int64 [B, K].
        scores: log-probability of the item's SID after the prompt, in nats; -inf where not valid.
            float32 [B, K].
        exact: whether the list is proven to be the best K of all eligible items, and not only of
            those that the beam reached: no pruned prefix scored above the K-th item. bool [B].
        sids: the items' SIDs, -1 where not valid. int64 [B, K, L].
        bound: the most that an eligible item which is not in the list can score; -inf where all are
            in it. float32 [B].
    """

    exact: torch.Tensor
    sids: torch.Tensor
    bound: torch.Tensor

    @property
    def ranks(self) -> npt.NDArray[np.int32]:
        """Ranks from 1; items that share a SID share a rank. int32 [B, K], 0 where not valid."""
        tied = (self.sids[:, 1:] == self.sids[:, :-1]).all(dim=-1)
        return tied_ranks(self.items.numpy(), tied.numpy())

    @classmethod
    def joined(cls, parts: Sequence[BeamResult], users: torch.Tensor) -> BeamResult:
        """Puts the results of groups of users together.

        Args:
            parts: each of some users, with the same K.
            users: the place of each user, group after group. int64 [B], a permutation.
        """
        order = users.argsort()
        columns = {
            f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)
        }
        return cls(**{name: column[order] for name, column in columns.items()})

    def replaced(self, users: torch.Tensor, other: BeamResult) -> BeamResult:
        """Returns a copy in which some users' lists are those of `other`.

        Args:
            users: whose. int64 [b].
            other: their lists, in this order.
        """
        columns = {f.name: getattr(self, f.name).clone() for f in fields(self)}
        for name, column in columns.items():
            column[users] = getattr(other, name)
        return BeamResult(**columns)


def collect(
    trie: SIDTrie,
    on_device: TrieOnDevice,
    beams: Beams,
    k: int,
    eligible: Eligibility | None,
) -> BeamResult:
    """Sorts the SIDs of the last level and lists the eligible items of each, cut at k.

    Args:
        trie: the catalogue.
        on_device: the same, where the beams are.
        beams: those of the last level.
        k: items per user, K.
        eligible: the request's filters.
    """
    (users, width), device = beams.nodes.shape, beams.nodes.device
    # Beams are in order of node, so a stable sort settles equal scores by SID.
    scores, order = beams.scores.sort(dim=1, descending=True, stable=True)
    leaves = beams.nodes.gather(1, order)
    first = on_device.first_child[-1][leaves].long()
    count = on_device.first_child[-1][leaves + 1] - first
    count = count.masked_fill(scores == -torch.inf, 0).flatten()
    beam = torch.arange(users * width, device=device).repeat_interleave(count)
    before = count.cumsum(0) - count
    row = first.flatten()[beam] + torch.arange(len(beam), device=device) - before[beam]
    user = beam // width
    if eligible is not None:
        keep = eligible.contains(user, row)
        beam, row, user = beam[keep], row[keep], user[keep]
    start = torch.searchsorted(user, torch.arange(users, device=device))
    place = torch.arange(len(user), device=device) - start[user]
    keep = place < k
    at = (user[keep].cpu(), place[keep].cpu())
    rows, kept_scores = row[keep].cpu(), scores.flatten()[beam[keep]].cpu()

    items = torch.full((users, k), -1, dtype=torch.int64)
    items[at] = torch.from_numpy(trie.row_items)[rows].long()
    sids = torch.full((users, k, trie.levels), -1, dtype=torch.int64)
    sids[at] = torch.from_numpy(trie.sids_of_rows(rows.numpy())).long()
    listed = torch.full((users, k), -torch.inf)
    listed[at] = kept_scores
    pruned, last = beams.bound.cpu(), listed[:, -1]  # -inf where the list has room left
    return BeamResult(items, listed, last >= pruned, sids, torch.maximum(pruned, last))
