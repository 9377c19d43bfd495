"""Metrics of recommendations tables: full catalogue, one target per user, with intervals.

Rows of one user that share a rank are a tie, and every order within a tie is equally likely: a
metric is its expectation over these orders, so a SID shared by several items is scored as one. A user
without any row counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.evaluate.bootstrap import LEVEL, Floats, interval, resampled_means
from genrec.progress import Progress, silent

METRICS = ("recall", "ndcg", "mrr", "invalid_rate")  # means over users; coverage is not
SeenItems = Literal["masked", "kept"]

_DECIMALS = 6  # far below any interval's width, and metrics.json stays readable


def evaluate(
    systems: Mapping[str, pl.DataFrame],
    targets: pl.DataFrame,
    *,
    split: str,
    num_items: int,
    ks: Sequence[int] = (5, 10, 20),
    baselines: Sequence[str] = ("popular", "cooccurrence"),
    seen_items: SeenItems = "masked",
    samples: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measures every system on the same users and compares each with each baseline.

    Args:
        systems: recommendations table by system name; rows of users outside `targets` are ignored.
        targets: the users to evaluate, schema `SPLIT`.
        split: "valid" or "test", written into every row.
        num_items: N, the size of the catalogue.
        ks: cut-offs.
        baselines: systems that every other one is compared with.
        seen_items: "masked" if no list holds an item of its user's history (checked), else "kept".
        samples: bootstrap resamples.
        seed: of the bootstrap.
        progress: told how many systems and resamples are done.

    Returns:
        JSON values. `rows`: {system, split, metric, k, value, low, high, users}; low and high are
        the 95 % bootstrap interval over users, null for coverage, which is no mean over users.
        `differences`: {system, baseline, split, metric, k, value, low, high, users}, the mean
        paired difference system - baseline. Also `split`, `users`, `items`, `seen_items`,
        `targets_in_history` (users whose target masking would hide) and `interval`.

    Raises:
        ValueError: a baseline is missing, a table is malformed (see `per_user`), a list holds a seen
            item although `seen_items` is "masked", or samples is below 1.
    """
    _check_systems(systems, baselines)
    values: dict[str, Floats] = {}
    covered: dict[str, dict[int, float]] = {}
    for done, (name, table) in enumerate(systems.items(), start=1):
        if seen_items == "masked":
            _check_masked(table, targets, name)
        metrics = per_user(table, targets, ks=ks, num_items=num_items, where=name)
        values[name] = metrics.drop("user").to_numpy()
        covered[name] = coverage(table, targets, ks=ks, num_items=num_items)
        progress("evaluate systems", done, len(systems))

    drawn = _drawn(values, samples=samples, seed=seed, progress=progress)
    columns = [(metric, k) for metric in METRICS for k in ks]
    rows, differences = [], []
    for name in systems:
        head = {"system": name, "split": split, "users": len(targets)}
        rows += _rows(head, columns, values[name].mean(axis=0), drawn[name])
        rows += [_row(head, "coverage", k, share) for k, share in covered[name].items()]
        for baseline in (b for b in baselines if b != name):
            gain = (values[name] - values[baseline]).mean(axis=0)
            pair = head | {"baseline": baseline}
            differences += _rows(pair, columns, gain, drawn[name] - drawn[baseline])
    return {
        "rows": rows,
        "differences": differences,
        "split": split,
        "users": len(targets),
        "items": num_items,
        "seen_items": seen_items,
        "targets_in_history": _targets_in_history(targets),
        "interval": {
            "method": "percentile bootstrap over users",
            "level": LEVEL,
            "samples": samples,
            "seed": seed,
        },
    }


