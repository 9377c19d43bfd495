"""What each of two systems knows that the other does not: overlap, hits, users, items, oracle, strata.

Definitions are those of the code of arXiv 2604.22195 (SIGIR 2026). Only the first k places count; where
a tie straddles place k, its items of the lowest number do (the paper's systems have no ties).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.figure import Figure

from genrec import schema

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

STRATA = ("cold", "mid", "hot")
_QUANTILES = (0.6, 0.8)
_DECIMALS = 6
OVERLAP_FILE, HITS_FILE = "overlap.png", "hits.png"
_PARTS = {"unique_a": "first only", "common": "both", "unique_b": "second only"}
_COLOURS = {"common": "#8a8f98", "unique_a": "#1f6fb4", "unique_b": "#e08a1e"}


class _Truth(NamedTuple):
    """The users and what they chose: `row`, `item` are the T pairs, `sizes` [U] each user's count."""

    users: Ints
    row: Ints
    item: Ints
    sizes: Ints


class _Lists(NamedTuple):
    """One system: `keys` row * N + item of every list, ascending, and each truth's place or 0."""

    keys: Ints
    place: Ints

    @property
    def hit(self) -> Bools:
        return self.place > 0


def diagnose(
    tables: Mapping[str, pl.DataFrame],
    targets: pl.DataFrame,
    popularity: npt.ArrayLike,
    history_lengths: npt.ArrayLike,
    *,
    k: int = 20,
) -> dict[str, Any]:
    """Compares every two systems on the same users.

    Args:
        tables: schema `RECOMMENDATIONS` by system; users outside `targets` are ignored.
        targets: schema `SPLIT`; a user may have several rows, one per chosen item.
        popularity: int [N], interactions per item; also says that items are 0..N-1.
        history_lengths: int [V], training interactions of user u on place u.
        k: cut-off K.

    Returns:
        JSON values; null where a mean is over nothing. `k`, `users`, `targets`; `strata`: `bounds`, the
        60 % and 80 % quantiles of the popularity of items with interactions, and `items` per stratum
        (cold up to the first bound, mid up to the second, hot above). `systems`, by name: `recall` and
        `strata`, each with `users` (who have a target in it), `recall` and `ndcg` on these targets only.
        `pairs`, each with

        - `a`, `b`: the systems;
        - `overlap`: mean over users of |A n B| / |A u B|, 0 where both lists are empty;
        - `hits`: `all` = |H_A u H_B| over all users, and of these the shares `common`, `unique_a`,
          `unique_b` and `complementary` = unique_a + unique_b;
        - `users`: of those hit by `both`, by `only_a`, `only_b` or `none`: `share`, `log_length` = mean
          ln(1 + training interactions);
        - `items`: mean ln(1 + popularity) of the hits `common`, `unique_a`, `unique_b`;
        - `oracle`: mean over users of |(A u B) n T| / |T|: up to 2K items are shown, so no list of K
          need reach it; `oracle_strata`: the same within each stratum.

    Raises:
        ValueError: fewer than two systems, no targets, k below 1, counts that are none, or a malformed
            table.
    """
    popular, lengths = (
        _counts(popularity, "popularity"),
        _counts(history_lengths, "history_lengths"),
    )
    truth = _truth(targets, len(popular), len(lengths))
    if len(tables) < 2 or k < 1:
        raise ValueError(f"systems {list(tables)}, k={k}; expected two systems or more, k from 1")
    lists = {n: _lists(t, truth, k=k, num_items=len(popular), where=n) for n, t in tables.items()}
    bounds = _bounds(popular)
    strata = np.searchsorted(bounds, popular[truth.item])  # [T]: a bound's own items lie below it
    log_popularity, log_length = np.log1p(popular[truth.item]), np.log1p(lengths[truth.users])
    pairs = [
        {
            "a": a,
            "b": b,
            "overlap": _round(_jaccard(first, second, truth, len(popular)).mean()),
            "hits": _hits(first.hit, second.hit),
            "users": _users(first.hit, second.hit, truth, log_length),
            "items": _items(first.hit, second.hit, log_popularity),
            **_oracle(first.hit | second.hit, truth, strata),
        }
        for (a, first), (b, second) in combinations(lists.items(), 2)
    ]
    stratum = np.searchsorted(bounds, popular)
    return {
        "k": k,
        "users": len(truth.users),
        "targets": len(truth.item),
        "strata": {
            "bounds": [float(b) for b in bounds],
            "items": {name: int((stratum == s).sum()) for s, name in enumerate(STRATA)},
        },
        "systems": {name: _system(listed, truth, strata, k) for name, listed in lists.items()},
        "pairs": pairs,
    }


