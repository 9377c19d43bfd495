"""One HTML file that shows a run: measurements, SIDs, data, and users one can look at.

Self-contained (no script, no outside host) and autoescaped: titles come from anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from genrec.evaluate.examples import UserExample
from genrec.evaluate.probes import Measure, absences, measures
from genrec.evaluate.summary import Row, Summary, verdict

_NAMES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR"}
_WORDS = {"above": "better", "below": "worse", "level": "no clear difference"}


def write_report(
    path: str | Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    sid_stats: Mapping[str, Any] | None = None,
    data_stats: Mapping[str, Any] | None = None,
    examples: Sequence[UserExample] = (),
    facts: Mapping[str, object] | None = None,
    diagnostics: Mapping[str, Any] | None = None,
    purpose: str | None = None,
) -> None:
    """Writes the report.

    Args:
        path: the HTML file to write.
        title: the heading, such as the recipe's name.
        metrics: what `evaluate` returned, or `metrics.json`.
        sid_stats: `stats.json` of quantize, see `genrec.sid.stats.sid_stats`; None leaves it out.
        data_stats: `stats.json` of prepare, numbers by name; None leaves it out.
        examples: from `user_examples`.
        facts: what was run, by name: source, model, seed ...
        diagnostics: `diagnostics.json`; None leaves it out.
        purpose: what the run is for, in a sentence.

    Raises:
        ValueError: `metrics` has no row of its split.
    """
    summary = Summary.of(metrics)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            facts=dict(facts or {}),
            metrics=metrics,
            summary=summary,
            names=_NAMES,
            focus=_focus(summary),
            purpose=purpose,
            sentence=_sentence(summary),
            groups=_groups(metrics, summary),
            charts=[_chart(summary, metric) for metric in ("ndcg", "recall")],
            sets=[_sids(own) for own in _each_set(sid_stats)],
            probes=_probes(metrics.get("probes", {})),
            pairs=(diagnostics or {}).get("complementarity"),
            fusion=_fusion(diagnostics or {}, summary.k),
            data=None if data_stats is None else _flat(data_stats),
            examples=examples,
        )
    )
    Path(path).write_text(text, encoding="utf-8")


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["verdict"] = verdict
    env.filters["word"] = lambda difference: _WORDS[verdict(difference)]
    env.filters["number"] = _number
    env.filters["decimal"] = _decimal
    return env


def _focus(summary: Summary) -> str:
    """The system that the headline is about: the first that is no baseline."""
    return summary.systems[0]


def _sentence(summary: Summary) -> str:
    """The result in words, with what the interval allows to say."""
    focus, k = _focus(summary), summary.k
    row, gain = summary.row(focus, "ndcg"), summary.difference(focus, "ndcg")
    start = (
        f"{focus} reaches NDCG@{k} {row['value']:.4f} on {summary.users:,} {summary.split} users"
    )
    if gain is None:
        return start + "."
    by = _decimal(abs(gain["value"]))
    low, high = (_decimal(gain[end], True) for end in ("low", "high"))
    span = f"95 % interval of the paired difference {low} to {high}"
    end = {
        "above": f"{by} above {summary.best_baseline}, the best baseline ({span}).",
        "below": f"{by} below {summary.best_baseline}, the best baseline ({span}).",
        "level": f"level with {summary.best_baseline}, the best baseline: {span}, which holds zero.",
    }
    return f"{start}, {end[verdict(gain)]}"


def _groups(metrics: Mapping[str, Any], summary: Summary) -> list[dict[str, Any]]:
    """One row per group of users: its name, its users, and NDCG by system."""
    by_group: dict[str, dict[str, Any]] = {}
    for row in metrics.get("groups", ()):
        if (row["split"], row["metric"], row["k"]) == (summary.split, "ndcg", summary.k):
            group = {"name": row["group"], "users": row["users"], "systems": {}}
            by_group.setdefault(row["group"], group)["systems"][row["system"]] = row
    return list(by_group.values())


def _chart(summary: Summary, metric: str) -> dict[str, Any]:
    """Places of dots and intervals in percent of the axis, which starts at zero."""
    rows = {system: summary.row(system, metric) for system in summary.systems}
    step = _nice(max(row["high"] for row in rows.values()))
    ticks = [i * step for i in range(6)]
    return {
        "name": f"{_NAMES[metric]}@{summary.k}",
        "ticks": [f"{tick:g}" for tick in ticks],
        "bars": [_bar(system, row, ticks[-1]) for system, row in rows.items()],
    }


def _bar(system: str, row: Row, top: float) -> dict[str, Any]:
    at = {end: round(100 * row[end] / top, 2) for end in ("low", "value", "high")}
    return {"system": system, **row, "at": at}


def _nice(top: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that reaches `top` in five steps."""
    steps = (m * 10.0**e for e in range(-5, 1) for m in (1, 2, 2.5, 5))
    return next(step for step in steps if 5 * step >= top)


