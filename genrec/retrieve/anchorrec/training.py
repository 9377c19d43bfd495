"""How AnchorRec trains: the sum of its losses, one epoch, and the features as it takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from genrec.retrieve.anchorrec import losses
from genrec.retrieve.anchorrec.model import AnchorRecModule, Vectors
from genrec.retrieve.anchorrec.triples import Triples
from genrec.retrieve.base import FloatArray
from genrec.retrieve.features import check_view
from genrec.retrieve.learning import batches, taken

Alignment = Literal["anchor", "direct", "none"]

HINGE_WEIGHT, SMOOTH_WEIGHT = 0.01, 0.1
DIRECT_TEMPERATURE = 0.2  # AlignRec's
MIX = {"text": 0.75, "image": 0.25}
GRAMS = {"multimodal": 1.0, "text": 0.03, "image": 0.01}


class Weights(NamedTuple):
    """What the losses count, and how the alignment is done; see `AnchorRec`."""

    l2: float
    aal: float
    amp: float
    temperature: float
    alignment: Alignment
    anchor_gradient: bool
    batch_size: int


def total(
    module: AnchorRecModule, found: Vectors, triple: tuple[torch.Tensor, ...], weights: Weights
) -> torch.Tensor:
    """BPR + 0.01 hinge + L2 + aal * alignment + amp * grams + 0.1 smoothness of one batch.

    Args:
        module: gives heads, raw features and graphs.
        found: its vectors.
        triple: users, liked items and other items, int64 [B] each.
        weights: of the losses.
    """
    users, liked, others = triple
    u, i, j = taken(found.users, users), taken(found.items, liked), taken(found.items, others)
    loss = losses.bpr(u, i, j) + HINGE_WEIGHT * losses.hinge(u, i, j)
    loss = loss + weights.l2 * losses.half_squares(u, i, j, batch_size=weights.batch_size)
    if not found.views:
        return loss
    if weights.alignment == "anchor" and weights.aal:
        loss = loss + weights.aal * anchored(module, found, liked, weights)
    elif weights.alignment == "direct" and weights.aal:
        loss = loss + weights.aal * direct(found, users, liked)
    if weights.amp:
        grams = [
            GRAMS[name] * losses.gram(taken(vectors, liked), module.raw(name)[liked])
            for name, vectors in found.views.items()
        ]
        loss = loss + weights.amp * torch.stack(grams).sum()
    smooth = losses.smoothness(module.near("multimodal"), found.views["multimodal"])
    return loss + SMOOTH_WEIGHT * smooth


def anchored(
    module: AnchorRecModule, found: Vectors, liked: torch.Tensor, weights: Weights
) -> torch.Tensor:
    """AAL: ids, and the mix of text and image, each aligned to the projected multimodal vectors.

    As published the second term trains the heads of text and image only, for its anchor takes no
    gradient; `anchor_gradient` lets it. A view that an item lacks is left out of its mix: ours.
    """
    anchor = module.heads["multimodal"](taken(found.views["multimodal"], liked))
    ids = module.heads["id"](taken(found.ids.items, liked))
    mixed = torch.zeros_like(anchor)
    for name, share in MIX.items():
        if name in found.views:
            raw = module.raw(name)[liked]
            known = raw.ne(0).any(dim=1, keepdim=True)
            mixed = mixed + share * known * module.heads[name](raw)
    fixed = anchor if weights.anchor_gradient else anchor.detach()
    return losses.info_nce(anchor, ids, temperature=weights.temperature) + losses.info_nce(
        fixed, mixed, temperature=weights.temperature
    )


def direct(found: Vectors, users: torch.Tensor, liked: torch.Tensor) -> torch.Tensor:
    """AlignRec's alignment: multimodal and id vectors themselves, of items and of users."""
    sides = (
        (found.views["multimodal"], found.ids.items, liked),
        (found.view_users["multimodal"], found.ids.users, users),
    )
    pairs = [
        losses.info_nce(taken(a, rows), taken(b, rows), temperature=DIRECT_TEMPERATURE)
        for a, b, rows in sides
    ]
    return pairs[0] + pairs[1]


class Epochs:
    """Trains one epoch per call: every distinct interaction once, each with a fresh negative.

    Args:
        module: trained in place.
        triples: the interactions.
        weights: of the losses.
        lr: learning rate; epoch e has lr * 0.96^(e/50).
        seed: of order and negatives.
    """

    def __init__(
        self, module: AnchorRecModule, triples: Triples, *, weights: Weights, lr: float, seed: int
    ) -> None:
        self._module, self._triples, self._weights, self._lr = module, triples, weights, lr
        self._optimizer = torch.optim.Adam(module.parameters(), lr=lr)
        self._rng = np.random.default_rng(seed)

    def __call__(self, epoch: int) -> float:
        """Returns the mean loss of the epoch's batches."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * 0.96 ** (epoch / 50)
        found = [
            self._step(part)
            for part in batches(len(self._triples), self._weights.batch_size, self._rng)
        ]
        return float(torch.stack(found).mean())

    def _step(self, part: npt.NDArray[np.int64]) -> torch.Tensor:
        users, liked = self._triples.user[part], self._triples.item[part]
        others = self._triples.negatives(users, self._rng)
        device = self._module.items.device
        triple = tuple(torch.from_numpy(x).to(device) for x in (users, liked, others))
        loss = total(self._module, self._module(), triple, self._weights)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()


def views_of(features: Mapping[str, FloatArray], num_items: int) -> dict[str, torch.Tensor]:
    """Returns the views that AnchorRec takes: "multimodal", "text" and, if given, "image".

    The multimodal view is the "joint" one of a model that reads picture and words together. Without it
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
