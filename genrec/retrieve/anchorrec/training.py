"""How AnchorRec trains (arXiv 2603.12726): triples, losses as its code has them, and one epoch.

Where the code gives no answer (an item without a view) the choice is ours and said so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from genrec.retrieve.anchorrec.model import AnchorRecModule, Vectors
from genrec.retrieve.anchorrec.settings import AnchorRecSettings
from genrec.retrieve.learning import batches, taken
from genrec.retrieve.lightgcn import distinct_pairs
from genrec.retrieve.sequences import FloatArray, IntArray, Sequences
from genrec.retrieve.views import check_view

Ints = npt.NDArray[np.int64]

HINGE_MARGIN = 0.2
HINGE_WEIGHT, SMOOTH_WEIGHT = 0.01, 0.1
DIRECT_TEMPERATURE = 0.2  # AlignRec's
MIX = {"text": 0.75, "image": 0.25}
GRAMS = {"multimodal": 1.0, "text": 0.03, "image": 0.01}


class Triples:
    """Distinct interactions, and negatives drawn from the trained items outside a user's sequence.

    Users that have every trained item are left out: no negative exists for them.

    Attributes:
        user: int64 [E].
        item: int64 [E].
    """

    def __init__(self, sequences: Sequences, num_items: int) -> None:
        """Lists the pairs.

        Raises:
            ValueError: no pair is left, or an item lies outside 0..num_items-1.
        """
        user, item = distinct_pairs(sequences, num_items)
        self._trained = np.unique(item)
        length = np.bincount(user, minlength=len(sequences))
        kept = length[user] < len(self._trained)
        self.user, self.item = user[kept], item[kept]
        if not len(self.user):
            raise ValueError(
                f"anchorrec: {len(sequences)} training sequences over {len(self._trained)} items hold "
                "no interaction of a user who left an item out, so there is nothing to learn from; "
                "expected users with different items: bring more users, lower prepare.core, or take "
                "anchorrec out of retrieve"
            )
        # Of the j-th own item on place p_j among the trained ones, p_j - j trained items that are
        # not the user's own come before it: the r-th of these stands on place r + #{p_j - j <= r}.
        self._first = np.concatenate([[0], np.cumsum(length)])
        place = np.searchsorted(self._trained, item)
        self._keys = user * self._width + place - (np.arange(len(user)) - self._first[user])
        self._others = len(self._trained) - length

    def __len__(self) -> int:
        """E, the number of pairs."""
        return len(self.user)

    def negatives(self, users: IntArray, rng: np.random.Generator) -> Ints:
        """Draws one item per user, uniformly from the trained items that are not the user's. int64 [B].

        Args:
            users: int [B], from `user`.
            rng: source of chance.
        """
        drawn = rng.integers(0, self._others[users])
        own = np.searchsorted(self._keys, users * self._width + drawn, side="right")
        return self._trained[drawn + own - self._first[users]]

    @property
    def _width(self) -> int:
        return len(self._trained) + 1


# --- the losses -------------------------------------------------------------------------------


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


# --- their sum, and one epoch -----------------------------------------------------------------


def total(
    module: AnchorRecModule,
    made: Vectors,
    triple: tuple[torch.Tensor, ...],
    settings: AnchorRecSettings,
) -> torch.Tensor:
    """BPR + 0.01 hinge + L2 + aal * alignment + amp * grams + 0.1 smoothness of one batch.

    Args:
        module: gives heads, raw features and graphs.
        made: its vectors.
        triple: users, liked items and other items, int64 [B] each.
        settings: weights of the losses, and how the alignment is done.
    """
    users, liked, others = triple
    u, i, j = taken(made.users, users), taken(made.items, liked), taken(made.items, others)
    loss = bpr(u, i, j) + HINGE_WEIGHT * hinge(u, i, j)
    loss = loss + settings.l2 * half_squares(u, i, j, batch_size=settings.batch_size)
    if not made.views:
        return loss
    if settings.alignment == "anchor" and settings.aal:
        loss = loss + settings.aal * anchored(module, made, liked, settings)
    elif settings.alignment == "direct" and settings.aal:
        loss = loss + settings.aal * direct(made, users, liked)
    if settings.amp:
        grams = [
            GRAMS[name] * gram(taken(vectors, liked), module.raw(name)[liked])
            for name, vectors in made.views.items()
        ]
        loss = loss + settings.amp * torch.stack(grams).sum()
    smooth = smoothness(module.near("multimodal"), made.views["multimodal"])
    return loss + SMOOTH_WEIGHT * smooth


def anchored(
    module: AnchorRecModule, made: Vectors, liked: torch.Tensor, settings: AnchorRecSettings
) -> torch.Tensor:
    """AAL: ids, and the mix of text and image, each aligned to the projected multimodal vectors.

    As published the second term trains the heads of text and image only, for its anchor takes no
    gradient; `anchor_gradient` lets it. A view that an item lacks is left out of its mix: ours.
    """
    anchor = module.heads["multimodal"](taken(made.views["multimodal"], liked))
    ids = module.heads["id"](taken(made.ids.items, liked))
    mixed = torch.zeros_like(anchor)
    for name, share in MIX.items():
        if name in made.views:
            raw = module.raw(name)[liked]
            known = raw.ne(0).any(dim=1, keepdim=True)
            mixed = mixed + share * known * module.heads[name](raw)
    fixed = anchor if settings.anchor_gradient else anchor.detach()
    return info_nce(anchor, ids, temperature=settings.temperature) + info_nce(
        fixed, mixed, temperature=settings.temperature
    )


def direct(made: Vectors, users: torch.Tensor, liked: torch.Tensor) -> torch.Tensor:
    """AlignRec's alignment: multimodal and id vectors themselves, of items and of users."""
    sides = (
        (made.views["multimodal"], made.ids.items, liked),
        (made.view_users["multimodal"], made.ids.users, users),
    )
    pairs = [
        info_nce(taken(a, rows), taken(b, rows), temperature=DIRECT_TEMPERATURE)
        for a, b, rows in sides
    ]
    return pairs[0] + pairs[1]


