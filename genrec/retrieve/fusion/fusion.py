"""A fusion as one thing: fitted on validation users, then applied to any lists of the same sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import numpy.typing as npt
import polars as pl

from genrec.retrieve.fusion.gate import Gate
from genrec.retrieve.fusion.methods import (
    Weights,
    check_weights,
    fit_weights,
    reciprocal_rank,
    weighted,
)
from genrec.retrieve.fusion.sources import Method, Tables

_FILE = "fusion.json"


class Fusion:
    """Joins several systems' lists by a method of `methods`, or by a `Gate`.

    Args:
        method: reciprocal_rank, minmax, zscore or gate.
        weights: by source; None fits them. Not for the gate, which learns its own.
        k0: of reciprocal_rank.
        optimise_k: weights are fitted to NDCG at this cut-off.
        restarts: random starting points of that fit.
        strength: of the gate.
        negatives: of the gate.
        seed: of the fit.

    Raises:
        ValueError: an unknown method, or weights for the gate.

    Attributes:
        weights_: by source; None for the gate. Set by `fit`.
        gate_: the gate; None for the others. Set by `fit`.
    """

    weights_: dict[str, float] | None
    gate_: Gate | None

    def __init__(
        self,
        *,
        method: Method | Literal["gate"] = "zscore",
        weights: Weights | None = None,
        k0: float = 60.0,
        optimise_k: int = 10,
        restarts: int = 2,
        strength: float = 1.0,
        negatives: int = 100,
        seed: int = 0,
    ) -> None:
        known = (*get_args(Method), "gate")
        if method not in known or (method == "gate" and weights is not None):
            raise ValueError(
                f"method={method!r}, weights={weights}: expected one of {known}; the gate learns its own"
            )
        self.method, self.weights, self.k0 = method, weights, k0
        self.optimise_k, self.restarts = optimise_k, restarts
        self.strength, self.negatives, self.seed = strength, negatives, seed

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
        weights, gate = None, None
        if self.method == "gate":
            gate = Gate(strength=self.strength, negatives=self.negatives, seed=self.seed)
            gate.fit(tables, targets, popularity=popularity)
        elif self.weights is not None:
            check_weights(self.weights, sorted(tables))
            weights = dict(self.weights)
        else:
            weights = fit_weights(
                tables,
                targets,
                method=self.method,
                k=self.optimise_k,
                k0=self.k0,
                restarts=self.restarts,
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
        if self.method == "reciprocal_rank":
            return reciprocal_rank(tables, self.weights_, k=k, k0=self.k0)
        normalise = cast(Literal["minmax", "zscore"], self.method)
        return weighted(tables, self.weights_, k=k, normalise=normalise)

    def told(self) -> dict[str, Any]:
        """Returns what people want to read: method, sources, and weights or coefficients."""
        found: dict[str, Any] = {"method": self.method, "sources": list(self.sources)}
        if self.gate_ is not None:
            return found | {"coefficients": self.gate_.weights()}
        return found | {"weights": self.weights_}

    def save(self, folder: str | Path) -> None:
        """Writes fusion.json, and the gate beside it."""
        folder, _ = Path(folder), self.sources  # refuses when not fitted
        folder.mkdir(parents=True, exist_ok=True)
        saved = {"method": self.method, "weights": self.weights_, "k0": self.k0}
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
            self = cls(method=saved["method"], weights=saved["weights"], k0=saved["k0"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: damaged ({error!r}); fit and save again") from error
        self.weights_ = saved["weights"]
        self.gate_ = Gate.load(Path(folder) / "gate") if self.method == "gate" else None
        return self
