"""What finished runs hold: each user's metrics for paired comparisons, and one long table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.ablate.runs import Run
from genrec.evaluate import group_targets, per_user
from genrec.pipeline import Pipeline
from genrec.stages import system_of

Floats = npt.NDArray[np.float64]
Key = tuple[str | None, str]  # group (None: all users) and metric

METRICS = ("recall", "ndcg")
LONG = {
    "variant": pl.String,
    "seed": pl.Int64,
    "system": pl.String,
    "split": pl.String,
    "group": pl.String,
    "metric": pl.String,
    "k": pl.Int64,
    "value": pl.Float64,
    "users": pl.Int64,
}


@dataclass(frozen=True)
class Measured:
    """One finished run.

    Attributes:
        variant, seed: which run.
        prepared: fingerprint of the data; runs with the same one have the same users.
        collision_rate: of the SIDs before resolution; None where there are none.
        k: the cut-off of the metrics.
        systems: per system and key, every user's value in the order of the test table, float64 [U]:
            the one that is compared, and the recipe's baselines.
    """

    variant: str
    seed: int
    prepared: str
    collision_rate: float | None
    k: int
    systems: Mapping[str, Mapping[Key, Floats]]


def collect(runs: Sequence[Run], *, system: str) -> list[Measured]:
    """Reads finished runs; the cut-off is 10, or the largest that all of them measured.

    Args:
        runs: finished ones.
        system: the one that is compared.

    Raises:
        ValueError: they have no cut-off in common.
        DamagedArtifact: a file is not what was written.
    """
    cuts = [set(run.pipeline.recipe.evaluate.ks) for run in runs]
    common = set.intersection(*cuts) if cuts else {10}
    if not common:
        raise ValueError("evaluate.ks: the variants have no cut-off in common; give them one")
    k = 10 if 10 in common else max(common)
    return [_read(run, k, system) for run in runs]


def _read(run: Run, k: int, system: str) -> Measured:
    pipeline, made = run.pipeline, run.made
    return Measured(
        run.variant,
        run.seed,
        prepared=made["prepare"][1] if "prepare" in made else "",
        collision_rate=_collision_rate(pipeline) if "quantize" in made else None,
        k=k,
        systems=_systems(pipeline, k, system) if "evaluate" in made else {},
    )


def _collision_rate(pipeline: Pipeline) -> float:
    rate = pipeline["quantize"].load("stats.json")["collision_rate"]
    return float(rate["before"] if isinstance(rate, Mapping) else rate)


def _systems(pipeline: Pipeline, k: int, system: str) -> dict[str, dict[Key, Floats]]:
    prepared = pipeline["prepare"]
    targets, items = prepared.load("test.parquet"), len(prepared.load("items.parquet"))
    parts: dict[str | None, pl.DataFrame] = {None: targets}
    if "groups.parquet" in prepared.files():
        parts.update(group_targets(targets, prepared.load("groups.parquet")))
    found: dict[str, dict[Key, Floats]] = {}
    names = {key: name for key in pipeline.nodes if (name := system_of(key))}
    if system not in names.values():
        raise ValueError(
            f"system: '{system}' is none of the recipe's systems {sorted(names.values())}; set it in "
            "the grid"
        )
    wanted = {system, *pipeline.recipe.evaluate.baselines}
    for key, name in names.items():
        if name not in wanted:
            continue
        users = per_user(pipeline[key].load(), targets, ks=(k,), num_items=items, where=key)
        found[name] = {
            (group, metric): _of(users, part, f"{metric}@{k}")
            for group, part in parts.items()
            for metric in METRICS
        }
    return found


def _of(users: pl.DataFrame, part: pl.DataFrame, column: str) -> Floats:
    chosen = users.join(part.select("user"), on="user", how="semi", maintain_order="left")
    return chosen[column].to_numpy()


def long_table(runs: Sequence[Run]) -> pl.DataFrame:
    """Returns every number of every finished run: variant, seed, system, split, group, metric ...

    `group` is null for all users. The collision rate before resolution stands there too, as system
    "sids", with null for what it does not have.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        head = {"variant": run.variant, "seed": run.seed}
        made = run.made
        if "quantize" in made:
            rate = _collision_rate(run.pipeline)
            rows.append(head | {"system": "sids", "metric": "collision_rate", "value": rate})
        if "evaluate" in made:
            metrics = run.pipeline["evaluate"].load()
            rows += [head | row for part in ("rows", "groups") for row in metrics[part]]
    return pl.DataFrame(
        [[row.get(column) for column in LONG] for row in rows], schema=LONG, orient="row"
    )
