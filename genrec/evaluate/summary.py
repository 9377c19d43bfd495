"""Looks things up in `metrics.json`: what the console table and the report both show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One split of `metrics.json`, by name.

    Attributes:
        split: the split that is shown.
        systems: in the order of `metrics.json`, baselines last.
        baselines: the systems that the others are compared with.
        ks: cut-offs, ascending.
        k: the cut-off to show first: 10, or the largest where 10 was not measured.
        best_baseline: the baseline with the highest NDCG at `k`; None without baselines.
        users: evaluated users.
    """

    split: str
    systems: tuple[str, ...]
    baselines: tuple[str, ...]
    ks: tuple[int, ...]
    k: int
    best_baseline: str | None
    users: int
    _rows: Mapping[tuple[str, str, int], Row]
    _differences: Mapping[tuple[str, str, str, int], Row]

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> Summary:
        """Reads what `evaluate` returned; rows of other splits may stand beside it.

        Raises:
            ValueError: it has no row of its split.
        """
        split = metrics["split"]
        rows = {
            (r["system"], r["metric"], r["k"]): r for r in metrics["rows"] if r["split"] == split
        }
        if not rows:
            raise ValueError(f"metrics: no row of split '{split}'; run the evaluate stage again")
        differences = {
            (d["system"], d["baseline"], d["metric"], d["k"]): d
            for d in metrics["differences"]
            if d["split"] == split
        }
        found = tuple(dict.fromkeys(system for system, _, _ in rows))
        baselines = tuple(dict.fromkeys(baseline for _, baseline, _, _ in differences))
        ks = tuple(sorted({k for _, metric, k in rows if metric == "ndcg"}))  # probes have others
        k = 10 if 10 in ks else ks[-1]
        return cls(
            split=split,
            systems=tuple(sorted(found, key=baselines.__contains__)),
            baselines=baselines,
            ks=ks,
            k=k,
            best_baseline=max(
                baselines, key=lambda name: rows[name, "ndcg", k]["value"], default=None
            ),
            users=next(iter(rows.values()))["users"],
            _rows=rows,
            _differences=differences,
        )

    def row(self, system: str, metric: str, k: int | None = None) -> Row:
        """Returns the row of one system and metric, at `self.k` unless said otherwise."""
        return self._rows[system, metric, k or self.k]

    def difference(
        self, system: str, metric: str, *, baseline: str | None = None, k: int | None = None
    ) -> Row | None:
        """Returns the paired difference to a baseline, the best one unless said otherwise.

        None where there is none: for the baseline itself.
        """
        name = baseline or self.best_baseline
        return None if name is None else self._differences.get((system, name, metric, k or self.k))

    def leader(self, metric: str, k: int | None = None) -> float:
        """Returns the highest value of a metric over the systems."""
        return max(float(self.row(system, metric, k)["value"]) for system in self.systems)


def verdict(difference: Row) -> str:
    """Says in one word what a paired difference shows: "above", "below" or "level".

    "level" means that its 95 % interval holds zero: this sample cannot tell the two apart.
    """
    if difference["low"] > 0:
        return "above"
    return "below" if difference["high"] < 0 else "level"
