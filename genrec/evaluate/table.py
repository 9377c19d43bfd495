"""The metrics table on the console: systems as rows, values over their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from genrec.evaluate.summary import Row, Summary, verdict

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
