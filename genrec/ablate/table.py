"""Finished runs to one row per variant: mean and deviation over seeds, paired tests of users and seeds.

`collect` reads the runs, `compare` makes the table, `long_table` lists every number of every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.evaluate import group_targets, interval, per_user, resampled_means
from genrec.evaluate.metrics import rounded
from genrec.pipeline import Pipeline
from genrec.runs import Run
from genrec.sid.sets import in_set
from genrec.stages import system_of

Floats = npt.NDArray[np.float64]
Key = tuple[str | None, str]  # group (None: all users) and metric

METRICS = ("recall", "ndcg")
COLLISIONS = "collision_rate"
_BASELINE = "baseline: "  # no variant's name has a colon
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
        collision_rate: of the SIDs before resolution, of several sets the first; None where there are
            none.
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
        collision_rate=_collision_rates(pipeline)[0] if "quantize" in made else None,
        k=k,
        systems=_systems(pipeline, k, system) if "evaluate" in made else {},
    )


def _collision_rates(pipeline: Pipeline) -> list[float]:
    """Returns the rate of each set of SIDs."""
    stats = pipeline["quantize"].load("stats.json")
    rates = [own["collision_rate"] for own in stats.get("sets", [stats])]
    return [float(rate["before"] if isinstance(rate, Mapping) else rate) for rate in rates]


def _systems(pipeline: Pipeline, k: int, system: str) -> dict[str, dict[Key, Floats]]:
    prepared = pipeline["prepare"]
    targets, items = prepared.load("test.parquet"), len(prepared.load("items.parquet"))
    parts: dict[str | None, pl.DataFrame] = {None: targets}
    if "groups.parquet" in prepared.files():
        parts.update(group_targets(targets, prepared.load("groups.parquet")))
    values: dict[str, dict[Key, Floats]] = {}
    names = {key: name for key in pipeline.nodes if (name := system_of(key))}
    if system not in names.values():
        raise ValueError(
            f"system: '{system}' is none of the recipe's systems {sorted(names.values())}; set it in "
            "the grid"
        )
    wanted = {system, *pipeline.recipe.baselines}
    for key, name in names.items():
        if name not in wanted:
            continue
        users = per_user(pipeline[key].load(), targets, ks=(k,), num_items=items, where=key)
        values[name] = {
            (group, metric): _of(users, part, f"{metric}@{k}")
            for group, part in parts.items()
            for metric in METRICS
        }
    return values


def _of(users: pl.DataFrame, part: pl.DataFrame, column: str) -> Floats:
    chosen = users.join(part.select("user"), on="user", how="semi", maintain_order="left")
    return chosen[column].to_numpy()


def compare(
    measured: Sequence[Measured],
    *,
    variants: Mapping[str, str],
    reference: str,
    seeds: int,
    system: str = "generative",
    errors: Sequence[tuple[str, int, str]] = (),
    samples: int = 1000,
) -> dict[str, Any]:
    """Compares variants with the reference, seed by seed and user by user.

    Args:
        measured: the finished runs.
        variants: note by name, in the order of the table.
        reference: the variant that the others are compared with.
        seeds: how many seeds every variant was to have.
        system: whose lists are compared.
        errors: variant, seed and reason of the runs that failed.
        samples: bootstrap resamples.

    Returns:
        JSON values: `reference`, `seeds`, `samples`, `k`, `groups` and `rows`, one per variant and
        baseline: {variant, baseline (bool), note, seeds (those that finished), errors: [{seed,
        error}], metrics}. A metric is {group, metric, k, users, mean, sd, difference}, with group
        None for all users; a difference is {value, low, high, p, p_holm, seeds}: this row minus the
        reference, over the seeds that both have. low and high bootstrap users, p is a t-test over
        seeds; each is None where it cannot be had.
    """
    runs: dict[str, dict[int, Measured]] = {name: {} for name in variants}
    for run in measured:
        runs[run.variant][run.seed] = run
    keys = list(dict.fromkeys(key for run in measured for key in run.systems.get(system, {})))
    rows = {name: _row(name, note) for name, note in variants.items()}
    for name, row in rows.items():
        row["seeds"] = sorted(runs[name])
        row["errors"] = [{"seed": s, "error": text} for v, s, text in errors if v == name]
    first = next(iter([*runs[reference].values(), *measured]), None)  # baselines have no seed
    baselines = dict(first.systems) if first else {}
    baselines.pop(system, None)
    rows |= {_BASELINE + name: _row(name, "", baseline=True) for name in baselines}
    k = first.k if first else 10
    for key in keys:
        cells = _compared(key, runs, baselines, reference, system, samples)
        for name, cell in cells.items():
            rows[name]["metrics"].append({"group": key[0], "metric": key[1], "k": k} | cell)
    for name, cell in _collisions(runs, reference).items():
        head = {"group": None, "metric": COLLISIONS, "k": None, "users": None}
        rows[name]["metrics"].append(head | cell)
    return {
        "reference": reference,
        "seeds": seeds,
        "samples": samples,
        "k": k,
        "groups": sorted({group for group, _ in keys if group is not None}),
        "rows": list(rows.values()),
    }


def _compared(
    key: Key,
    runs: Mapping[str, Mapping[int, Measured]],
    baselines: Mapping[str, Mapping[Key, Floats]],
    reference: str,
    system: str,
    samples: int,
) -> dict[str, dict[str, Any]]:
    """One metric of one group: a cell per row, by the row's name."""
    cells: dict[str, dict[str, Any]] = {}
    paired: dict[str, Floats] = {}  # [U], averaged over seeds
    p_values: dict[str, float | None] = {}
    theirs = {s: r.systems[system][key] for s, r in runs[reference].items() if _has(r, system, key)}
    for name, by_seed in runs.items():
        ours = {s: r.systems[system][key] for s, r in by_seed.items() if _has(r, system, key)}
        if not ours:
            continue
        means = {seed: float(values.mean()) for seed, values in ours.items()}
        cells[name] = _cell(list(means.values())) | {"users": len(next(iter(ours.values())))}
        both = [s for s in ours if s in theirs and _same_users(by_seed[s], runs[reference][s])]
        if name == reference or not both:
            continue
        paired[name] = np.mean([ours[s] - theirs[s] for s in both], axis=0)
        p_values[name] = over_seeds([means[s] for s in both], [theirs[s].mean() for s in both])
        cells[name]["difference"] = {"seeds": len(both)}
    for name, values in baselines.items():
        if key not in values:
            continue
        row = _BASELINE + name
        cells[row] = _cell([float(values[key].mean())]) | {"users": len(values[key])}
        if theirs:
            paired[row] = values[key] - np.mean(list(theirs.values()), axis=0)
            cells[row]["difference"] = {"seeds": len(theirs)}
    if paired:
        ends = over_users(np.stack(list(paired.values()), axis=1), samples=samples)
        corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
        for name, value, low, high in zip(paired, *ends, strict=True):
            cells[name]["difference"] |= _difference(
                value, low, high, p_values.get(name), corrected.get(name)
            )
    return cells