def per_user(
    table: pl.DataFrame,
    targets: pl.DataFrame,
    *,
    num_items: int,
    ks: Sequence[int] = (5, 10, 20),
    where: str = "recommendations",
) -> pl.DataFrame:
    """Returns every metric of every user, for strata and tests of one's own.

    With the target in a tie of m items on places r..r+m-1, recall@k is the share of these places up
    to k; ndcg@k and mrr@k are the mean over them of 1/log2(place + 1) and 1/place, 0 beyond k.
    invalid_rate@k is the share of the k places that hold no item of the catalogue.

    Args:
        table: schema `RECOMMENDATIONS`; ranks are competition ranks (1, 2, 2, 4).
        targets: schema `SPLIT`; one row per user.
        num_items: N; an item outside 0..N-1 fills its place but is invalid.
        ks: cut-offs.
        where: names the table in errors.

    Returns:
        `user` and float64 columns "recall@5", ...; one row per row of `targets`, in its order.

    Raises:
        ValueError: a user has two targets or an item twice, there are no targets, a score is not
            finite (-inf is allowed where the item is negative), ranks are no competition ranks,
            num_items is below 1, or a target is no item of the catalogue.
    """
    _check_ks(ks)
    places = _places(table, targets, where, num_items)
    hit = targets.select("user", item="target").join(
        places, on=["user", "item"], how="left", maintain_order="left"
    )
    first = hit["rank"].fill_null(max(ks) + 1).to_numpy()  # no hit: a place beyond every cut-off
    size = hit["size"].fill_null(1).to_numpy()
    columns = {f"recall@{k}": _in_top(first, size, k) / size for k in ks}
    place = np.arange(1, max(ks) + 1)
    for metric, gain in (("ndcg", 1 / np.log2(place + 1)), ("mrr", 1 / place)):
        total = np.concatenate([[0.0], np.cumsum(gain)])  # of the places up to each
        for k in ks:
            before = np.minimum(first - 1, k)
            gained = total[before + _in_top(first, size, k)] - total[before]
            columns[f"{metric}@{k}"] = gained / size
    valid = pl.col("item").is_between(0, num_items - 1)
    filled = targets.select("user").join(
        places.group_by("user").agg(_share(k).filter(valid).sum().alias(str(k)) for k in ks),
        on="user",
        how="left",
        maintain_order="left",
    )
    columns |= {f"invalid_rate@{k}": 1 - filled[str(k)].fill_null(0.0).to_numpy() / k for k in ks}
    return pl.DataFrame({"user": targets["user"], **columns})


def coverage(
    table: pl.DataFrame, targets: pl.DataFrame, *, num_items: int, ks: Sequence[int] = (5, 10, 20)
) -> dict[int, float]:
    """Returns for each k the share of the catalogue that stands in the top k of any evaluated user.

    An item of a tie that straddles the cut-off counts with its chance of standing in some top k.

    Raises:
        ValueError: as `per_user`.
    """
    _check_ks(ks)
    places = _places(table, targets, "recommendations", num_items)
    valid = places.filter(pl.col("item").is_between(0, num_items - 1))
    absent = valid.group_by("item", maintain_order=True).agg(
        (1 - _share(k)).product().alias(str(k)) for k in ks
    )
    return {k: float((1 - absent[str(k)]).sum()) / num_items for k in ks}


