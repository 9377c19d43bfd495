"""The table of an ablation as text: Markdown for the file, and what the console shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table

from genrec.ablate.table import COLLISIONS

_NAMES = {"recall": "recall", "ndcg": "NDCG", COLLISIONS: "collisions"}
_MINUS = "\N{MINUS SIGN}"


def notes(table: Mapping[str, Any]) -> list[str]:
    """Returns what the numbers are, a sentence or two each."""
    wanted, reference = table["seeds"], table["reference"]
    if not any(row["seeds"] for row in table["rows"] if row["variant"] == reference):
        return [f"There is no finished run of `{reference}`, so there is nothing to compare with."]
    sentences = [
        f"Values are means over seeds ± their sample standard deviation ({wanted} seeds per variant "
        "unless the column seeds says otherwise). Baselines have no seed.",
        f"Δ is the paired difference to `{reference}`, over the seeds that both have.",
        "p is a two-sided paired t-test over seeds: it says how far the result hangs on the seed. "
        "In brackets p after Holm's correction for all variants of one column. There is none with "
        "fewer than two seeds, nor where the differences do not vary.",
    ]
    if _ranked(table):
        sentences += [
            "The interval behind Δ is a 95 % percentile bootstrap over users "
            f"({table['samples']} resamples, the same for every row) of each user's difference, "
            "averaged over seeds: it says how far the result hangs on who the users are.",
            "Neither test covers the other's source of chance: trust a difference that passes both.",
        ]
    collisions = "share of items that share their whole SID with another one, before resolution."
    return [*sentences, f"collisions: {collisions}"]


def markdown(table: Mapping[str, Any]) -> str:
    """Returns the whole table as Markdown: all users, collisions, every group, failures."""
    parts = [f"# {table['grid']} on {table['recipe']}", table["description"].strip()]
    for title, header, rows in _sections(table):
        parts.append(f"## {title}")
        parts.append("\n".join(_markdown_rows(header, rows)))
    parts += [_list(f"`{r['variant']}`: {r['note']}" for r in table["rows"] if r["note"])]
    parts += [_failures(table), _list(notes(table))]
    return "\n\n".join(part for part in parts if part) + "\n"


def console_tables(table: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yields what the console shows: all users, and NDCG by group."""
    sections = _sections(table)
    for title, header, rows in sections[:1]:
        yield _rich(f"{table['grid']} on {table['recipe']}: {title}", header, rows)
    if table["groups"]:
        title = f"NDCG@{table['k']} by group of users, Δ below, * where its interval excludes zero"
        yield _rich(title, *_by_group(table))
    yield escape("\n".join(f"- {note}" for note in notes(table)))
    if failed := _failures(table):
        yield f"[red]{escape(failed)}[/]"


Section = tuple[str, list[str], list[list[Sequence[str]]]]  # title, header, rows of cells of lines


def _sections(table: Mapping[str, Any]) -> list[Section]:
    k, sections = table["k"], list[Section]()
    ranked = _ranked(table)
    if ranked:
        for group in (None, *table["groups"]):
            sections.append(_ranking(table, group, k))
    if not ranked or any(_metric(row, COLLISIONS, None) for row in table["rows"]):
        header = ["variant", "seeds", "collisions", "Δ collisions, p (Holm)"]
        rows = [
            [*_head(row), *_pair(_metric(row, COLLISIONS, None))]
            for row in table["rows"]
            if not row["baseline"]
        ]
        sections.append(("SID collisions before resolution", header, rows))
    return sections


def _ranked(table: Mapping[str, Any]) -> bool:
    """Says whether any run was measured by its lists, and not by its SIDs alone."""
    return any(m["metric"] != COLLISIONS for row in table["rows"] for m in row["metrics"])


def _ranking(table: Mapping[str, Any], group: str | None, k: int) -> Section:
    header = ["variant", "seeds"]
    for metric in ("recall", "ndcg"):
        header += [f"{_NAMES[metric]}@{k}", f"Δ {_NAMES[metric]}@{k}, p (Holm)"]
    if group is None:
        header.append("collisions")
    rows = []
    for row in table["rows"]:
        cells: list[Sequence[str]] = [*_head(row)]
        for metric in ("recall", "ndcg"):
            cells += _pair(_metric(row, metric, group))
        if group is None:
            cells.append(_pair(_metric(row, COLLISIONS, None))[0])
        rows.append(cells)
    users = next(
        (m["users"] for r in table["rows"] for m in r["metrics"] if m["group"] == group), 0
    )
    return f"{'all users' if group is None else group} ({users:,} users)", header, rows


def _by_group(table: Mapping[str, Any]) -> tuple[list[str], list[list[Sequence[str]]]]:
    header, rows = ["variant", *table["groups"]], []
    for row in table["rows"]:
        cells: list[Sequence[str]] = [[row["variant"]]]
        for group in table["groups"]:
            metric = _metric(row, "ndcg", group)
            value, difference = _pair(metric)
            gain = metric["difference"] if metric else None
            clear = gain is not None and (gain["low"] > 0 or gain["high"] < 0)
            cells.append([value[0], f"{difference[0]}{'*' if clear else ''}"])
        rows.append(cells)
    return header, rows


def _head(row: Mapping[str, Any]) -> list[Sequence[str]]:
    if row["baseline"]:
        return [[row["variant"], "baseline"], [""]]
    seeds = str(len(row["seeds"])) if row["seeds"] else "none"
    return [[row["variant"]], [seeds, f"{len(row['errors'])} failed"] if row["errors"] else [seeds]]


def _metric(row: Mapping[str, Any], metric: str, group: str | None) -> Mapping[str, Any] | None:
    for measured in row["metrics"]:
        if measured["metric"] == metric and measured["group"] == group:
            return dict(measured)
    return None


def _pair(metric: Mapping[str, Any] | None) -> list[Sequence[str]]:
    """Returns the lines of a value's cell, and of its difference's."""
    if metric is None:
        return [[""], [""]]
    value = [f"{metric['mean']:.4f}"]
    if metric["sd"] is not None:
        value.append(f"±{metric['sd']:.4f}")
    gain, lines = metric["difference"], [""]
    if gain is not None:
        lines = [_signed(gain["value"])]
        if gain["low"] is not None:
            lines.append(f"({_signed(gain['low'])} to {_signed(gain['high'])})")
        if gain["p"] is not None:
            lines.append(f"p {_p(gain['p'])} ({_p(gain['p_holm'])})")
    return [value, lines]


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", _MINUS)


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _failures(table: Mapping[str, Any]) -> str:
    lines = [
        f"{row['variant']}, seed {error['seed']}: {error['error']}"
        for row in table["rows"]
        for error in row["errors"]
    ]
    return f"Failed, and not in the table:\n\n{_list(lines)}" if lines else ""


def _list(lines: Any) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _markdown_rows(header: Sequence[str], rows: Sequence[Sequence[Sequence[str]]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

    flat = [[" ".join(lines) for lines in cells] for cells in rows]
    return [line(header), line(["---"] * len(header)), *map(line, flat)]


def _rich(title: str, header: Sequence[str], rows: Sequence[Sequence[Sequence[str]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=title)
    for name in header:
        side: JustifyMethod = "left" if name == "variant" else "right"
        table.add_column(escape(name).replace(", ", "\n"), justify=side)
    for cells in rows:
        table.add_row(*(escape("\n".join(lines)) for lines in cells))
    return table