def _collisions(
    runs: Mapping[str, Mapping[int, Measured]], reference: str
) -> dict[str, dict[str, Any]]:
    """The collision rates: cells as above, without intervals, for items are no sample."""
    rates = {
        name: {s: r.collision_rate for s, r in by_seed.items() if r.collision_rate is not None}
        for name, by_seed in runs.items()
    }
    cells = {name: _cell(list(by_seed.values())) for name, by_seed in rates.items() if by_seed}
    theirs, p_values = rates[reference], dict[str, float | None]()
    for name in cells:
        both = [seed for seed in rates[name] if seed in theirs]
        if name != reference and both:
            pair = [rates[name][s] for s in both], [theirs[s] for s in both]
            p_values[name] = over_seeds(*pair)
            gain = float(np.mean(np.subtract(*pair)))
            cells[name]["difference"] = {"seeds": len(both)} | _difference(gain)
    for (name, p), corrected in zip(p_values.items(), holm(list(p_values.values())), strict=True):
        cells[name]["difference"] |= {"p": rounded(p), "p_holm": rounded(corrected)}
    return cells


def _row(name: str, note: str, *, baseline: bool = False) -> dict[str, Any]:
    names = {"variant": name, "baseline": baseline, "note": note}
    return names | {"seeds": [], "errors": [], "metrics": []}


def _same_users(run: Measured, other: Measured) -> bool:
    return run.prepared == other.prepared


def _has(run: Measured, system: str, key: Key) -> bool:
    return key in run.systems.get(system, {})


def _cell(values: Sequence[float]) -> dict[str, Any]:
    mean, deviation = spread(values)
    return {"mean": rounded(mean), "sd": rounded(deviation), "difference": None}


def _difference(
    value: float,
    low: float | None = None,
    high: float | None = None,
    p: float | None = None,
    p_holm: float | None = None,
) -> dict[str, float | None]:
    difference = {"value": value, "low": low, "high": high, "p": p, "p_holm": p_holm}
    return {name: rounded(number) for name, number in difference.items()}


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation; None for the deviation of one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), deviation


def over_users(
    differences: Floats, *, samples: int, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Bootstraps users: mean of every column with its 95 % interval, one set of resamples for all.

    Args:
        differences: float64 [U, C], per user: a paired difference per column, averaged over seeds.
        samples: resamples.
        seed: same seed, same resamples.

    Returns:
        Mean, low and high, float64 [C] each.
    """
    low, high = interval(resampled_means(differences, samples=samples, seed=seed))
    return differences.mean(axis=0), low, high


def over_seeds(values: Sequence[float], reference: Sequence[float]) -> float | None:
    """Returns the two-sided p-value of a paired t-test over seeds.

    None where there is no test: fewer than two seeds, or differences that do not vary.

    Args:
        values: one value per seed.
        reference: the reference's values, of the same seeds in the same order.
    """
    differences = np.subtract(values, reference)
    if len(differences) < 2 or np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):
        return None
    from scipy import stats

    return float(stats.ttest_rel(values, reference).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number (Holm 1979); None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected


def long_table(runs: Sequence[Run]) -> pl.DataFrame:
    """Returns every number of every finished run: variant, seed, system, split, group, metric ...

    `group` is null for all users. The collision rate before resolution is there too, as system
    "sids", with null for what it does not have; that of a second set of SIDs is `collision_rate@2`.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        head = {"variant": run.variant, "seed": run.seed}
        made = run.made
        if "quantize" in made:
            rows += [
                head | {"system": "sids", "metric": in_set(COLLISIONS, number), "value": rate}
                for number, rate in enumerate(_collision_rates(run.pipeline))
            ]
        if "evaluate" in made:
            metrics = run.pipeline["evaluate"].load()
            rows += [head | row for part in ("rows", "groups") for row in metrics[part]]
    return pl.DataFrame(
        [[row.get(column) for column in LONG] for row in rows], schema=LONG, orient="row"
    )
