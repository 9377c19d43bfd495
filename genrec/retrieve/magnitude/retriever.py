"""A two-tower retriever whose score keeps or drops the magnitude of each side: histories and text.

The loss and its variants are the paper's (arXiv 2602.09229, see `loss`), the towers are ours
(see `towers`). A history is a mean with recency decay: no padding, no attention, any length,
and an index of item vectors is all that serving needs. `sasrec` is the sequence model beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.progress import Progress, silent
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
from genrec.retrieve.magnitude.choice import K, text_measure, together
from genrec.retrieve.magnitude.loss import SCALE, MagnitudeScore, Variant
from genrec.retrieve.magnitude.pairs import (
    PairTrainer,
    TextQueries,
    Training,
    check_queries,
    ends,
    rows_of,
    window,
)
from genrec.retrieve.magnitude.towers import Towers, check_texts, check_views
from genrec.retrieve.ranking import flatten

Floats = npt.NDArray[np.float32]
_ROWS = 8192  # vectors computed at once


@dataclass(kw_only=True)
class Magnitude:
    """Scores item d for a query q by s(q, d) of one variant; see `MagnitudeScore`.

    It trains on every (history so far, next item) of the sequences, and on (text, item) pairs where
    given. The score is the same in training, validation, `recommend` and `search`. Items without
    interactions have their views; an empty history has the learned start vector.

    Attributes:
        variant: cosine, dot, qnorm, dnorm or learn; the paper calls learn a safe default.
        dim: d, width of the vectors.
        hidden: width of a view's hidden layer; 0 for a linear map.
        item_table: adds a learned vector to each item; an item training never saw keeps its views'.
        recent: how many of a history's newest items count.
        decay: weight of an item one step older than the next.
        epochs: passes over the pairs, at most.
        patience: epochs without a gain on validation before stopping.
        batch_size: pairs per step, which is also how many documents a query is set against.
        lr: of AdamW; ours (the paper's 2e-6 is for a whole encoder); `gamma_lr`: of the exponents.
        scale: one over the temperature; the paper's 20.
        popularity_correction: times the logarithm of an item's frequency is taken off its score in
            training; 0 is the paper's loss, 1 undoes that batches hold popular items more.
        valid_users: of the validation users, at most so many are looked at.
        seed: of weights and order; `device`: auto, cpu or cuda.
        vectors_: float32 [N, d], item vectors before normalisation; set by `fit`, as what follows.
        dims_: width of each view by its name.
        log_: per epoch loss, and valid (what it is chosen by) where that was measured.
    """

    kind: ClassVar[str] = "magnitude"
    variant: Variant = "learn"
    dim: int = 128
    hidden: int = 0
    item_table: bool = False
    recent: int = 20
    decay: float = 0.8
    epochs: int = 60
    patience: int = 6
    batch_size: int = 512
    lr: float = 3e-4
    gamma_lr: float = 1e-2
    scale: float = SCALE
    popularity_correction: float = 1.0
    valid_users: int = 2000
    seed: int = 0
    device: str = "auto"
    vectors_: Floats = field(init=False, repr=False)
    log_: list[dict[str, float]] = field(init=False, repr=False)
    dims_: dict[str, int] = field(init=False, repr=False)
    _net: Towers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        MagnitudeScore(self.variant)  # refuses an unknown one
        for name in ("dim", "recent", "epochs", "patience", "batch_size", "valid_users"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        for name in ("lr", "gamma_lr", "scale", "decay"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} is {value}; expected above 0")
        if self.decay > 1 or self.hidden < 0:
            raise ValueError(f"decay={self.decay}, hidden={self.hidden}: expected <=1 and >=0")
        torch_device(self.device)

    def fit(
        self,
        sequences: Sequences,
        *,
        num_items: int,
        features: Mapping[str, FloatArray],
        queries: TextQueries | None = None,
        valid: Validation | None = None,
        valid_queries: TextQueries | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learns both towers; see `Retriever.fit`.

        Args:
            sequences: one int array per user, oldest first.
            num_items: N.
            features: views of the items, [N, D] by name; zero rows for items without the view.
            queries: by name (title, caption, interest) text vectors [n, D] of the `text` view's
                encoder, and the items that they are about, [n].
            valid: chooses the epoch by NDCG@10; without it the last epoch stays.
            valid_queries: as queries, and none of them: the epoch is chosen by each kind of these too,
                by the geometric mean of NDCG@10.
            progress: told how many epochs are done.

        Raises:
            ValueError: no pairs to learn from, a view or query that does not fit (names it), NaN.
        """
        views = check_views(features, num_items=num_items)
        dims = {name: view.shape[1] for name, view in views.items()}
        flat = flatten(sequences, num_items=num_items)
        texts, held = (
            check_queries(given or {}, dims=dims, num_items=num_items)
            for given in (queries, valid_queries)
        )
        if not len(flat.item) and not texts:
            raise ValueError(
                "magnitude: nothing to learn from: the sequences are empty, and no text queries"
            )
        self.dims_, self._net = dims, self._towers(dims, num_items)
        tables = {name: torch.from_numpy(view).to(self._device) for name, view in views.items()}
        self._net.measure(tables)
        settings = Training(**{name: getattr(self, name) for name in Training._fields})
        trainer = PairTrainer(self._net, tables, flat, texts, settings)
        self.log_ = fit_epochs(
            self._net,
            trainer.epoch,
            self._measure(valid, held, tables),
            epochs=self.epochs,
            patience=self.patience,
            step="magnitude: fit",
            progress=progress,
        )
        self.vectors_ = self._documents(tables)
        return self

    @property
    def _device(self) -> torch.device:
        return torch_device(self.device)

    def _towers(self, dims: Mapping[str, int], num_items: int) -> Towers:
        with seeded(self.seed, torch.device("cpu")):
            net = Towers(
                dims,
                dim=self.dim,
                hidden=self.hidden,
                variant=self.variant,
                num_items=num_items if self.item_table else 0,
            )
        return net.to(self._device)

    def _measure(
        self, valid: Validation | None, texts: TextQueries, tables: Mapping[str, Tensor]
    ) -> Callable[[], float] | None:
        def score(histories: Sequences) -> Tensor:
            documents = self._scored()
            return self._histories(histories, documents) @ documents.T

        measures = [text_measure(partial(self.search, k=K), *pairs) for pairs in texts.values()]
        if valid is not None:
            count, users = len(next(iter(tables.values()))), self.valid_users
            measures.append(
                target_measure(score, valid, num_items=count, users=users, seed=self.seed, k=K)
            )

        def measure() -> float:
            self.vectors_ = self._documents(tables)
            return together(measures)

        return measure if measures else None

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks items by the trained score; see `Retriever.recommend`."""
        documents = self._scored()
        return top_items(
            lambda part: self._histories(histories[part], documents) @ documents.T,
            histories,
            num_items=len(documents),
            k=k,
            exclude_seen=exclude_seen,
            step="magnitude: recommend",
            progress=progress,
        )

    def search(self, vectors: FloatArray, *, k: int, progress: Progress = silent) -> Ranked:
        """Ranks items for free text.

        Args:
            vectors: [n, D] of the encoder of the `text` view.
            k: length of each list.
            progress: told how many texts are done.

        Raises:
            ValueError: not fitted, no text view, another width, NaN, or k below 1.
        """
        documents = self._scored()
        queries = torch.from_numpy(self.query_vectors(texts=vectors)).to(self._device)
        return top_items(
            lambda part: queries[part] @ documents.T,
            [()] * len(queries),
            num_items=len(documents),
            k=k,
            step="magnitude: search",
            progress=progress,
        )

    def item_vectors(self, *, raw: bool = False) -> Floats:
        """Returns the vectors for an index; float32 [N, d].

        Args:
            raw: before normalisation; else as scored, of length 1 with cosine and dnorm.
        """
        return self.vectors_.copy() if raw else self._scored().cpu().numpy()

    @torch.no_grad()
    def new_item_vectors(self, features: Mapping[str, FloatArray]) -> Floats:
        """Returns vectors, as scored, of items that came after training; float32 [n, d].

        Raises:
            ValueError: not fitted, other views than those of `fit`, another width, NaN.
        """
        self._scored()  # refuses when not fitted
        count = len(next(iter(features.values()), ()))
        views = check_views(features, dims=self.dims_, num_items=count)
        tables = {name: torch.from_numpy(view).to(self._device) for name, view in views.items()}
        return self._net.score.documents(self._net.documents(tables)).cpu().numpy()

    @torch.no_grad()
    def query_vectors(
        self,
        histories: Sequences | None = None,
        *,
        texts: FloatArray | None = None,
        raw: bool = False,
    ) -> Floats:
        """Returns vectors whose inner products with `item_vectors()` are the scores; float32 [n, d].

        Args:
            histories: as in `recommend`; or texts,
            texts: as in `search`.
            raw: before normalisation.

        Raises:
            ValueError: both or neither given, or as `recommend` and `search`.
        """
        documents = self._scored()
        if (histories is None) == (texts is None):
            raise ValueError("expected either histories or texts")
        if texts is not None:
            rows = torch.from_numpy(check_texts(texts, dims=self.dims_, name="texts"))
            parts = [self._net.texts(part.to(self._device)) for part in rows.split(_ROWS)]
        else:
            assert histories is not None
            starts = range(0, len(histories), _ROWS)
            parts = [self._histories(histories[s : s + _ROWS], documents, raw=True) for s in starts]
        found = torch.cat([torch.zeros(0, self.dim, device=self._device), *parts])
        return (found if raw else self._net.score.queries(found)).cpu().numpy()

    @property
    @torch.no_grad()
    def gammas_(self) -> tuple[float, float]:
        """The exponents of the query's and the document's norm, in [0, 1]."""
        self._scored()
        query, document = self._net.score.gammas()
        return float(query), float(document)

    @torch.no_grad()
    def _scored(self) -> Tensor:
        """Document vectors as scored, float [N, d], on the device."""
        if not hasattr(self, "vectors_"):
            raise ValueError("this Magnitude is not fitted; call fit() first")
        return self._net.score.documents(torch.from_numpy(self.vectors_).to(self._device))

    @torch.no_grad()
    def _documents(self, tables: Mapping[str, Tensor]) -> Floats:
        count = len(next(iter(tables.values())))
        rows = torch.arange(count, device=self._device).split(_ROWS)
        parts = [rows_of(self._net, tables, part) for part in rows]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def _histories(self, histories: Sequences, documents: Tensor, *, raw: bool = False) -> Tensor:
        flat = flatten(histories, num_items=len(documents))
        item, begin, end = (torch.from_numpy(a).to(self._device) for a in (flat.item, *ends(flat)))
        near, there = window(item, begin, end, self.recent)
        found = self._net.histories(documents[near], there, decay=self.decay)
        return found if raw else self._net.score.queries(found)

    def save(self, folder: str | Path) -> None:
        """Writes settings, weights and item vectors; see `Retriever.save`."""
        self._scored()
        state = {f"net.{name}": v.cpu().numpy() for name, v in self._net.state_dict().items()}
        save_retriever(
            folder,
            self.kind,
            settings=settings_of(self) | {"views": self.dims_, "log": self.log_},
            arrays=state | {"vectors": self.vectors_},
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; see `Retriever.load`."""
        settings, arrays = load_retriever(folder, cls.kind)
        dims, log = settings.pop("views"), settings.pop("log")
        self = cls(**settings)
        self.log_, self.vectors_ = log, arrays.pop("vectors")
        self.dims_, self._net = dims, self._towers(dims, len(self.vectors_))
        state = {name.removeprefix("net."): torch.from_numpy(a) for name, a in arrays.items()}
        self._net.load_state_dict(state)
        self._net.eval()
        return self