def _each_set(stats: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """The statistics of each set of SIDs; none where there are no SIDs."""
    if stats is None:
        return []
    each: Sequence[Mapping[str, Any]] = stats.get("sets", [stats])
    return each


def _sids(stats: Mapping[str, Any]) -> dict[str, Any]:
    """One row per level and the single numbers; published SIDs have fewer of both."""
    columns = {
        "utilisation": [100 * share for share in stats["utilisation"]],
        "perplexity": [100 * value / stats["codes"] for value in stats["perplexity"]],
    }
    residual = stats.get("relative_residual_norm")
    levels = [
        {
            "letter": chr(ord("a") + level),
            "utilisation": stats["utilisation"][level],
            "perplexity": stats["perplexity"][level],
            "residual": None if residual is None else residual[level],
            "at": {name: round(values[level], 1) for name, values in columns.items()},
        }
        for level in range(len(stats["utilisation"]))
    ]
    rate = stats["collision_rate"]
    shape = f"{stats['items']:,} items, {stats['levels']} levels of {stats['codes']} codes"
    rates = rate if isinstance(rate, Mapping) else {"published": rate}
    return {
        "shape": shape,
        "levels": levels,
        "rates": dict(rates),
        "moved": stats.get("moved"),
        "largest_group": stats.get("largest_group"),
        "cosine": stats.get("reconstruction_cosine"),
        "findings": stats.get("findings", ()),
    }


def _probes(probes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The measures by part, in their order, and what was not measured."""
    parts: dict[str, list[Measure]] = {}
    for measure in measures(probes):
        parts.setdefault(measure.part, []).append(measure)
    return {"parts": parts, "absent": absences(probes)} if probes else None


def _fusion(diagnostics: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """One row per source: its weight, its own hits kept and lost, and what the fusion gains on it."""
    fusion = diagnostics.get("fusion")
    if fusion is None:
        return None
    gains = {
        d["baseline"]: d for d in fusion["differences"] if (d["metric"], d["k"]) == ("ndcg", k)
    }
    kept = fusion["kept"]["test"]
    rows = [
        {
            "name": name,
            "weight": fusion.get("weights", {}).get(name),
            "gain": gains[name],
            **kept["sources"][name],
        }
        for name in fusion["sources"]
    ]
    told = {
        "method": fusion["method"],
        "fallback": fusion.get("fallback"),
        "in_sample": fusion["validation"]["lists"] == "in sample",
    }
    return told | {"k": kept["k"], "rows": rows, **kept}


def _flat(stats: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Nested numbers as one list of named ones."""
    flat: dict[str, object] = {}
    for key, value in stats.items():
        name = f"{above}{key.replace('_', ' ')}"
        flat |= _flat(value, f"{name}: ") if isinstance(value, Mapping) else {name: value}
    return flat


def _decimal(value: float, signed: bool = False) -> str:
    """Four decimals with a true minus sign."""
    return f"{value:{'+' if signed else ''}.4f}".replace("-", "\N{MINUS SIGN}")


def _number(value: object) -> str:
    """Counts with separators, shares below one as percentages, other numbers shortened."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{100 * value:.3g} %" if 0 <= value < 1 else f"{value:,.1f}"
