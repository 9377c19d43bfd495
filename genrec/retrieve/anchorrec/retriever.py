"""AnchorRec (arXiv 2603.12726): ids, text and image, aligned beside the scoring space and not in it.

Any history can be ranked, whether or not its user was trained on. A score is a dot product and splits
into its parts: see `AnchorRec.explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from genrec.progress import Progress, silent
from genrec.retrieve.anchorrec.model import AnchorRecModule
from genrec.retrieve.anchorrec.training import Alignment, Epochs, Weights, views_of
from genrec.retrieve.anchorrec.triples import Triples
from genrec.retrieve.base import FloatArray, Ranked, Sequences
from genrec.retrieve.files import load_retriever, save_retriever, settings_of
from genrec.retrieve.learning import (
    Validation,
    fit_epochs,
    seeded,
    target_measure,
    top_items,
    torch_device,
)
from genrec.retrieve.lightgcn import history_block, item_degrees, normalised_graph

Floats = npt.NDArray[np.float32]

PARTS = ("id", "multimodal", "text", "decoder")
_SELECT_K = 20  # the epoch is chosen by recall@20, as published, but on validation users


@dataclass(kw_only=True)
class AnchorRec:
    """LightGCN on ids beside gated multimodal and text branches (papers.md 2.1 to 2.4).

    A user who is recommended to is a history: the user-item block of the normalised graph times vectors
    of the history's items. Only layer 0 of LightGCN needs more, a vector of the user's own. With
    `user_vectors="trained"` it is trained, as published, and left out when recommending. "history"
    (after INMO, Wu et al., SIGIR 2022) makes it the block times the items' layer 0, in training too: a
    training user and a new one with the same history are then the same. On Amazon Scientific (one seed,
    few epochs) the first was level or slightly better, so it is the default.

    As published, the part of the alignment loss that holds text and image trains only two heads that
    no score uses: its anchor takes no gradient. `anchor_gradient=True` lets it reach the
    scores. Fixed as published: hinge 0.01 with margin 0.2, smoothness 0.1, decoder 0.0005, mix of text
    and image 0.75 to 0.25, lr * 0.96^(epoch/50). Values that the paper searches and does not tell are
    ours: l2, view_layers, lr, aal, amp, temperature.

    Attributes:
        dim: width of every vector.
        id_layers: layers of LightGCN.
        view_layers: propagation steps over each item-item graph.
        neighbours: edges per item of these graphs, the item itself among them.
        l2: weight of the squares of a batch's final vectors.
        aal: weight of the alignment loss.
        amp: weight of the loss that keeps each view's inner products near its raw cosines.
        temperature: of the alignment to the anchor.
        alignment: "anchor"; "direct" aligns multimodal and id vectors themselves (AlignRec,
            temperature 0.2); "none".
        anchor_gradient: the alignment of text and image reaches the scores.
        user_vectors: "trained" or "history", see above.
        use_features: False leaves ids only, which is LightGCN; `fit` then takes no features.
        lr: of Adam.
        epochs: at most.
        patience: epochs without a gain on validation before stopping. Long, because a random start
            spread over the graph already ranks, and recall falls before it rises. Published: no stop.
        batch_size: interactions per step.
        valid_users: at most so many validation users choose the epoch, drawn by the seed.
        device: "auto", "cpu" or "cuda".
        seed: of weights, order and negatives.
        degrees_: int64 [N], training users per item; set by `fit`, as what follows.
        item_parts_: float32 [N, dim] by part ("id", "multimodal", "text", "decoder"): their sum is the
            item's vector.
        history_parts_: float32 [N, dim] by part: the block times their sum is the user's vector.
        mean_user_: float32 [dim], the mean training user with an item: the vector of an empty history.
        views_: float32 [N, dim], the learned vectors by view ("id", "multimodal", "text", "image"):
            what `genrec.analysis.collapse` compares.
        log_: per epoch loss and valid; empty after `load`.
    """

    kind = "anchorrec"
    dim: int = 64
    id_layers: int = 2
    view_layers: int = 1
    neighbours: int = 10
    l2: float = 1e-3
    aal: float = 0.01
    amp: float = 0.01
    temperature: float = 0.25
    alignment: Alignment = "anchor"
    anchor_gradient: bool = False
    user_vectors: Literal["trained", "history"] = "trained"
    use_features: bool = True
    lr: float = 1e-3
    epochs: int = 100
    patience: int = 30
    batch_size: int = 2048
    valid_users: int = 2000
    device: str = "auto"
    seed: int = 0
    degrees_: npt.NDArray[np.int64] = field(init=False, repr=False)
    item_parts_: dict[str, Floats] = field(init=False, repr=False)
    history_parts_: dict[str, Floats] = field(init=False, repr=False)
    mean_user_: Floats = field(init=False, repr=False)
    views_: dict[str, Floats] = field(init=False, repr=False)
    log_: list[dict[str, float]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        counts = ("dim", "id_layers", "neighbours", "epochs", "patience", "batch_size")
        low = [f"{n}={getattr(self, n)}" for n in (*counts, "valid_users") if getattr(self, n) < 1]
        low += [f"{n}={getattr(self, n)}" for n in ("temperature", "lr") if getattr(self, n) <= 0]
        weights = ("view_layers", "l2", "aal", "amp")
        low += [f"{n}={getattr(self, n)}" for n in weights if getattr(self, n) < 0]
        if low:
            raise ValueError(
                f"{', '.join(low)}: expected {', '.join((*counts, 'valid_users'))} of 1 or more, "
                f"temperature and lr above 0, {', '.join(weights)} of 0 or more"
            )
        for name, allowed in (
            ("alignment", ("anchor", "direct", "none")),
            ("user_vectors", ("trained", "history")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is '{getattr(self, name)}'; expected one of {allowed}")

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
                model's vector of picture and words; else text and image side by side). Rows of zeros
                where an item lacks the view.
            valid: chooses the epoch; None keeps the last one.
            progress: told how many epochs are done.

        Raises:
            ValueError: features are missing, unknown, of another shape or not finite; nothing to learn
                from; an item outside 0..N-1.
        """
        if self.use_features and features is None:
            raise ValueError(
                "features: none given; expected 'text' at least, or use_features=False for ids only"
            )
        views = views_of(features, num_items) if self.use_features and features is not None else {}
        triples = Triples(sequences, num_items)
        self.degrees_ = item_degrees(sequences, num_items)
        module = self._module(sequences, num_items, views)
        epochs = Epochs(module, triples, weights=self._weights(), lr=self.lr, seed=self.seed)
        measure = None if valid is None else self._recall(module, valid)
        self.log_ = fit_epochs(
            module,
            epochs,
            measure,
            epochs=self.epochs,
            patience=self.patience,
            step="anchorrec: fit",
            progress=progress,
        )
        self._keep(module)
        return self

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks by dot product; see `Retriever.recommend`. An empty history is the mean user's."""
        self._check_fitted()
        return top_items(
            lambda part: self._scores(histories[part]),
            histories,
            num_items=len(self.degrees_),
            k=k,
            exclude_seen=exclude_seen,
            step="anchorrec: recommend",
            progress=progress,
        )

    def explain(
        self, histories: Sequences, items: Sequence[npt.ArrayLike] | npt.NDArray[np.integer]
    ) -> dict[str, Floats]:
        """Splits scores by what they come from; the parts add up to the score.

        A part is the user's whole vector times one part of the item's: what the item gains by its
        place in the id graph, by its multimodal and its text branch, and by the decoder's term.

        Args:
            histories: B int arrays.
            items: int [B, K], -1 for no item, as `Ranked.items`.

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

    def save(self, folder: str | Path) -> None:
        """Writes settings and vectors; see `Retriever.save`."""
        self._check_fitted()
        arrays: dict[str, npt.NDArray[Any]] = {
            "degrees": self.degrees_,
            "mean_user": self.mean_user_,
        }
        for group in ("item_parts", "history_parts", "views"):
            arrays |= {f"{group}.{n}": v for n, v in getattr(self, f"{group}_").items()}
        save_retriever(folder, self.kind, settings=settings_of(self), arrays=arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        self = cls(**settings)
        self.degrees_, self.mean_user_ = arrays["degrees"], arrays["mean_user"]
        for group in ("item_parts", "history_parts", "views"):
            found = {n.split(".")[1]: v for n, v in arrays.items() if n.startswith(f"{group}.")}
            setattr(self, f"{group}_", {n: found[n] for n in (*PARTS, "image") if n in found})
        return self

    def _module(
        self, sequences: Sequences, num_items: int, views: Mapping[str, torch.Tensor]
    ) -> AnchorRecModule:
        device = torch_device(self.device)
        with seeded(self.seed, torch.device("cpu")):
            module = AnchorRecModule(
                normalised_graph(sequences, num_items),
                history_block(sequences, self.degrees_),
                views,
                dim=self.dim,
                id_layers=self.id_layers,
                view_layers=self.view_layers,
                neighbours=self.neighbours,
                trained_users=self.user_vectors == "trained",
            )
        return module.to(device)

    def _weights(self) -> Weights:
        return Weights(**{name: getattr(self, name) for name in Weights._fields})

    def _recall(self, module: AnchorRecModule, valid: Validation) -> Callable[[], float]:
        """Returns what measures recall@20 of the vectors that the module then gives."""
        measure = target_measure(
            self._scores,
            valid,
            num_items=len(self.degrees_),
            users=self.valid_users,
            seed=self.seed,
            k=_SELECT_K,
            metric="recall",
        )

        def measured() -> float:
            self._keep(module)
            return measure()

        return measured

    def _scores(self, histories: Sequences) -> torch.Tensor:
        """Scores of the whole catalogue, float32 [B, N]."""
        device = torch_device(self.device)
        items = torch.from_numpy(_sum(self.item_parts_)).to(device)
        return torch.from_numpy(self._users(histories)).to(device) @ items.T

    @torch.no_grad()
    def _keep(self, module: AnchorRecModule) -> None:
        """Takes over the vectors that the module now gives."""
        found = module()
        scored = {name: found.views[name] for name in found.view_users}
        decoded = {"decoder": found.decoded} if found.views else {}
        self.item_parts_ = _arrays({"id": found.ids.items, **scored, **decoded})
        self.history_parts_ = _arrays({"id": found.ids.history, **scored})
        self.views_ = _arrays({"id": found.ids.items, **found.views})
        warm = module.block.indices()[0].unique()  # of the others nothing was learned
        self.mean_user_ = found.users[warm].mean(dim=0).cpu().numpy()

    def _users(self, histories: Sequences) -> Floats:
        """The vectors of any users, float32 [B, dim]."""
        block = history_block(histories, self.degrees_)
        users = torch.sparse.mm(block, torch.from_numpy(_sum(self.history_parts_))).numpy()
        empty = np.array([np.size(history) == 0 for history in histories], dtype=bool)
        users[empty] = self.mean_user_
        return users

    def _check_fitted(self) -> None:
        if not hasattr(self, "item_parts_"):
            raise ValueError("this AnchorRec is not fitted; call fit() first")


def _sum(parts: Mapping[str, Floats]) -> Floats:
    return np.sum(list(parts.values()), axis=0, dtype=np.float32)


def _arrays(vectors: Mapping[str, torch.Tensor]) -> dict[str, Floats]:
    return {name: v.detach().cpu().numpy() for name, v in vectors.items()}
