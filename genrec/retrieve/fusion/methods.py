"""Several recommendations tables to one: by ranks, by normalised scores, with fitted weights.

Nothing is aligned: what a source alone knows enters by its own weight. Sources are taken in the order
of their names: the same tables give the same lists, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.retrieve.fusion.candidates import (
    Floats,
    Method,
    Tables,
    WithTargets,
    candidates,
    contributions,
    ndcg,
    ranked,
    targets_of,
    with_targets,
)

Weights = Mapping[str, float]

# What a weight may be when it is fitted: 0, or half-octave steps from 1/16 of the largest up to it.
LEVELS = (0.0, *(2 ** (-step / 2) for step in range(8, -1, -1)))


def reciprocal_rank(
    tables: Tables, weights: Weights | None = None, *, k: int, rrf_k: float = 60.0
) -> pl.DataFrame:
    """Reciprocal-rank fusion (Cormack et al. 2009): sum over sources of weight / (rrf_k + rank).

    Args:
        tables: recommendations table by source name.
        weights: by source name, 0 or more; None weighs all alike. 0 leaves a source out.
        k: length of the fused lists.
        rrf_k: the larger, the less the first ranks count beyond the next ones.

    Returns:
        A table of schema `RECOMMENDATIONS` with unique ranks.

    Raises:
        ValueError: as `candidates`, or bad weights, k or rrf_k.
    """
    return _fused(tables, weights, "reciprocal_rank", k=k, rrf_k=rrf_k)


def weighted(
    tables: Tables,
    weights: Weights | None = None,
    *,
    k: int,
    normalise: Literal["minmax", "zscore"] = "minmax",
) -> pl.DataFrame:
    """Sum over sources of weight * score, each list's scores normalised for itself.

    Args:
        tables: recommendations table by source name.
        weights: by source name, 0 or more; None weighs all alike. 0 leaves a source out.
        k: length of the fused lists.
        normalise: "minmax" maps a list's worst score to 0 and its best to 1 (all to 1 if they are
            equal); "zscore" divides by its standard deviation, its worst score at 1. An item that
            the source does not list has 0: "zscore" so sets it one deviation below the worst listed
            (ours; the mean, which some libraries give it, would be better than half the list).

    Returns:
        A table of schema `RECOMMENDATIONS` with unique ranks.

    Raises:
        ValueError: as `candidates`, or bad weights or k.
    """
    return _fused(tables, weights, normalise, k=k, rrf_k=60.0)


def fit_weights(
    tables: Tables,
    targets: pl.DataFrame,
    *,
    method: Method = "reciprocal_rank",
    k: int = 10,
    rrf_k: float = 60.0,
    restarts: int = 2,
    seed: int = 0,
) -> dict[str, float]:
    """Finds the weights with the highest NDCG@k, on validation users only.

    Coordinate ascent over `LEVELS`: one source's weight at a time takes the best level, sources in
    a random order, until a round gains nothing. It starts from equal weights, from the best source
    alone and from `restarts` random points; the best end wins, the earlier one where two are equal.
    So on these users the fusion is no worse than its best source. Ours.

    Args:
        tables: validation users' recommendations table by source name; deeper than k is better.
        targets: the same users' next items, schema `SPLIT`. Never test users.
        method: what the weights are for: `reciprocal_rank`, or `weighted` by either normalisation.
        k: cut-off of NDCG.
        rrf_k: of `reciprocal_rank`.
        restarts: random starting points.
        seed: of the order and the random points.

    Returns:
        Weight by source name; they sum to 1.

    Raises:
        ValueError: as `candidates`, a user has two targets, or bad k, rrf_k or restarts.
        NothingToFitError: no source lists any user's target.
    """
    if k < 1 or restarts < 0:
        raise ValueError(f"k is {k}, restarts {restarts}; expected 1 or more, and 0 or more")
    labelled = with_targets(candidates(tables), targets)
    values = contributions(labelled.rows, method, rrf_k=rrf_k)
    rng = np.random.default_rng(seed)
    num = len(labelled.rows.names)
    present = labelled.rows.present
    alone = max(np.eye(num), key=lambda w: ndcg(labelled, _combined(values, present, w), k=k))
    starts = [np.ones(num), alone, *rng.choice(LEVELS[1:], size=(restarts, num))]
    best, best_gain = starts[0], -1.0
    for start in starts:
        weights, gain = _ascend(labelled, values, start, k=k, rng=rng)
        if gain > best_gain:
            best, best_gain = weights, gain
    return dict(zip(labelled.rows.names, (best / best.sum()).tolist(), strict=True))


def kept(tables: Tables, fused: pl.DataFrame, targets: pl.DataFrame, *, k: int) -> dict[str, Any]:
    """Counts what the fusion makes of its sources' hits: private ones kept and lost, shared ones.

    A hit is a target among the first k; one in a tie that straddles rank k is a hit with the
    chance that an order of the tie brings, ties of different lists being independent.

    Args:
        tables: recommendations table by source name.
        fused: the fusion's table.
        targets: the users counted, schema `SPLIT`.
        k: cut-off.

    Returns:
        JSON values, expected numbers of users. `sources`: by name {hits, unique, kept, lost}, unique
        hits being those of no other source. `shared`: {hits, kept, lost}, hits of two sources or
        more. `gained`: fused hits that no source has in its own top k. `fused`: all fused hits.

    Raises:
        ValueError: as `candidates` (the fused table too), or k is below 1.
    """
    if k < 1 or not tables:
        raise ValueError(
            f"k is {k} and there are {len(tables)} sources; expected 1 of each or more"
        )
    wanted = targets_of(targets)
    names = sorted(tables)
    hits = np.stack([_hits(tables[name], wanted, name, k) for name in names], axis=1)  # [U, S]
    survived = _hits(fused, wanted, "fused", k)
    missed = 1 - hits
    unique = np.stack(
        [hits[:, s] * np.delete(missed, s, axis=1).prod(axis=1) for s in range(len(names))], axis=1
    )
    nobody = missed.prod(axis=1)
    shared = np.clip(1 - nobody - unique.sum(axis=1), 0, 1)
    return {
        "k": k,
        "users": len(wanted),
        "sources": {
            name: {
                "hits": _sum(hits[:, s]),
                "unique": _sum(unique[:, s]),
                **_split(unique[:, s], survived),
            }
            for s, name in enumerate(names)
        },
        "shared": {"hits": _sum(shared), **_split(shared, survived)},
        "gained": _sum(nobody * survived),
        "fused": _sum(survived),
    }


def check_weights(weights: Weights | None, names: Sequence[str]) -> Floats:
    """Returns weights in the order of `names`; None is 1 for each.

    Raises:
        ValueError: names differ, or weights are negative, not finite or all 0.
    """
    if weights is None:
        return np.ones(len(names))
    if sorted(weights) != sorted(names):
        raise ValueError(f"weights name {sorted(weights)}, but the sources are {sorted(names)}")
    values = np.array([weights[name] for name in names], dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(f"weights are {dict(weights)}; expected 0 or more, and one above 0")
    return values


def _fused(
    tables: Tables, weights: Weights | None, method: Method, *, k: int, rrf_k: float
) -> pl.DataFrame:
    rows = candidates(tables)
    values = contributions(rows, method, rrf_k=rrf_k)
    score = _combined(values, rows.present, check_weights(weights, rows.names))
    return ranked(rows.user, rows.item, score, k=k)


def _combined(values: Floats, present: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Weighted sums [C]; -inf where only sources of weight 0 list the candidate."""
    listed = (present & (weights > 0)).any(axis=1)
    return np.where(listed, values @ (weights / weights.sum()), -np.inf)