def _places(table: pl.DataFrame, targets: pl.DataFrame, where: str, num_items: int) -> pl.DataFrame:
    """Returns user, item, rank (the first place of its tie), size (of its tie)."""
    if num_items < 1:
        raise ValueError(
            f"num_items is {num_items}; expected the number of items in the catalogue, 1 or more"
        )
    schema.check_lists(table, where)
    schema.check(targets, schema.SPLIT, "targets")
    if targets.is_empty():
        raise ValueError("targets: no users to evaluate")
    if targets["user"].is_duplicated().any():
        raise ValueError("targets: a user stands twice; expected one target per user")
    outside = targets.filter(~pl.col("target").is_between(0, num_items - 1).fill_null(False))
    if len(outside):
        user, target = outside.select("user", "target").row(0)
        raise ValueError(
            f"targets: user {user} has the target {target}; expected an item from 0 to {num_items - 1}, "
            f"for num_items is {num_items} ({len(outside):,} such users)"
        )
    places = table.join(targets.select("user"), on="user", how="semi").select(
        "user",
        "item",
        pl.col("rank").cast(pl.Int64),
        size=pl.len().over("user", "rank").cast(pl.Int64),
        expected=pl.col("rank").rank("min").over("user").cast(pl.Int64),
    )
    wrong = places.filter((pl.col("rank") != pl.col("expected")).fill_null(True))
    if len(wrong):
        user, item, rank, _, expected = wrong.row(0)
        raise ValueError(
            f"{where}: user {user}, item {item} has rank {rank}, expected {expected}: ranks start "
            "at 1, and a tie shares the rank of its first place (1, 2, 2, 4)"
        )
    return places.drop("expected")


def _in_top(
    first: npt.NDArray[np.int64], size: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.int64]:
    """How many of the places first..first+size-1 are up to k."""
    return np.clip(k - first + 1, 0, size)


def _share(k: int) -> pl.Expr:
    """The chance that a row of `_places` stands in the top k."""
    return (k + 1 - pl.col("rank")).clip(0, pl.col("size")) / pl.col("size")


def _drawn(
    values: Mapping[str, Floats], *, samples: int, seed: int, progress: Progress
) -> dict[str, Floats]:
    """Each system's resampled means; one draw of users serves all, so differences are paired."""
    whole = np.concatenate(list(values.values()), axis=1)  # [U, systems x columns]
    means = resampled_means(whole, samples=samples, seed=seed, progress=progress)
    return dict(zip(values, np.split(means, len(values), axis=1), strict=True))


def _check_systems(systems: Mapping[str, pl.DataFrame], baselines: Sequence[str]) -> None:
    if not systems:
        raise ValueError("systems: nothing to evaluate; expected one recommendations table or more")
    missing = [name for name in baselines if name not in systems]
    if missing:
        raise ValueError(
            f"baselines {missing} are not among the systems {list(systems)}; run these retrievers "
            "too (recipe section `retrieve`), or take them out of `baselines`"
        )


def _check_ks(ks: Sequence[int]) -> None:
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"ks is {tuple(ks)}; expected different cut-offs of 1 or more")


def _check_masked(table: pl.DataFrame, targets: pl.DataFrame, where: str) -> None:
    seen = targets.select("user", item="history").explode("item").drop_nulls()
    wrong = table.join(seen, on=["user", "item"], how="semi")
    if len(wrong):
        user, item = wrong.select("user", "item").row(0)
        raise ValueError(
            f"{where}: {len(wrong)} recommended items stand in their user's own history (user "
            f"{user}, item {item}), but seen items are said to be masked; mask them in every "
            'system, or say seen_items="kept"'
        )


def _targets_in_history(targets: pl.DataFrame) -> int:
    return int(targets.select(pl.col("history").list.contains(pl.col("target"))).sum().item())


def _rows(
    head: Mapping[str, object],
    columns: Iterable[tuple[str, int]],
    values: Floats,
    means: Floats,
) -> list[dict[str, Any]]:
    lows, highs = interval(means)
    return [
        _row(head, metric, k, value, low, high)
        for (metric, k), value, low, high in zip(columns, values, lows, highs, strict=True)
    ]


def _row(
    head: Mapping[str, object],
    metric: str,
    k: int,
    value: float,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    names = {key: head[key] for key in ("system", "baseline", "split") if key in head}
    measured = {"value": rounded(value), "low": rounded(low), "high": rounded(high)}
    return {**names, "metric": metric, "k": k, **measured, "users": head["users"]}


def rounded(value: float | None) -> float | None:
    """Returns a number as reports keep it."""
    return None if value is None else round(float(value), _DECIMALS) + 0.0  # no -0.0
