"""Finished runs to one row per variant: mean and deviation over seeds, and tests against one variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genrec.ablate.results import Floats, Key, Measured
from genrec.ablate.statistics import holm, over_seeds, over_users, spread

COLLISIONS = "collision_rate"
_DECIMALS = 6
_BASELINE = "baseline: "  # no variant's name has a colon


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
    for one in measured:
        runs[one.variant][one.seed] = one
    keys = list(dict.fromkeys(key for one in measured for key in one.systems.get(system, {})))
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
        found = _compared(key, runs, baselines, reference, system, samples)
        for name, cell in found.items():
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
    cells = {name: _cell(list(found.values())) for name, found in rates.items() if found}
    theirs, p_values = rates[reference], dict[str, float | None]()
    for name in cells:
        both = [seed for seed in rates[name] if seed in theirs]
        if name != reference and both:
            pair = [rates[name][s] for s in both], [theirs[s] for s in both]
            p_values[name] = over_seeds(*pair)
            gain = float(np.mean(np.subtract(*pair)))
            cells[name]["difference"] = {"seeds": len(both)} | _difference(gain)
    for (name, p), corrected in zip(p_values.items(), holm(list(p_values.values())), strict=True):
        cells[name]["difference"] |= {"p": _rounded(p), "p_holm": _rounded(corrected)}
    return cells


def _row(name: str, note: str, *, baseline: bool = False) -> dict[str, Any]:
    names = {"variant": name, "baseline": baseline, "note": note}
    return names | {"seeds": [], "errors": [], "metrics": []}


def _same_users(one: Measured, other: Measured) -> bool:
    return one.prepared == other.prepared


def _has(run: Measured, system: str, key: Key) -> bool:
    return key in run.systems.get(system, {})


def _cell(values: Sequence[float]) -> dict[str, Any]:
    mean, deviation = spread(values)
    return {"mean": _rounded(mean), "sd": _rounded(deviation), "difference": None}


def _difference(
    value: float,
    low: float | None = None,
    high: float | None = None,
    p: float | None = None,
    p_holm: float | None = None,
) -> dict[str, float | None]:
    found = {"value": value, "low": low, "high": high, "p": p, "p_holm": p_holm}
    return {name: _rounded(number) for name, number in found.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS) + 0.0  # no -0.0