def _counts(values: npt.ArrayLike, name: str) -> Ints:
    counts = np.asarray(values)
    if counts.ndim != 1 or (len(counts) and (counts.dtype.kind not in "iu" or counts.min() < 0)):
        raise ValueError(f"{name} is {counts.dtype} {counts.shape}; expected integers of 0 or more")
    return counts.astype(np.int64)


def _truth(targets: pl.DataFrame, num_items: int, num_users: int) -> _Truth:
    schema.check(targets, schema.SPLIT, "targets")
    if targets.is_empty():
        raise ValueError("targets: no users to compare on")
    pairs = targets.select("user", "target").unique().sort("user", "target")
    user, item = (pairs[c].to_numpy().astype(np.int64) for c in ("user", "target"))
    if item.min() < 0 or item.max() >= num_items:
        raise ValueError(f"targets: items {item.min()}..{item.max()}; popularity has {num_items}")
    if user.min() < 0 or user.max() >= num_users:
        raise ValueError(
            f"targets: users {user.min()}..{user.max()}; history_lengths has {num_users}"
        )
    users, row = np.unique(user, return_inverse=True)
    return _Truth(users, row, item, np.bincount(row))


def _lists(table: pl.DataFrame, truth: _Truth, *, k: int, num_items: int, where: str) -> _Lists:
    """Keeps the first k places of the users that count, and of them the items of the catalogue."""
    schema.check_lists(table, where)
    rows = pl.DataFrame({"user": truth.users, "row": np.arange(len(truth.users))})
    top = (
        table.select(pl.col("user").cast(pl.Int64), "item", "rank")
        .join(rows, on="user")
        .sort("row", "rank", "item")
        .with_columns(place=pl.int_range(1, pl.len() + 1).over("row"))
        .filter((pl.col("place") <= k) & pl.col("item").is_between(0, num_items - 1))
        .sort("row", "item")
    )
    keys = top["row"].to_numpy() * num_items + top["item"].to_numpy().astype(np.int64)
    place = np.zeros(len(truth.item), dtype=np.int64)
    if len(keys):
        wanted = truth.row * num_items + truth.item
        at_key = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        place = np.where(keys[at_key] == wanted, top["place"].to_numpy()[at_key], 0)
    return _Lists(keys, place)


def _bounds(popularity: Ints) -> Floats:
    known = popularity[popularity > 0]
    if not len(known):
        raise ValueError("popularity: no item has an interaction")
    return np.quantile(known, _QUANTILES)


