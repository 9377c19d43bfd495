"""recipes/results.py: metrics to a table, and the table to its place in the guide."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("recipes.results", reason="needs the root of a checkout on the path")
results = importlib.import_module("recipes.results")
ROOT = Path(__file__).parents[1]


def metrics() -> dict[str, Any]:
    def row(system: str, metric: str, value: float) -> dict[str, Any]:
        ends = {"low": value - 0.01, "high": value + 0.01, "users": 1200}
        return {"system": system, "split": "test", "metric": metric, "k": 10, "value": value} | ends

    gain = {"value": 0.02, "low": -0.001, "high": 0.04, "metric": "ndcg", "k": 10, "split": "test"}
    values = {"popular": (0.02, 0.01), "fused": (0.05, 0.03)}
    return {
        "split": "test",
        "items": 3000,
        "seen_items": "masked",
        "rows": [
            row(system, metric, value)
            for system, pair in values.items()
            for metric, value in zip(("recall", "ndcg"), pair, strict=True)
        ],
        "differences": [gain | {"system": "fused", "baseline": "popular"}],
    }


def test_a_table_has_the_systems_best_first() -> None:
    # As in the file, whose keys are sorted.
    strata = {"cold": {"recall": 0.0}, "hot": {"recall": 0.25}, "mid": {"recall": None}}
    compared = {"k": 20, "systems": {"popular": {"strata": strata}}}
    lines = results.table(metrics(), {"complementarity": compared}).splitlines()
    assert lines[0] == "1,200 test users, 3,000 items, seen items masked; Δ is to popular."
    assert lines[2].endswith("| NDCG@10 | Δ NDCG@10 | recall@20 of cold / mid / hot items |")
    assert lines[4:] == [
        "| fused | 0.0500 (.0400 to .0600) | 0.0300 (.0200 to .0400) | +0.0200 (-.0010 to +.0400) | |",
        "| popular | 0.0200 (.0100 to .0300) | 0.0100 (.0000 to .0200) | | .000 / - / .250 |",
    ]


def test_a_table_goes_to_its_place_and_leaves_the_rest() -> None:
    guide = "before\n<!-- make a -->\nold\n<!-- end -->\n<!-- make b -->\nb\n<!-- end -->\n"
    new = results.replaced(guide, "make a", "new")
    assert (
        new == "before\n<!-- make a -->\n\nnew\n\n<!-- end -->\n<!-- make b -->\nb\n<!-- end -->\n"
    )
    assert results.replaced(new, "make a", "new") == new
    with pytest.raises(ValueError, match="expected the line '<!-- make c -->'"):
        results.replaced(guide, "make c", "new")


def test_every_table_of_the_guide_has_a_recipe_and_this_form() -> None:
    guide = (ROOT / "recipes/results.md").read_text("utf-8")
    tables = re.findall(
        r"<!-- python -m recipes\.results (\S+).*? -->\n(.*?)<!-- end -->", guide, re.S
    )
    assert len(tables) == 3
    for recipe, text in tables:
        assert (ROOT / recipe).is_file()
        assert results._HEAD.format(k=10, depth=20) in text
