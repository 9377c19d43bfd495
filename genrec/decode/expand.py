"""One beam step over the trie: score every child of every beam, keep the best, bound the rest.

The mask comes before the top-k, so what is kept is exactly the best of what the catalogue has.
"""

from __future__ import annotations

from typing import NamedTuple

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
        finite: whether every normaliser so far was a finite number. bool [].
    """

    nodes: torch.Tensor
    scores: torch.Tensor
    parents: torch.Tensor
    bound: torch.Tensor
    finite: torch.Tensor


class TrieOnDevice:
    """The arrays of a `SIDTrie` as tensors beside the model, with tokens in place of codes."""

    def __init__(self, trie: SIDTrie, code_tokens: list[NDArray], *, device: torch.device) -> None:
        """Copies the trie.

        Args:
            trie: the catalogue.
            code_tokens: per level, the token of each code. int64 [C_l].
            device: where to.
        """
        self.device = device
        self.tokens = [
            torch.from_numpy(tokens[codes]).to(device)
            for tokens, codes in zip(code_tokens, trie.node_codes, strict=True)
        ]
        self.first_row = [torch.from_numpy(first).to(device) for first in trie.first_row]
        root = torch.tensor([0, len(trie.node_codes[0])], dtype=torch.int32, device=device)
        self.first_child = [root, *(torch.from_numpy(p).to(device) for p in trie.first_child)]
        self.fan_out = trie.fan_out

    def start(self, users: int) -> Beams:
        """Returns the state before the first level: each user has the root as the only beam."""
        zeros = torch.zeros(users, 1, dtype=torch.int64, device=self.device)
        return Beams(
            nodes=zeros,
            scores=zeros.float(),
            parents=zeros,
            bound=torch.full((users,), -torch.inf, device=self.device),
            finite=torch.ones((), dtype=torch.bool, device=self.device),
        )

    def expand(
        self,
        level: int,
        beams: Beams,
        logits: torch.Tensor,
        *,
        width: int,
        eligible: Eligibility | None,
    ) -> Beams:
        """Takes every beam one level down and keeps the best.

        Args:
            level: the level to go to.
            beams: the beams of the level above.
            logits: what the model says after each of them. float32 [B, W, V].
            width: how many beams to keep at most.
            eligible: the request's filters.

        Returns:
            The beams of `level`; min(width, candidates, nodes of the level) of them.
        """
        users, above = beams.nodes.shape
        fan_out, nodes = self.fan_out[level], len(self.tokens[level])
        pointers = self.first_child[level]
        start = pointers[beams.nodes].unsqueeze(-1).long()  # [B, W, 1]
        end = pointers[beams.nodes + 1].unsqueeze(-1)
        # Children are contiguous, so they need no table; one boundary more closes the last.
        bounds = start + torch.arange(fan_out + 1, device=self.device)
        bounds.clamp_(max=nodes)
        live = bounds[..., :-1] < end
        if eligible is not None:
            user = torch.arange(users, device=self.device).view(-1, 1, 1)
            rows = self.first_row[level][bounds].long()
            live &= eligible.count_before(user, rows).diff(dim=-1) > 0

        children = bounds[..., :-1].clamp(max=nodes - 1)  # [B, W, F]
        # The normaliser is the whole vocabulary's: a score is the model's probability of the SID.
        log_probs = logits.gather(-1, self.tokens[level][children])
        normaliser = logits.logsumexp(-1, keepdim=True)
        log_probs -= normaliser
        scores = (beams.scores.unsqueeze(-1) + log_probs).masked_fill_(~live, -torch.inf)

        keep = min(width, above * fan_out, nodes)
        kept, pruned = _best(scores.view(users, -1), keep)
        return Beams(
            nodes=children.view(users, -1).gather(1, kept),
            scores=scores.view(users, -1).gather(1, kept),
            parents=kept // fan_out,
            bound=torch.maximum(beams.bound, pruned),
            finite=beams.finite & normaliser.isfinite().all(),
        )


def _best(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
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
    last = scores.topk(width, dim=1).values[:, -1:]
    above, tied = scores > last, scores == last
    keep = above | (tied & (tied.cumsum(1) <= width - above.sum(1, keepdim=True)))
    # Distinct keys make this top-k deterministic: kept places first, in ascending order.
    kept = torch.where(keep, candidates - place, 0).topk(width, dim=1).indices
    return kept, scores.masked_fill(keep, -torch.inf).amax(1)
