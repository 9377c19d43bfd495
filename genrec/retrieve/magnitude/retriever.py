"""A two-tower retriever whose score keeps or drops the magnitude of each side: histories and text.

The loss and its variants are the paper's (arXiv 2602.09229, see `loss`), the towers are ours
(see `towers`). A history is a mean with recency decay: no padding, no attention, any length,
and an index of item vectors is all that serving needs. `sasrec` is the sequence model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.progress import Progress, silent
from genrec.ranking import RankedLists
from genrec.retrieve.base import Arrays, Retriever, by_scores, in_blocks
from genrec.retrieve.learning import Floats, fit_epochs, seeded, target_measure, torch_device
from genrec.retrieve.magnitude.norms import norm_report
from genrec.retrieve.magnitude.settings import MagnitudeSettings
from genrec.retrieve.magnitude.towers import Towers, check_texts, check_views
from genrec.retrieve.magnitude.training import (
    K,
    PairTrainer,
    TextQueries,
    check_queries,
    ends,
    hold_out,
    rows_of,
    text_measure,
    together,
    window,
)
from genrec.retrieve.sequences import FloatArray, Sequences, Validation, flatten

_ROWS = 8192  # vectors computed at once


class Magnitude(Retriever[MagnitudeSettings]):
    """Scores item d for a query q by s(q, d) of one variant; see `MagnitudeScore`.

    It trains on every (history so far, next item) of the sequences, and on (text, item) pairs where
    given. The score is the same in training, validation, `recommend` and `search`. Items without
    interactions have their views; an empty history has the learned start vector.

    Attributes:
        vectors_: float32 [N, d], item vectors before normalisation; set by `fit`, as what follows.
        dims_: width of each view by its name.
        log_: per epoch loss, and valid (what it is chosen by) where that was measured.
    """

    vectors_: Floats
    dims_: dict[str, int]
    _net: Towers

    def fit(  # type: ignore[override]  # it needs features
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
                by the geometric mean of NDCG@10. None takes a share `held_out` of the queries away.
            progress: told how many epochs are done.

        Raises:
            ValueError: no pairs to learn from, a view or query that does not fit (names it), NaN.
        """
        views = check_views(features, num_items=num_items)
        dims = {name: view.shape[1] for name, view in views.items()}
        flat = flatten(sequences, num_items=num_items)
        check = partial(check_queries, dims=dims, num_items=num_items)
        texts = check(queries or {})
        if valid_queries is not None:
            held = check(valid_queries)
        else:
            texts, held = hold_out(texts, self.settings.held_out, seed=self.seed)
        if not len(flat.item) and not texts:
            raise ValueError(
                "magnitude: nothing to learn from: the sequences are empty, and no text queries"
            )
        self.dims_, self._net = dims, self._towers(dims, num_items)
        tables = {name: torch.from_numpy(view).to(self._device) for name, view in views.items()}
        self._net.measure(tables)
        trainer = PairTrainer(self._net, tables, flat, texts, self.settings, seed=self.seed)
        self.log_ = fit_epochs(
            self._net,
            trainer.epoch,
            self._measure(valid, held, tables),
            epochs=self.settings.epochs,
            patience=self.settings.patience,
            step="magnitude: fit",
            progress=progress,
        )
        self._keep(tables)
        return self

    @property
    def _device(self) -> torch.device:
        return torch_device(self.device)

    def _towers(self, dims: Mapping[str, int], num_items: int) -> Towers:
        with seeded(self.seed, torch.device("cpu")):
            net = Towers(
                dims,
                dim=self.settings.dim,
                hidden=self.settings.hidden,
                variant=self.settings.variant,
                num_items=num_items if self.settings.item_table else 0,
            )
        return net.to(self._device)

    def _measure(
        self, valid: Validation | None, texts: TextQueries, tables: Mapping[str, Tensor]
    ) -> Callable[[], float] | None:
        measures = [text_measure(partial(self.search, k=K), *pairs) for pairs in texts.values()]
        if valid is not None:
            measures.append(
                target_measure(
                    lambda histories: self._scorer()(histories),
                    valid,
                    num_items=len(next(iter(tables.values()))),
                    users=self.settings.valid_users,
                    seed=self.seed,
                    k=K,
                )
            )

        def measure() -> float:
            self._keep(tables)
            return together(measures)

        return measure if measures else None

    def _scorer(self) -> Callable[[Sequences], Tensor]:
        documents = self._scored()
        return lambda histories: self._histories(histories, documents) @ documents.T

    def search(self, vectors: FloatArray, *, k: int, progress: Progress = silent) -> RankedLists:
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
        return in_blocks(
            by_scores(lambda part, _: queries[part] @ documents.T, k=k),
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
        scored = self._scored()
        return self.vectors_.copy() if raw else scored.cpu().numpy()

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
        vectors = torch.cat([torch.zeros(0, self.settings.dim, device=self._device), *parts])
        return (vectors if raw else self._net.score.queries(vectors)).cpu().numpy()

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
        self._check_fitted()
        return self._net.score.documents(torch.from_numpy(self.vectors_).to(self._device))

    @torch.no_grad()
    def _keep(self, tables: Mapping[str, Tensor]) -> None:
        """Takes over the item vectors that the towers now give."""
        self.num_items_ = len(next(iter(tables.values())))
        rows = torch.arange(self.num_items_, device=self._device).split(_ROWS)
        self.vectors_ = torch.cat([rows_of(self._net, tables, part) for part in rows]).cpu().numpy()

    @torch.no_grad()
    def _histories(self, histories: Sequences, documents: Tensor, *, raw: bool = False) -> Tensor:
        flat = flatten(histories, num_items=len(documents))
        item, begin, end = (torch.from_numpy(a).to(self._device) for a in (flat.item, *ends(flat)))
        near, there = window(item, begin, end, self.settings.recent)
        vectors = self._net.histories(documents[near], there, decay=self.settings.decay)
        return vectors if raw else self._net.score.queries(vectors)

    def export(
        self,
        folder: Path,
        *,
        item_ids: Sequence[str],
        valid: Validation,
        popularity: npt.NDArray[np.integer],
    ) -> dict[str, Any]:
        """Writes an index, and the vectors for other databases; tells what was learned of norms."""
        from genrec.retrieve.index import ItemIndex, export_vectors

        vectors = self.item_vectors()
        index = ItemIndex(vectors.shape[1], self.settings.index)
        index.add(vectors, np.arange(len(vectors)))
        index.save(folder / "index")
        export_vectors(folder / "vectors", vectors, item_ids)
        queries = self.query_vectors(valid.histories[: self.settings.valid_users])
        relevant = np.isin(np.arange(len(vectors)), valid.targets)
        norms = norm_report(self.item_vectors(raw=True), relevant=relevant, popularity=popularity)
        return {
            "gammas": dict(zip(("query", "document"), self.gammas_, strict=True)),
            "norms": {n: v if np.isfinite(v) else None for n, v in norms._asdict().items()},
            "index_recall@10": index.recall_against_flat(queries, k=10, vectors=vectors),
        }

    def _arrays(self) -> Arrays:
        state = {f"net.{name}": v.cpu().numpy() for name, v in self._net.state_dict().items()}
        return {**state, "vectors": self.vectors_}

    def _restore(self, arrays: Arrays) -> None:
        state = {n.removeprefix("net."): a for n, a in arrays.items() if n.startswith("net.")}
        # The first layer of each view's map, [d or hidden, width], says how wide the view is.
        first = {
            n: a for n, a in state.items() if n.startswith("views.") and n.endswith(".0.weight")
        }
        self.dims_ = {name.split(".")[1]: array.shape[1] for name, array in first.items()}
        self.vectors_, self.num_items_ = arrays["vectors"], len(arrays["vectors"])
        self._net = self._towers(self.dims_, self.num_items_)
        self._net.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})
        self._net.eval()
