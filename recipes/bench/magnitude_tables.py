"""The tables of `recipes.bench.magnitude`: means over seeds, paired differences, sides, norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.ablate.table import holm, spread
from genrec.evaluate import interval, resampled_means

# What is asked, and which of the three kinds of validation queries stands for it.
TASKS = {
    "text, in domain": "text",
    "text, out of domain": "text",
    "history, in domain": "history",
    "history, out of domain": "history",
    "history, cold item": "cold",
}
SYMMETRIC = "symmetric"
METRICS = ("ndcg", "recall")
RULES = ("fisher", "delta_cv", "validation")
SAMPLES = 10_000  # of the bootstrap

Floats = NDArray[np.floating]
Ints = NDArray[Any]


def paired(differences: Floats, unit: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, low, high and two-sided p of each column, by a bootstrap of the queries' units."""
    group = np.unique(unit, return_inverse=True)[1]
    columns: list[Floats] = [np.ones(len(group)), *differences.T]
    sums = np.stack([np.bincount(group, c) for c in columns], axis=1).astype(np.float64)
    drawn = resampled_means(sums, samples=SAMPLES, seed=0)
    means = drawn[:, 1:] / drawn[:, :1]
    low, high = interval(means)
    tails = [(1 + (means * sign <= 0).sum(axis=0)) / (1 + SAMPLES) for sign in (1, -1)]
    return differences.mean(axis=0), low, high, np.minimum(1.0, 2 * np.minimum(*tails))


def table(queries: list[dict[str, Any]], variants: Sequence[str]) -> list[dict[str, Any]]:
    """Per task and variant: metrics over seeds, and differences to cosine over all queries."""
    rows: list[dict[str, Any]] = []
    for task in (*TASKS, SYMMETRIC):
        mine = [row for row in queries if row["task"] == task]
        cosine = [row for row in mine if row["variant"] == "cosine"]
        for variant in ("encoder", *variants):
            runs = [row for row in mine if row["variant"] == variant]
            if not runs:
                continue
            row = {"task": task, "variant": variant, "queries": sum(len(r["unit"]) for r in runs)}
            for at, metric in enumerate(METRICS):
                row[metric] = spread([float(r["gains"][:, at].mean()) for r in runs])
            if "auc" in runs[0]:
                row["auc"] = spread([r["auc"] for r in runs])
            if cosine and variant not in ("cosine", "encoder"):
                row |= _against(runs, cosine)
            rows.append(row)
    for metric in METRICS:
        corrected = holm([row.get(f"{metric} p") for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            if p is not None:
                row[f"{metric} holm"] = p
    return rows


def _against(runs: list[dict[str, Any]], cosine: list[dict[str, Any]]) -> dict[str, Any]:
    each = [r["gains"] - c["gains"] for r, c in zip(runs, cosine, strict=True)]
    unit = np.concatenate([r["unit"] for r in runs])
    base = np.concatenate([c["gains"] for c in cosine]).mean(axis=0)
    found = zip(*paired(np.concatenate(each), unit), strict=True)
    row: dict[str, Any] = {}
    for at, (metric, (mean, low, high, p)) in enumerate(zip(METRICS, found, strict=True)):
        row |= {f"{metric} difference": [float(mean), float(low), float(high)]}
        row |= {f"{metric} relative": float(mean / base[at]), f"{metric} p": float(p)}
        row[f"{metric} sd"] = spread([float(d[:, at].mean()) for d in each])[1]
    return row


def show(tables: Mapping[str, Any]) -> None:
    sides = sorted(tables["sides"], key=lambda row: [*TASKS].index(row["task"]))
    shown = {
        "NDCG@10 and recall@10, mean and standard deviation over seeds; difference to cosine over all "
        "queries with its 95 % interval, relative to cosine, p by Holm over a metric's column": [
            _cells(row) for row in tables["metrics"]
        ],
        "norms of item vectors before normalisation; d: Cohen's, right items against the others": [
            _norm_cells(tables["norms"], *key)
            for key in dict.fromkeys((r["task"], r["variant"]) for r in tables["norms"])
        ],
        "which side to normalise, * where it is clear; test: NDCG@10 of qnorm less dnorm": [
            _side_cells(row) for row in sides
        ],
        "how often a rule is right": [_tally(name, sides) for name in RULES if sides],
    }
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=250,
        fmt_str_lengths=80,
    ):
        for title, rows in shown.items():
            print(f"\n{title}\n{pl.DataFrame(rows)}")


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {"task": row["task"], "variant": row["variant"], "queries": str(row["queries"])}
    for metric in METRICS:
        cells[metric] = _spread(row[metric])
        mean, low, high = row.get(f"{metric} difference", [np.nan] * 3)
        known = not np.isnan(mean)
        cells[f"{metric} - cosine"] = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" if known else ""
        cells[f"{metric} %"] = f"{100 * row[f'{metric} relative']:+.1f}" if known else ""
        cells[f"{metric} p"] = f"{row[f'{metric} holm']:.4f}" if known else ""
    return cells | {"auc": _spread(row["auc"]) if "auc" in row else ""}


def _norm_cells(norms: list[dict[str, Any]], task: str, variant: str) -> dict[str, str]:
    runs = [row for row in norms if (row["task"], row["variant"]) == (task, variant)]
    named = {"cohens_d": "d", "cv": "CV", "popularity": "rho with popularity"}
    named |= {"gamma_query": "gamma query", "gamma_document": "gamma document"}
    cells = {new: _spread(spread([row[old] for row in runs]), 3) for old, new in named.items()}
    return {"task": task, "variant": variant} | cells


def _side_cells(row: Mapping[str, Any]) -> dict[str, str]:
    rules, star = row["rules"], {True: "*", False: ""}
    cells = {name: rules[name]["choice"] + star[rules[name]["clear"]] for name in RULES}
    fisher = [rules["fisher"][f"{side} both"] for side in ("qnorm", "dnorm")]
    cells |= {"kappas": "{:.3g}, {:.3g}".format(*fisher)}
    cells |= {"cv ratio": f"{rules['delta_cv']['ratio']:.2f}"}
    mean, low, high = (row[key] for key in ("difference", "low", "high"))
    cells |= {"test": row["better"] + star[row["clear"]]}
    cells |= {"difference": f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"}
    return {"task": row["task"], "seed": str(row["seed"])} | cells


def _tally(name: str, sides: list[dict[str, Any]]) -> dict[str, str]:
    right = [row["rules"][name]["choice"] == row["better"] for row in sides]
    sure = [good for good, row in zip(right, sides, strict=True) if row["clear"]]
    counts = {
        "of all": f"{sum(right)} of {len(right)}",
        "of the clear": f"{sum(sure)} of {len(sure)}",
    }
    return {"rule": name, **counts}


def _spread(values: Sequence[float | None], digits: int = 4) -> str:
    mean, deviation = values
    return f"{mean:.{digits}f}" + ("" if deviation is None else f"±{deviation:.{digits}f}")
