"""AnchorRec (arXiv 2603.12726): ids, text and image, aligned outside the scoring space.

Any history can be ranked, whether or not its user was trained on. A score is a dot product and splits
into its parts: see `AnchorRec.explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from genrec.progress import Progress, silent
from genrec.retrieve.anchorrec.model import AnchorRecModule
from genrec.retrieve.anchorrec.settings import AnchorRecSettings
from genrec.retrieve.anchorrec.training import Epochs, Triples, views_of
from genrec.retrieve.base import Arrays, Retriever
from genrec.retrieve.learning import Floats, fit_epochs, seeded, target_measure, torch_device
from genrec.retrieve.lightgcn import history_block, item_degrees, normalised_graph
from genrec.retrieve.sequences import FloatArray, Sequences, Validation

PARTS = ("id", "multimodal", "text", "decoder")
_GROUPS = ("item_parts", "history_parts", "views")
_SELECT_K = 20  # the epoch is chosen by recall@20, as published, but on validation users


class AnchorRec(Retriever[AnchorRecSettings]):
    """LightGCN on ids, plus gated multimodal and text branches.

    A user who is recommended to is a history: the user-item block of the normalised graph times vectors
    of the history's items. Only layer 0 of LightGCN needs more, a vector of the user's own. With
    `user_vectors="trained"` it is trained, as published, and left out when recommending. "history"
    (after INMO, Wu et al., SIGIR 2022) makes it the block times the items' layer 0, in training too: a
    training user and a new one with the same history are then the same. On Amazon Scientific (one seed,
    few epochs) the first was level or slightly better, so it is the default.

    As published, the part of the alignment loss that holds text and image trains only two heads that
    no score uses: its anchor takes no gradient. `anchor_gradient=True` lets it reach the
    scores. Fixed as published: hinge 0.01 with margin 0.2, smoothness 0.1, decoder 0.0005, mix of text
    and image 0.75 to 0.25, Adam at lr * 0.96^(epoch/50). Values that the paper searches and does not
    tell are ours: l2, view_layers, lr, aal, amp, temperature. Published: no early stop.

    Attributes:
        degrees_: int64 [N], training users per item; set by `fit`, as what follows.
        item_parts_: float32 [N, dim] by part ("id", "multimodal", "text", "decoder"): their sum is the
            item's vector.
        history_parts_: float32 [N, dim] by part: the block times their sum is the user's vector.
        mean_user_: float32 [dim], the mean training user with an item: the vector of an empty history.
        views_: float32 [N, dim], the learned vectors by view ("id", "multimodal", "text", "image"):
            what `genrec.analysis.collapse` compares.
    """

    degrees_: npt.NDArray[np.int64]
    item_parts_: dict[str, Floats]
    history_parts_: dict[str, Floats]
    mean_user_: Floats
    views_: dict[str, Floats]

    def fit(
        self,
        sequences: Sequences,
        *,
        num_items: int,
        features: Mapping[str, FloatArray] | None = None,
        valid: Validation | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Trains, and keeps the epoch with the best recall@20 on `valid`; see `Retriever.fit`.

        Args:
            sequences: one int array per user.
            num_items: N.
            features: views of the items, float [N, D]: "text", perhaps "image", perhaps "joint" (one
                model's vector of image and text; else text and image side by side). Rows of zeros
                where an item lacks the view.
            valid: chooses the epoch; None keeps the last one.
            progress: told how many epochs are done.

        Raises:
            ValueError: features are missing, unknown, of another shape or not finite; nothing to learn
                from; an item outside 0..N-1.
        """
        settings = self.settings
        if settings.use_features and features is None:
            raise ValueError(
                "features: none given; expected 'text' at least, or use_features=False for ids only"
            )
        views = (
            views_of(features, num_items) if settings.use_features and features is not None else {}
        )
        triples = Triples(sequences, num_items)
        self.degrees_ = item_degrees(sequences, num_items)
        module = self._module(sequences, num_items, views)
        self.log_ = fit_epochs(
            module,
            Epochs(module, triples, settings, seed=self.seed),
            None if valid is None else self._recall(module, valid),
            epochs=settings.epochs,
            patience=settings.patience,
            step="anchorrec: fit",
            progress=progress,
        )
        self._keep(module)
        self.num_items_ = num_items
        return self

    def explain(
        self, histories: Sequences, items: Sequence[npt.ArrayLike] | npt.NDArray[np.integer]
    ) -> dict[str, Floats]:
        """Splits scores by what they come from; the parts add up to the score.

        A part is the user's whole vector times one part of the item's: what the item gains by its
        place in the id graph, by its multimodal and its text branch, and by the decoder's term.

        Args:
            histories: B int arrays.
            items: int [B, K], -1 for no item, as `RankedLists.items`.

        Returns:
            float32 [B, K] for "id", "multimodal", "text" and "decoder"; NaN where there is no item.

        Raises:
            ValueError: not fitted, the shapes do not fit, or an item lies outside 0..N-1.
        """
        self._check_fitted()
        wanted = np.asarray(items)
        count = len(self.degrees_)
        if wanted.ndim != 2 or len(wanted) != len(histories):
            raise ValueError(f"items {wanted.shape}: expected one row for each of {len(histories)}")
        if wanted.size and wanted.dtype.kind not in "iu":
            raise ValueError(f"items are {wanted.dtype}; expected whole numbers")
        wanted = wanted.astype(np.int64)  # no item at all comes as float
        if wanted.size and (wanted.min() < -1 or wanted.max() >= count):
            raise ValueError(
                f"items: expected -1..{count - 1}, found {wanted.min()}..{wanted.max()}"
            )
        users = self._users(histories)
        parts = {n: np.einsum("bd,bkd->bk", users, v[wanted]) for n, v in self.item_parts_.items()}
        return {name: np.where(wanted < 0, np.float32(np.nan), v) for name, v in parts.items()}

    def collaborative(self, histories: Sequences) -> tuple[Floats, Floats]:
        """Returns the id branch alone: vectors of users [B, dim] and of items [N, dim], float32."""
        self._check_fitted()
        block = history_block(histories, self.degrees_)
        users = torch.sparse.mm(block, torch.from_numpy(self.history_parts_["id"])).numpy()
        return users, self.item_parts_["id"]

    def learned_views(
        self, features: Mapping[str, FloatArray]
    ) -> tuple[dict[str, FloatArray], dict[str, FloatArray]] | None:
        """Returns the views as they came and as they were learned; None where it has ids only."""
        if not self.settings.use_features:
            return None
        raw = {name: view.numpy() for name, view in views_of(features, self.num_items_).items()}
        return raw, dict(self.views_)

    def _arrays(self) -> Arrays:
        arrays: dict[str, npt.NDArray[Any]] = {
            "degrees": self.degrees_,
            "mean_user": self.mean_user_,
        }
        for group in _GROUPS:
            arrays |= {f"{group}.{n}": v for n, v in getattr(self, f"{group}_").items()}
        return arrays

    def _restore(self, arrays: Arrays) -> None:
        self.degrees_, self.mean_user_ = arrays["degrees"], arrays["mean_user"]
        self.num_items_ = len(self.degrees_)
        for group in _GROUPS:
            parts = {n.split(".")[1]: v for n, v in arrays.items() if n.startswith(f"{group}.")}
            setattr(self, f"{group}_", {n: parts[n] for n in (*PARTS, "image") if n in parts})

    def _module(
        self, sequences: Sequences, num_items: int, views: Mapping[str, torch.Tensor]
    ) -> AnchorRecModule:
        device = torch_device(self.device)
        with seeded(self.seed, torch.device("cpu")):
            module = AnchorRecModule(
                normalised_graph(sequences, num_items),
                history_block(sequences, self.degrees_),
                views,
                dim=self.settings.dim,
                id_layers=self.settings.id_layers,
                view_layers=self.settings.view_layers,
                neighbours=self.settings.neighbours,
                trained_users=self.settings.user_vectors == "trained",
            )
        return module.to(device)

    def _recall(self, module: AnchorRecModule, valid: Validation) -> Callable[[], float]:
        """Returns what measures recall@20 of the vectors that the module then gives."""
        return target_measure(
            lambda histories: self._scorer()(histories),
            valid,
            num_items=len(self.degrees_),
            users=self.settings.valid_users,
            seed=self.seed,
            k=_SELECT_K,
            metric="recall",
            before=lambda: self._keep(module),
        )

    def _scorer(self) -> Callable[[Sequences], torch.Tensor]:
        device = torch_device(self.device)
        items = torch.from_numpy(_sum(self.item_parts_)).to(device).T
        return lambda histories: torch.from_numpy(self._users(histories)).to(device) @ items

    @torch.no_grad()
    def _keep(self, module: AnchorRecModule) -> None:
        """Takes over the vectors that the module now gives."""
        made = module()
        scored = {name: made.views[name] for name in made.view_users}
        decoded = {"decoder": made.decoded} if made.views else {}
        self.item_parts_ = _arrays({"id": made.ids.items, **scored, **decoded})
        self.history_parts_ = _arrays({"id": made.ids.history, **scored})
        self.views_ = _arrays({"id": made.ids.items, **made.views})
        warm = module.block.indices()[0].unique()  # of the others nothing was learned
        self.mean_user_ = made.users[warm].mean(dim=0).cpu().numpy()

    def _users(self, histories: Sequences) -> Floats:
        """The vectors of any users, float32 [B, dim]."""
        block = history_block(histories, self.degrees_)
        users = torch.sparse.mm(block, torch.from_numpy(_sum(self.history_parts_))).numpy()
        empty = np.array([np.size(history) == 0 for history in histories], dtype=bool)
        users[empty] = self.mean_user_
        return users


def _sum(parts: Mapping[str, Floats]) -> Floats:
    return np.sum(list(parts.values()), axis=0, dtype=np.float32)


def _arrays(vectors: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: v.detach().cpu().numpy() for name, v in vectors.items()}
