"""The data card: what is in a prepared dataset, in numbers (`stats.json`) and one image.

Long tails decide which recommenders work, so the popularity curve is drawn, not only summarised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.data.protocols import Parts, RandomOut
from genrec.data.source import Times
from genrec.data.timestamps import iso

POPULARITY_FILE = "popularity.png"
NO_TIMES = "no times"
_MANY = 0.2  # share of test targets unseen in training
_SORTED = 0.9  # share of users; of three items in random order, one user in three has them sorted
_ENOUGH = 20  # users; of fewer, no share says much


def describe(
    items: pl.DataFrame,
    users: pl.DataFrame,
    parts: Parts,
    *,
    kind: str,
    times: Times,
    dropped: Mapping[str, int],
) -> dict[str, object]:
    """Returns the data card's numbers, ready for JSON.

    Args:
        items: schema `ITEMS`.
        users: schema `USERS`.
        parts: the split.
        kind: of split.
        times: what timestamps are.
        dropped: rows left out, by reason.

    Returns:
        Counts; shares in [0, 1] (`repeats`: interactions with an item that the user had before;
        `*_targets_unseen_in_train`, `*_targets_in_history`, `image_share`); `popularity`: Gini
        coefficient over all items, the share of interactions that the most popular 1, 10 and 20 % of
        items have, items with one interaction; `title_characters` and `description_characters` (of
        those that are not empty); `time`: first and last as ISO dates (UTC), or as they are where they
        have no unit, and how many neighbours within a user have equal times (they keep the order of the
        source), or "no times"; `split`; `users_in`: rows of each part.
    """
    log = parts.interactions
    lengths = log.group_by("user").len()["len"].to_numpy()
    first = log.select(pl.struct("user", "item").is_first_distinct()).to_series()
    tables = {"valid": parts.valid, "test": parts.test}
    trained = parts.trained
    return {
        "items": len(items),
        "users": len(users),
        "interactions": len(log),
        "density": len(log) / (len(items) * len(users)),
        "length_mean": len(log) / len(users),
        "length_median": float(np.median(lengths)),
        "length_max": int(lengths.max()),
        "repeats": 1 - _share(first),
        "items_with_image": int(items["image"].count()),
        "image_share": int(items["image"].count()) / len(items),
        "items_without_description": int((items["description"] == "").sum()),
        "items_unseen_in_train": len(items) - len(trained),
        **{
            f"{name}_targets_unseen_in_train": 1.0
            - _share(table["target"].is_in(trained.implode()))
            for name, table in tables.items()
        },
        **{
            f"{name}_targets_in_history": _share(
                table.select(pl.col("history").list.contains(pl.col("target"))).to_series()
            )
            for name, table in tables.items()
        },
        "popularity": _popularity(_counts(log, len(items))),
        "title_characters": _lengths(items["title"]),
        "description_characters": _lengths(items["description"]),
        "time": NO_TIMES if times == "none" else _time(log, times),
        "split": {"kind": kind, **_dated(parts.facts, times)},
        "users_in": {"train": len(parts.train), **{name: len(t) for name, t in tables.items()}},
        "dropped": dict(sorted(dropped.items())),
    }


def out_of_order(parts: Parts, kind: str) -> list[str]:
    """Returns warnings where the order of rows cannot be an order of time; empty where it may be one.

    Two signs: many test targets that nobody has in training, while a random hold-out leaves few; and
    the items of almost every user in the order of the catalogue.

    Args:
        parts: the split.
        kind: of split; a random one does not use the order.
    """
    log = parts.interactions
    if kind == "random" or len(parts.test) < _ENOUGH:
        return []
    signs = []
    if kind == "last_out" and (unseen := _unseen(parts)) >= _MANY:
        drawn = _unseen(RandomOut().split(log.drop("split")))
        if unseen > 2 * drawn:
            signs.append(
                f"{unseen:.0%} of the test targets are items that nobody has in training ({drawn:.0%} "
                "in a random hold-out)"
            )
    step = pl.col("item").diff()
    users = log.filter(pl.len().over("user") >= 3).group_by("user")
    ways = users.agg(up=(step >= 0).all(), down=(step <= 0).all()).select("up", "down")
    if len(ways) >= _ENOUGH and (share := max(ways.mean().row(0))) >= _SORTED:
        signs.append(f"{share:.0%} of the users have their items in the order of the catalogue")
    if not signs:
        return []
    return [
        f"the order of rows is not an order of time: {', and '.join(signs)}. Name the column of "
        "times, or set prepare.split.kind=random, which holds out at random"
    ]


def _unseen(parts: Parts) -> float:
    """Returns the share of test targets that are in no training sequence."""
    return 1 - float(parts.test["target"].is_in(parts.trained.implode()).mean())  # type: ignore[arg-type]


def plot_popularity(log: pl.DataFrame, num_items: int, path: str | Path) -> None:
    """Draws how interactions spread over items: by rank, and as a Lorenz curve.

    Args:
        log: schema `INTERACTIONS`.
        num_items: N; items without an interaction count too.
        path: the PNG to write; the same numbers are the same bytes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    ranks, lorenz = figure.subplots(1, 2)
    trained = log.filter(pl.col("split") == "train")
    for table, label, colour in ((log, "all", "#1f6fb4"), (trained, "training", "#e08a1e")):
        counts = np.sort(_counts(table, num_items))[::-1]
        seen = counts[counts > 0]
        ranks.loglog(np.arange(1, len(seen) + 1), seen, label=label, color=colour)
        share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
        lorenz.plot(np.linspace(0, 100, num_items + 1), 100 * share, label=label, color=colour)
    lorenz.plot([0, 100], [0, 100], color="#8a8f98", linewidth=0.8, linestyle="--", label="even")
    ranks.set(xlabel="items, most popular first", ylabel="interactions of the item")
    lorenz.set(xlabel="% of items, most popular first", ylabel="% of interactions")
    lorenz.legend()
    # Without the version that matplotlib writes, the same numbers are the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _counts(log: pl.DataFrame, num_items: int) -> np.ndarray:
    """Interactions of each item, int64 [N]."""
    return np.bincount(log["item"].to_numpy(), minlength=num_items)