def _jaccard(a: _Lists, b: _Lists, truth: _Truth, num_items: int) -> Floats:
    """|A n B| / |A u B| of every user, float64 [U]."""
    count = len(truth.users)
    sizes = [np.bincount(x.keys // num_items, minlength=count) for x in (a, b)]
    common = np.intersect1d(a.keys, b.keys, assume_unique=True)
    both = np.bincount(common // num_items, minlength=count)
    return both / np.maximum(sizes[0] + sizes[1] - both, 1)


def _hits(a: Bools, b: Bools) -> dict[str, float | int | None]:
    total = int((a | b).sum())
    parts = {"common": a & b, "unique_a": a & ~b, "unique_b": b & ~a, "complementary": a ^ b}
    shares = {n: _round(x.sum() / total) if total else None for n, x in parts.items()}
    return {"all": total, **shares}


def _users(a: Bools, b: Bools, truth: _Truth, log_length: Floats) -> dict[str, dict[str, Any]]:
    count = len(truth.users)
    by_a, by_b = (np.bincount(truth.row[hit], minlength=count) > 0 for hit in (a, b))
    groups = {
        "both": by_a & by_b,
        "only_a": by_a & ~by_b,
        "only_b": by_b & ~by_a,
        "none": ~(by_a | by_b),
    }
    return {
        name: {"share": _round(group.mean()), "log_length": _mean(log_length[group])}
        for name, group in groups.items()
    }


def _items(a: Bools, b: Bools, log_popularity: Floats) -> dict[str, float | None]:
    parts = {"common": a & b, "unique_a": a & ~b, "unique_b": b & ~a}
    return {name: _mean(log_popularity[hit]) for name, hit in parts.items()}


def _oracle(hit: Bools, truth: _Truth, strata: Ints) -> dict[str, Any]:
    parts = {
        name: _mean(_recall(hit[strata == s], _within(truth, strata == s)))
        for s, name in enumerate(STRATA)
    }
    return {"oracle": _mean(_recall(hit, truth)), "oracle_strata": parts}


def _within(truth: _Truth, kept: Bools) -> _Truth:
    """The same users, with fewer targets."""
    sizes = np.bincount(truth.row[kept], minlength=len(truth.users))
    return truth._replace(row=truth.row[kept], item=truth.item[kept], sizes=sizes)


def _recall(hit: Bools, truth: _Truth) -> Floats:
    """|H| / |T| of every user who has targets."""
    hits = np.bincount(truth.row[hit], minlength=len(truth.users))
    has = truth.sizes > 0
    return hits[has] / truth.sizes[has]


def _ndcg(place: Ints, truth: _Truth, k: int) -> Floats:
    gain = np.where(place > 0, 1 / np.log2(1 + np.maximum(place, 1)), 0.0)
    gains = np.bincount(truth.row, weights=gain, minlength=len(truth.users))
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
    has = truth.sizes > 0
    return gains[has] / ideal[np.minimum(truth.sizes[has], k) - 1]


def _system(lists: _Lists, truth: _Truth, strata: Ints, k: int) -> dict[str, Any]:
    parts = {}
    for s, name in enumerate(STRATA):
        kept = strata == s
        part = _within(truth, kept)
        parts[name] = {
            "users": int((part.sizes > 0).sum()),
            "recall": _mean(_recall(lists.hit[kept], part)),
            "ndcg": _mean(_ndcg(lists.place[kept], part, k)),
        }
    return {"recall": _mean(_recall(lists.hit, truth)), "strata": parts}


def _mean(values: Floats) -> float | None:
    return _round(values.mean()) if len(values) else None


def _round(value: float) -> float:
    return round(float(value), _DECIMALS)


def plot_complementarity(diagnosed: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Draws the overlap matrix and the hit composition of every pair.

    Args:
        diagnosed: what `diagnose` returned, or `diagnostics.json`.
        folder: where to; made if need be.

    Returns:
        The two files, overlap.png and hits.png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {OVERLAP_FILE: _draw_overlap(diagnosed), HITS_FILE: _draw_hits(diagnosed)}
    for name, figure in figures.items():
        # Without the version that matplotlib writes, the same numbers are the same bytes.
        figure.savefig(folder / name, dpi=120, metadata={"Software": None})
    return [folder / name for name in figures]


def _draw_overlap(diagnosed: Mapping[str, Any]) -> Figure:
    names = list(diagnosed["systems"])
    matrix = np.eye(len(names))
    for pair in diagnosed["pairs"]:
        a, b = names.index(pair["a"]), names.index(pair["b"])
        matrix[a, b] = matrix[b, a] = pair["overlap"]
    side = 2.2 + 0.75 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        colour = "white" if value > 0.55 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set_title(
        f"Overlap of lists: Jaccard@{diagnosed['k']}, mean of {diagnosed['users']:,} users"
    )
    return figure


def _draw_hits(diagnosed: Mapping[str, Any]) -> Figure:
    pairs = diagnosed["pairs"]
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(pairs))
    left = np.zeros(len(pairs))
    for part, label in _PARTS.items():
        share = np.array([pair["hits"][part] or 0.0 for pair in pairs])
        axes.barh(rows, share, left=left, color=_COLOURS[part], label=label, height=0.72)
        for row, (start, width) in enumerate(zip(left, share, strict=True)):
            if width > 0.06:
                middle = start + width / 2
                axes.text(middle, row, f"{100 * width:.0f} %", ha="center", va="center", color="w")
        left += share
    labels = [f"{p['a']} + {p['b']}  ({p['hits']['all']:,} hits)" for p in pairs]
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(pairs) - 0.5, -0.5)  # the first pair on top
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"share of the targets that either finds in its first {diagnosed['k']}")
    axes.set_title("Whose hits are whose")
    figure.legend(ncols=3, loc="outside lower center", frameon=False)
    return figure
