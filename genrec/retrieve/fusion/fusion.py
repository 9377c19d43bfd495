"""A fusion as one thing: fitted on validation users, then applied to any lists of the same sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy.typing as npt
import polars as pl

from genrec.retrieve.fusion.candidates import Tables
from genrec.retrieve.fusion.gate import Gate
from genrec.retrieve.fusion.methods import check_weights, fit_weights, reciprocal_rank, weighted
from genrec.retrieve.fusion.settings import Fuse

_FILE = "fusion.json"


class Fusion:
    """Joins several systems' lists by a method of `methods`, or by a `Gate`.

    Args:
        settings: method, weights (None fits them) and what else `Fuse` holds; None takes the defaults.
        seed: of the fit.
        options: single settings instead, or changes to them: `Fusion(method="gate")`.

    Raises:
        ValueError: an unknown option, a value out of bounds, or weights for the gate.

    Attributes:
        weights_: by source; None for the gate. Set by `fit`.
        gate_: the gate; None for the others. Set by `fit`.
    """

    weights_: dict[str, float] | None
    gate_: Gate | None

    def __init__(self, settings: Fuse | None = None, *, seed: int = 0, **options: Any) -> None:
        self.settings, self.seed = Fuse.from_options(settings, **options), seed

    def fit(self, tables: Tables, targets: pl.DataFrame, *, popularity: npt.ArrayLike) -> Self:
        """Fits weights or the gate.

        Args:
            tables: validation users' recommendations table by source name.
            targets: the same users, schema `SPLIT`. Never test users.
            popularity: int [N], training interactions of each item; the gate looks at it.

        Raises:
            ValueError: as `fit_weights` and `Gate.fit`, or given weights that do not fit the tables.
            NothingToFitError: the users' lists teach nothing; given weights do without.
        """
        settings, weights, gate = self.settings, None, None
        if settings.method == "gate":
            gate = Gate(settings, seed=self.seed).fit(tables, targets, popularity=popularity)
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
        self.weights_, self.gate_ = weights, gate  # only now: a fit that fails leaves none behind
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the systems that it joins, ascending.

        Raises:
            ValueError: not fitted.
        """
        if not hasattr(self, "gate_"):
            raise ValueError("this Fusion is not fitted; call fit() first")
        return self.gate_.names_ if self.gate_ is not None else tuple(sorted(self.weights_ or {}))

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
        if self.gate_ is not None:
            return self.gate_.fuse(tables, users, k=k)
        if self.settings.method == "reciprocal_rank":
            return reciprocal_rank(tables, self.weights_, k=k, rrf_k=self.settings.rrf_k)
        normalise = cast(Literal["minmax", "zscore"], self.settings.method)
        return weighted(tables, self.weights_, k=k, normalise=normalise)

    def summary(self) -> dict[str, Any]:
        """Returns what people want to read: method, sources, and weights or coefficients."""
        summary: dict[str, Any] = {"method": self.settings.method, "sources": list(self.sources)}
        if self.gate_ is not None:
            return summary | {"coefficients": self.gate_.weights()}
        return summary | {"weights": self.weights_}

    def save(self, folder: str | Path) -> None:
        """Writes fusion.json, and the gate into a folder next to it."""
        folder, _ = Path(folder), self.sources  # refuses when not fitted
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.settings.model_dump(mode="json")
        saved = {"settings": settings, "seed": self.seed, "weights": self.weights_}
        (folder / _FILE).write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n", "utf-8")
        if self.gate_ is not None:
            self.gate_.save(folder / "gate")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote, ready to `fuse`.

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
        is_gate = self.settings.method == "gate"
        self.gate_ = Gate.load(Path(folder) / "gate") if is_gate else None
        return self
