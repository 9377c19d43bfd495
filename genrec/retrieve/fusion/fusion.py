"""A fusion as one thing: fitted on validation users, then applied to any lists of the same sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.retrieve.fusion.candidates import Tables
from genrec.retrieve.fusion.features import Facts, Views
from genrec.retrieve.fusion.gate import Gate
from genrec.retrieve.fusion.lambdarank import LambdaRank
from genrec.retrieve.fusion.methods import check_weights, fit_weights, reciprocal_rank, weighted
from genrec.retrieve.fusion.settings import Fuse

_FILE = "fusion.json"


class Fusion:
    """Joins several systems' lists by a method of `methods`, by a `Gate` or by a `LambdaRank`.

    Args:
        settings: method, weights (None fits them) and what else `Fuse` holds; None takes the defaults.
        seed: of the fit.
        options: single settings instead, or changes to them: `Fusion(method="gate")`.

    Raises:
        ValueError: an unknown option, a value out of bounds, or weights for what learns its own.

    Attributes:
        weights_: by source; None for what learns more than weights. Set by `fit`.
        ranker_: the gate or the trees; None where there are weights. Set by `fit`.
    """

    weights_: dict[str, float] | None
    ranker_: Gate | LambdaRank | None

    def __init__(self, settings: Fuse | None = None, *, seed: int = 0, **options: Any) -> None:
        self.settings, self.seed = Fuse.from_options(settings, **options), seed

    def fit(
        self,
        tables: Tables,
        targets: pl.DataFrame,
        *,
        popularity: npt.ArrayLike,
        facts: Facts | None = None,
    ) -> Self:
        """Fits weights, the gate or the trees.

        Args:
            tables: validation users' recommendations table by source name.
            targets: the same users, schema `SPLIT`. Never test users.
            popularity: int [N], training interactions of each item; the gate and the trees look at it.
            facts: what else is known of the items; the trees look at it.

        Raises:
            ValueError: as `fit_weights`, `Gate.fit` and `LambdaRank.fit`, or given weights that do not
                fit the tables.
            NothingToFitError: the users' lists teach nothing; given weights do without.
            ImportError: lambdarank without lightgbm.
        """
        settings, weights = self.settings, None
        ranker: Gate | LambdaRank | None = None
        if settings.method == "gate":
            ranker = Gate(settings, seed=self.seed).fit(tables, targets, popularity=popularity)
        elif settings.method == "lambdarank":
            ranker = LambdaRank(settings, seed=self.seed).fit(
                tables, targets, popularity=popularity, facts=facts
            )
        elif settings.weights is not None:
            check_weights(settings.weights, sorted(tables))
            weights = dict(settings.weights)
        else:
            weights = fit_weights(
                tables,
                targets,
                method=settings.method,
                k=settings.optimise_k,
                rrf_k=settings.rrf_k,
                restarts=settings.restarts,
                seed=self.seed,
            )
        # Only now: a fit that fails leaves none behind.
        self.weights_, self.ranker_ = weights, ranker
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the systems that it joins, ascending.

        Raises:
            ValueError: not fitted.
        """
        if not hasattr(self, "ranker_"):
            raise ValueError("this Fusion is not fitted; call fit() first")
        if self.ranker_ is not None:
            return self.ranker_.names_
        return tuple(sorted(self.weights_ or {}))

    def fuse(self, tables: Tables, users: pl.DataFrame, *, k: int) -> pl.DataFrame:
        """Ranks each user's candidates; see `Gate.fuse`.

        Args:
            tables: recommendations table by source name, all of `sources`.
            users: columns user and history.
            k: length of the fused lists.

        Raises:
            ValueError: not fitted, or other sources.
        """
        if set(tables) != set(self.sources):
            raise ValueError(f"fitted on sources {list(self.sources)}, given {sorted(tables)}")
        if self.ranker_ is not None:
            return self.ranker_.fuse(tables, users, k=k)
        if self.settings.method == "reciprocal_rank":
            return reciprocal_rank(tables, self.weights_, k=k, rrf_k=self.settings.rrf_k)
        normalise = cast(Literal["minmax", "zscore"], self.settings.method)
        return weighted(tables, self.weights_, k=k, normalise=normalise)

    def fuse_held_out(
        self,
        tables: Tables,
        targets: pl.DataFrame,
        *,
        k: int,
        popularity: npt.ArrayLike,
        facts: Facts | None = None,
    ) -> pl.DataFrame:
        """Ranks each validation user's candidates by a fusion that is fitted to other users.

        Users are dealt at random into `folds` parts; each part is fused by a fit to all others, with
        these settings and this seed. Such lists can be measured; those of a fit to the same users
        flatter it. The fusion itself need not be fitted, and is left as it is.

        Args:
            tables: as `fit`.
            targets: as `fit`.
            k: length of the fused lists.
            popularity: as `fit`.
            facts: as `fit`.

        Raises:
            ValueError: as `fit`.
            NothingToFitError: the other users of a part teach nothing.
        """
        users = targets["user"].unique().sort()
        dealt = np.random.default_rng(self.seed).permutation(len(users)) % self.settings.folds
        parts = []
        for fold in range(self.settings.folds):
            own = pl.col("user").is_in(users.filter(dealt == fold).implode())
            others = type(self)(self.settings, seed=self.seed).fit(
                {name: table.filter(~own) for name, table in tables.items()},
                targets.filter(~own),
                popularity=popularity,
                facts=facts,
            )
            theirs = {name: table.filter(own) for name, table in tables.items()}
            parts.append(others.fuse(theirs, targets.filter(own), k=k))
        return pl.concat(parts).sort("user", "rank")

    def summary(self) -> dict[str, Any]:
        """Returns what people want to read: method, sources, and weights or what a ranker learned."""
        summary: dict[str, Any] = {"method": self.settings.method, "sources": list(self.sources)}
        if self.ranker_ is not None:
            return summary | {self.ranker_.learned: self.ranker_.weights()}
        return summary | {"weights": self.weights_}

    def save(self, folder: str | Path) -> None:
        """Writes fusion.json, and the gate or the trees into a folder named by the method."""
        folder, _ = Path(folder), self.sources  # refuses when not fitted
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.settings.model_dump(mode="json")
        saved = {"settings": settings, "seed": self.seed, "weights": self.weights_}
        (folder / _FILE).write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n", "utf-8")
        if self.ranker_ is not None:
            self.ranker_.save(folder / self.settings.method)

    @classmethod
    def load(cls, folder: str | Path, *, views: Views | None = None) -> Self:
        """Reads what `save` wrote, ready to `fuse`.

        Args:
            folder: where it lies.
            views: of the items, for the trees: those that they were fitted with.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        file = Path(folder) / _FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; expected a folder written by save()")
        try:
            saved: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
            self = cls(seed=saved["seed"], **saved["settings"])
            self.weights_ = saved["weights"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: damaged ({error!r}); fit and save again") from error
        method, self.ranker_ = self.settings.method, None
        if method == "gate":
            self.ranker_ = Gate.load(Path(folder) / method)
        elif method == "lambdarank":
            self.ranker_ = LambdaRank.load(Path(folder) / method, views=views)
        return self