class Epochs:
    """Trains one epoch per call: every distinct interaction once, each with a fresh negative.

    Args:
        module: trained in place.
        triples: the interactions.
        settings: of the losses; epoch e has the learning rate lr * 0.96^(e/50).
        seed: of order and negatives.
    """

    def __init__(
        self, module: AnchorRecModule, triples: Triples, settings: AnchorRecSettings, *, seed: int
    ) -> None:
        self._module, self._triples, self._settings = module, triples, settings
        self._optimizer = torch.optim.Adam(module.parameters(), lr=settings.lr)
        self._rng = np.random.default_rng(seed)

    def __call__(self, epoch: int) -> float:
        """Returns the mean loss of the epoch's batches."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.lr * 0.96 ** (epoch / 50)
        steps = batches(len(self._triples), self._settings.batch_size, self._rng)
        return float(torch.stack([self._step(part) for part in steps]).mean())

    def _step(self, part: npt.NDArray[np.int64]) -> torch.Tensor:
        users, liked = self._triples.user[part], self._triples.item[part]
        others = self._triples.negatives(users, self._rng)
        device = self._module.items.device
        triple = tuple(torch.from_numpy(x).to(device) for x in (users, liked, others))
        loss = total(self._module, self._module(), triple, self._settings)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


def views_of(features: Mapping[str, FloatArray], num_items: int) -> dict[str, torch.Tensor]:
    """Returns the views that AnchorRec takes: "multimodal", "text" and, if given, "image".

    The multimodal view is the "joint" one of a model that reads image and text together. Without it
    (ours): the views that there are, each row L2-normalised, side by side, normalised again.

    Args:
        features: "text", perhaps "image" and "joint": float [N, D], rows of zeros where an item lacks
            the view.
        num_items: N.

    Raises:
        ValueError: a view is missing, unknown, of another shape or not finite.
    """
    unknown = set(features) - {"text", "image", "joint"}
    if unknown or "text" not in features:
        raise ValueError(
            f"features are {sorted(features)}; expected 'text', and 'image' and 'joint' if there are"
        )
    given = {
        name: torch.from_numpy(check_view(name, features[name], num_items=num_items))
        for name in sorted(features)
    }
    joint = given.pop("joint", None)
    if joint is None:
        parts = [torch.nn.functional.normalize(given[name], dim=1) for name in sorted(given)]
        joint = torch.nn.functional.normalize(torch.cat(parts, dim=1), dim=1)
    return {"multimodal": joint, **{name: given[name] for name in MIX if name in given}}
