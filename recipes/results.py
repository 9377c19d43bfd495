"""The table of a finished recipe, in the form that recipes/results.md has it.

    python -m recipes.results recipes/scientific.yaml                 # prints it
    python -m recipes.results recipes/scientific.yaml --write         # puts it into recipes/results.md
    python -m recipes.results recipes/scientific.yaml mask_seen=false

The numbers are those of the recipe's `metrics.json` and `diagnostics.json`: `genrec run` first. A
table in the guide lies between two comments, the first of which is the command that makes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec import Pipeline
from genrec.analysis.complementarity import STRATA
from genrec.evaluate.summary import Row, Summary

GUIDE = Path(__file__).with_name("results.md")
_END = "<!-- end -->"
_HEAD = "| system | recall@{k} | NDCG@{k} | Δ NDCG@{k} | recall@{depth} of cold / mid / hot items |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints or writes the table that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true", help=f"into {GUIDE.name}")
    asked = parser.parse_args(arguments)
    finished = Pipeline.load(asked.recipe, *asked.overrides)["evaluate"]
    text = table(finished.load("metrics.json"), finished.load("diagnostics.json"))
    if not asked.write:
        print(text)
        return
    command = " ".join(["python -m recipes.results", asked.recipe, *asked.overrides])
    GUIDE.write_text(replaced(GUIDE.read_text("utf-8"), command, text), encoding="utf-8")


def table(metrics: Mapping[str, Any], diagnostics: Mapping[str, Any]) -> str:
    """Returns the systems, best first, with their intervals, as Markdown.

    Args:
        metrics: `metrics.json`.
        diagnostics: `diagnostics.json`.
    """
    summary = Summary.of(metrics)
    compared = diagnostics.get("complementarity", {"systems": {}, "k": 20})
    best_first = sorted(summary.systems, key=lambda name: -summary.row(name, "ndcg")["value"])
    lines = [
        f"{summary.users:,} test users, {metrics['items']:,} items, seen items "
        f"{metrics['seen_items']}; Δ is to {summary.best_baseline}.",
        "",
        _HEAD.format(k=summary.k, depth=compared["k"]),
        "|---|---|---|---|---|",
    ]
    for name in best_first:
        gain = summary.difference(name, "ndcg")
        strata = compared["systems"].get(name, {}).get("strata", {})
        parts = [_short(strata[name]["recall"]) for name in STRATA if strata]
        cells = [_measured(summary.row(name, metric)) for metric in ("recall", "ndcg")]
        cells += ["" if gain is None else _measured(gain, sign="+"), " / ".join(parts)]
        lines.append(f"| {' | '.join([name, *cells])} |".replace("  ", " "))
    return "\n".join(lines)


def replaced(guide: str, command: str, text: str) -> str:
    """Returns the guide with the table of one command replaced.

    Raises:
        ValueError: the guide has no place for it.
    """
    start = f"<!-- {command} -->\n"
    before, found, rest = guide.partition(start)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise ValueError(
            f"recipes/results.md has no place for this table; expected the line '{start.strip()}', and "
            f"'{_END}' after it"
        )
    return f"{before}{start}\n{text}\n\n{_END}{after}"


def _measured(row: Row, sign: str = "") -> str:
    low, high = (f"{row[end]:{sign}.4f}".replace("0.", ".", 1) for end in ("low", "high"))
    return f"{row['value']:{sign}.4f} ({low} to {high})"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)


if __name__ == "__main__":
    main()
