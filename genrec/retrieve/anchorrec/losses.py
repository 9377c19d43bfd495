"""The losses of AnchorRec (arXiv 2603.12726), one function each, as its code has them.

Where the code gives no answer (an item without a view) the choice is ours and said so.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from genrec.retrieve.learning import taken

HINGE_MARGIN = 0.2


def info_nce(anchors: torch.Tensor, others: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """One-directional InfoNCE over the batch: the other of the same row is the right one.

    Args:
        anchors: float [B, d].
        others: float [B, d].
        temperature: cosines are divided by it.
    """
    cosine = functional.normalize(anchors, dim=1) @ functional.normalize(others, dim=1).T
    right = torch.arange(len(anchors), device=anchors.device)
    return functional.cross_entropy(cosine / temperature, right)


def gram(learned: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """How far the inner products of learned vectors are from the cosines of raw ones.

    The Frobenius norm (not its square) of learned learned^T - cos(raw, raw), over B. The left side is
    not normalised, the right side takes no gradient. Rows whose raw vector is zero (the item lacks the
    view) do not count: ours. Computed without the B x B matrices, which would be most of an epoch:
    |LL^T - UU^T|^2 = |L^T L|^2 - 2 |L^T U|^2 + |U^T U|^2.

    Args:
        learned: float [B, d].
        raw: float [B, D].
    """
    known = raw.ne(0).any(dim=1)
    if not known.any():
        return learned.new_zeros(())
    learned, unit = learned[known], functional.normalize(raw[known].detach(), dim=1)
    pairs = ((learned, learned), (learned, unit), (unit, unit))
    ll, lu, uu = ((a.T @ b).double().square().sum() for a, b in pairs)
    # Equal sides leave rounding, whose root has no gradient worth following.
    return ((ll - 2 * lu + uu).clamp_min(1e-12).sqrt() / len(learned)).to(learned.dtype)


def bpr(users: torch.Tensor, liked: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Bayesian personalised ranking on raw dot products; each argument float [B, d]."""
    return -functional.logsigmoid((users * (liked - others)).sum(dim=1)).mean()


def hinge(users: torch.Tensor, liked: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Cosine hinge with margin 0.2; the users take no gradient. Each argument float [B, d]."""
    near = functional.cosine_similarity(users.detach(), liked, dim=1)
    far = functional.cosine_similarity(users.detach(), others, dim=1)
    return functional.relu(HINGE_MARGIN + far - near).mean()


def half_squares(*vectors: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Half the sum of squares over the *configured* batch size, in a short last batch too."""
    return 0.5 * torch.stack([v.square().sum() for v in vectors]).sum() / batch_size


def smoothness(graph: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Mean over the edges of weight times squared distance of their ends.

    Args:
        graph: sparse float [N, N], coalesced.
        vectors: float [N, d].
    """
    row, column = graph.indices()
    apart = (taken(vectors, row) - taken(vectors, column)).square().sum(dim=1)
    return (graph.values() * apart).mean()
