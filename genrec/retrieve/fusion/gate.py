"""A learned gate: how far each source is to be trusted for this candidate and this user.

scikit-learn's logistic regression over a candidate's features. Its weights are a few dozen numbers that
safetensors holds and a person can read; trees would need a pickle (scikit-learn) or one dependency more
(LightGBM), and validation users give only as many positives as there are hits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.linear_model import LogisticRegression

from genrec.ranking import places_in_rows
from genrec.retrieve.base import read_fitted, write_fitted
from genrec.retrieve.fusion.candidates import (
    Candidates,
    Floats,
    Tables,
    candidates,
    check_labels,
    ranked,
    with_targets,
)
from genrec.retrieve.fusion.features import check_items, counts_of, histories, of_sources
from genrec.retrieve.fusion.settings import Fuse


class Gate:
    """Ranks candidates by the log-odds of being the next item. Ours.

    Features of a candidate, per source: its min-max score in the list, 1/rank, and whether it is
    listed; over all: the number of sources that list it, its log-popularity ln(1 + training
    interactions) and the user's log-history ln(1 + length). Every feature of a source stands a second
    and a third time, times log-popularity and times log-history (standardised): so the weight of a
    source depends on both, which is what makes it a gate. Candidates of a user that are not among the
    `negatives` drawn would only move the intercept, which ranks nothing.

    Args:
        settings: `C` and `negatives`; None takes the defaults.
        seed: of the draw of negatives.
        options: single settings instead, or changes to them.

    Attributes:
        names_: the sources, ascending; set by `fit`.
        popularity_: int64 [N]; set by `fit`.
        coefficients_: float64 [F], of standardised features; set by `fit`.
        mean_: float64 [F], and `scale_`: the standardisation; set by `fit`.
        context_: float64 [2, 2], mean and scale of log-popularity and log-history; set by `fit`.
    """

    kind, learned = "gate", "coefficients"
    names_: tuple[str, ...]
    popularity_: npt.NDArray[np.int64]
    coefficients_: Floats
    mean_: Floats
    scale_: Floats
    context_: Floats

    def __init__(self, settings: Fuse | None = None, *, seed: int = 0, **options: Any) -> None:
        self.settings, self.seed = Fuse.from_options(settings, **options), seed

    def fit(self, tables: Tables, targets: pl.DataFrame, *, popularity: npt.ArrayLike) -> Self:
        """Learns from validation users: a candidate is positive if it is the user's next item.

        Users whose target no source lists have nothing to rank and are left out.

        Args:
            tables: validation users' recommendations table by source name.
            targets: the same users, schema `SPLIT`. Never test users.
            popularity: int [N], training interactions of each item, 0 or more.

        Raises:
            ValueError: as `candidates` and `with_targets`; popularity that is no
                counts, a user without a history row, or a candidate outside 0..N-1.
            NothingToFitError: no target among the candidates, or nothing but targets.
        """
        self.popularity_ = counts_of(popularity)
        labelled = with_targets(candidates(tables), targets)
        rows, label = labelled.rows, labelled.labels()
        check_labels(label)
        drawn = self._drawn(labelled.owner, label)
        context = self._context(rows, targets)[drawn]
        self.context_ = np.stack([context.mean(axis=0), _scale(context)])
        features = self._features(of_sources(rows)[drawn], context)
        self.mean_, self.scale_ = features.mean(axis=0), _scale(features)
        model = LogisticRegression(C=self.settings.C, max_iter=2000)
        model.fit((features - self.mean_) / self.scale_, label[drawn])
        self.coefficients_ = model.coef_[0].astype(np.float64)
        self.names_ = rows.names
        return self

    def fuse(self, tables: Tables, users: pl.DataFrame, *, k: int) -> pl.DataFrame:
        """Ranks each user's candidates.

        Args:
            tables: recommendations table by source name, the sources of `fit`.
            users: columns user and history; a table of schema `SPLIT` will do, its targets are not
                looked at.
            k: length of the fused lists.

        Returns:
            A table of schema `RECOMMENDATIONS` with unique ranks.

        Raises:
            ValueError: not fitted, other sources than at `fit`, or as `fit`.
        """
        names = self._fitted()
        rows = candidates(tables)
        if rows.names != names:
            raise ValueError(f"gate: fitted on sources {list(names)}, given {list(rows.names)}")
        sources, context = of_sources(rows), self._context(rows, users)
        score = np.empty(len(rows.item))
        for start in range(0, len(score), _BLOCK):
            part = slice(start, start + _BLOCK)
            features = self._features(sources[part], context[part])
            score[part] = (features - self.mean_) / self.scale_ @ self.coefficients_
        return ranked(rows.user, rows.item, score, k=k)

    def weights(self) -> dict[str, float]:
        """Returns the coefficient of each standardised feature by its name, for people to read."""
        names = _feature_names(self._fitted())
        return dict(zip(names, self.coefficients_.tolist(), strict=True))

    def save(self, folder: str | Path) -> None:
        """Writes settings and coefficients: JSON and safetensors."""
        settings = self.settings.model_dump(include={"C", "negatives"})
        names = list(self._fitted())
        head = {"kind": self.kind, "settings": settings, "seed": self.seed, "names": names}
        write_fitted(folder, head, {name: getattr(self, f"{name}_") for name in _ARRAYS})

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote; errors as `Retriever.load`."""
        head, arrays = read_fitted(folder, cls.kind)
        self = cls(seed=head["seed"], **head["settings"])
        self.names_ = tuple(head["names"])
        for name in _ARRAYS:
            setattr(self, f"{name}_", arrays[name])
        return self

    def _fitted(self) -> tuple[str, ...]:
        names: tuple[str, ...] | None = getattr(self, "names_", None)
        if names is None:
            raise ValueError("this Gate is not fitted; call fit() first")
        return names

    def _drawn(
        self, owner: npt.NDArray[np.int64], label: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """The rows to learn from, ascending: every target, and some of its user's other candidates."""
        chance = np.random.default_rng(self.seed).random(len(owner))
        chance[label] = -1  # first of its user
        order = np.lexsort((chance, owner))
        return np.sort(order[places_in_rows(owner[order]) <= self.settings.negatives])

    def _context(self, rows: Candidates, users: pl.DataFrame) -> Floats:
        """Log-popularity of the item and log-history of the user of each candidate, [C, 2]."""
        check_items(rows, len(self.popularity_))
        owner, history = histories(rows, users)
        columns = [self.popularity_[rows.item], history.list.len().to_numpy()[owner]]
        return np.log1p(np.stack(columns, axis=1).astype(np.float64))

    def _features(self, sources: Floats, context: Floats) -> Floats:
        """Float64 [C, F], in the order of `_feature_names`, of rows of `_of_sources` and `_context`."""
        listed = sources[:, 2 * sources.shape[1] // 3 :]
        level = (context - self.context_[0]) / self.context_[1]  # [C, 2]
        crossed = [sources * level[:, [0]], sources * level[:, [1]]]
        return np.concatenate(
            [sources, *crossed, listed.sum(axis=1, keepdims=True), context], axis=1
        )


_BLOCK = 2**18  # candidates whose features are held at once
_ARRAYS = ("popularity", "coefficients", "mean", "scale", "context")


def _feature_names(sources: tuple[str, ...]) -> list[str]:
    own = [f"{what} {name}" for what in ("score", "1/rank", "listed") for name in sources]
    crossed = [f"{name} x {level}" for level in ("popularity", "history") for name in own]
    return [*own, *crossed, "agreement", "popularity", "history"]


def _scale(features: Floats) -> Floats:
    """Standard deviation of each column; 1 where a column is constant."""
    spread = features.std(axis=0)
    return np.where(spread > 0, spread, 1.0)