def _ascend(
    labelled: WithTargets, values: Floats, start: Floats, *, k: int, rng: np.random.Generator
) -> tuple[Floats, float]:
    present, weights = labelled.rows.present, start.copy()
    gain, before = ndcg(labelled, _combined(values, present, weights), k=k), -1.0
    while gain > before:
        before = gain
        for source in rng.permutation(len(weights)):
            weights[source], gain = _best_level(labelled, values, weights, source, gain=gain, k=k)
    return weights, gain


def _best_level(
    labelled: WithTargets, values: Floats, weights: Floats, source: int, *, gain: float, k: int
) -> tuple[float, float]:
    """The best level of one source's weight and its NDCG; the weight it has unless one gains."""
    present, best = labelled.rows.present, float(weights[source])
    others = np.where(np.arange(len(weights)) == source, 0, weights)
    rest, listed = values @ others, (present & (others > 0)).any(axis=1)
    both = listed | present[:, source]
    for level in LEVELS:
        if level or others.any():
            score = rest + level * values[:, source]
            new = ndcg(labelled, np.where(both if level else listed, score, -np.inf), k=k)
            if new > gain + 1e-12:
                best, gain = level, new
    return best, gain


def _hits(table: pl.DataFrame, wanted: pl.DataFrame, name: str, k: int) -> Floats:
    """The chance that each user's target stands in the top k, float64 [U]."""
    schema.check_lists(table, name, invalid=False)
    size = pl.len().over("user", "rank").cast(pl.Int64)
    rank = pl.col("rank").cast(pl.Int64)
    chance = ((k + 1 - rank).clip(0, size) / size).alias("chance")
    listed = table.select("user", chance, target="item")
    joined = wanted.join(listed, on=["user", "target"], how="left", maintain_order="left")
    return joined["chance"].fill_null(0.0).to_numpy()


def _split(hits: Floats, survived: Floats) -> dict[str, float]:
    """How many of these hits the fusion keeps and loses."""
    return {"kept": _sum(hits * survived), "lost": _sum(hits * (1 - survived))}


def _sum(values: Floats) -> float:
    return round(float(values.sum()), 6) + 0.0  # no -0.0
