"""`metrics.json`, looked up by name, and as the metrics table on the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

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
        """Reads what `evaluate` returned; rows of other splits are left out.

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
        systems = tuple(dict.fromkeys(system for system, _, _ in rows))
        baselines = tuple(dict.fromkeys(baseline for _, baseline, _, _ in differences))
        ks = tuple(sorted({k for _, metric, k in rows if metric == "ndcg"}))  # probes have others
        k = 10 if 10 in ks else ks[-1]
        return cls(
            split=split,
            systems=tuple(sorted(systems, key=baselines.__contains__)),
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


_STYLES = {"above": "bold green", "below": "red", "level": "yellow"}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Builds the table for `rich.print`; the report holds every cut-off, this one holds k = 10.

    Args:
        metrics: what `evaluate` returned, or `metrics.json`.
    """
    summary = Summary.of(metrics)
    k, invalid = summary.k, _worst_invalid(summary)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"{summary.split}: {summary.users:,} users, {metrics['items']:,} items, "
        f"seen items {metrics['seen_items']}",
        caption="below: 95 % bootstrap intervals over users; differences are paired\n"
        f"invalid: {invalid}",
    )
    table.add_column("system", no_wrap=True)
    for metric in ("recall", "ndcg", "mrr"):
        table.add_column(f"{metric}@{k}", justify="right", no_wrap=True)
    table.add_column("cover", justify="right", no_wrap=True)
    if summary.best_baseline is not None:
        title = f"ndcg@{k} vs\n{summary.best_baseline}"
        table.add_column(title, justify="right", no_wrap=True)
    for system in summary.systems:
        table.add_row(*_cells(summary, system))
    return table


def groups_table(metrics: Mapping[str, Any]) -> Table | None:
    """Builds the table of groups of users at k = 10, or None where there are no groups.

    Args:
        metrics: `metrics.json`.
    """
    summary = Summary.of(metrics)
    rows = {
        (row["group"], row["system"]): row
        for row in metrics.get("groups", ())
        if (row["split"], row["metric"], row["k"]) == (summary.split, "ndcg", summary.k)
    }
    if not rows:
        return None
    groups = {group: row["users"] for (group, _), row in rows.items()}
    table = Table(
        "system",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"ndcg@{summary.k} by group of users; their number below its name",
    )
    for group, users in groups.items():
        table.add_column(Text(f"{group}\n{users:,}"), justify="right")
    for system in summary.systems:
        table.add_row(system, *(f"{rows[group, system]['value']:.4f}" for group in groups))
    return table


def _worst_invalid(summary: Summary) -> str:
    """The invalid rates that are not zero, in words: a column of zeros would cost the width of one."""
    rates = {system: summary.row(system, "invalid_rate")["value"] for system in summary.systems}
    worst = [f"{system} {rate:.1%}" for system, rate in rates.items() if rate > 0]
    return f"{', '.join(worst)} of the first {summary.k} places" if worst else "none"


def _cells(summary: Summary, system: str) -> list[Text]:
    cells = [Text(system, style="" if system in summary.baselines else "bold")]
    for metric in ("recall", "ndcg", "mrr"):
        row = summary.row(system, metric)
        best = row["value"] > 0 and row["value"] == summary.leader(metric)
        cells.append(_measured(row, f"{row['value']:.4f}", "bold" if best else ""))
    cells.append(Text(f"{summary.row(system, 'coverage')['value']:.0%}"))
    if summary.best_baseline is not None:
        gain = summary.difference(system, "ndcg")
        if gain is None:
            cells.append(Text("-", style="dim"))
        else:
            cells.append(_measured(gain, f"{gain['value']:+.4f}", _STYLES[verdict(gain)]))
    return cells


def _measured(row: Row, value: str, style: str) -> Text:
    sign = "+" if value[0] in "+-" else ""
    ends = (f"{row[end]:{sign}.4f}".replace("0.", ".", 1) for end in ("low", "high"))
    return Text.assemble((value, style), "\n", (" ".join(ends), "dim"))