def _share(flags: pl.Series) -> float:
    return int(flags.sum()) / len(flags)


def _popularity(counts: np.ndarray) -> dict[str, float | int]:
    ordered, total = np.sort(counts), int(counts.sum())
    weights = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    top = {
        f"top_{percent}_percent": float(
            ordered[-max(1, round(len(ordered) * percent / 100)) :].sum()
        )
        / total
        for percent in (1, 10, 20)
    }
    gini = float((weights * ordered).sum()) / (len(ordered) * total)
    return {"gini": gini, **top, "items_with_one_interaction": int((counts == 1).sum())}


def _lengths(texts: pl.Series) -> dict[str, float | int]:
    sizes = texts.str.len_chars().to_numpy()
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return {"median": 0.0, "p95": 0.0, "max": 0}
    p95 = float(np.quantile(sizes, 0.95))
    return {"median": float(np.median(sizes)), "p95": p95, "max": int(sizes.max())}


def times_in(stats: Mapping[str, Any]) -> Times:
    """Returns what the timestamps of a prepared dataset are, from its data card."""
    time = stats["time"]
    return "none" if time == NO_TIMES else time["unit"]


def _time(log: pl.DataFrame, times: Times) -> dict[str, str | int]:
    first, last = int(log["timestamp"].min()), int(log["timestamp"].max())  # type: ignore[arg-type]
    ordered = log.select("user", "timestamp").sort("user", "timestamp")
    equal = ordered.select((pl.col("timestamp").diff() == 0).over("user").sum()).item()
    dated = _dated({"first": first, "last": last}, times)
    return {**dated, "unit": times, "equal_neighbours": int(equal)}


def _dated(times: Mapping[str, int], unit: Times) -> dict[str, str | int]:
    """Returns moments as ISO dates; counts, and numbers without a unit, as they are."""
    moments = ("first", "last", "valid_from", "test_from") if unit == "ns" else ()
    return {name: iso(value) if name in moments else value for name, value in times.items()}
