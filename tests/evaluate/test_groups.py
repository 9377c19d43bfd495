"""Metrics by group of users: by hand, in the console table and in the report."""

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from genrec import schema
from genrec.evaluate import (
    evaluate,
    evaluate_groups,
    group_targets,
    groups_table,
    per_user,
    write_report,
)

TARGETS = pl.DataFrame([(u, [9], u) for u in range(4)], dict(schema.SPLIT), orient="row")
# User 3's group is that of another item than the held-out one; nobody is in "empty" by the target.
GROUPS = pl.DataFrame(
    [(0, 0, "b"), (1, 1, "b"), (1, 1, "a<b>"), (2, 2, "b"), (3, 9, "b"), (0, 9, "empty")],
    dict(schema.GROUPS),
    orient="row",
)


def lists(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    table = [(user, item, -float(rank), rank) for user, item, rank in rows]
    return pl.DataFrame(table, dict(schema.RECOMMENDATIONS), orient="row")


SYSTEMS = {
    "generative": lists([(0, 0, 1), (1, 5, 1), (1, 1, 2), (3, 3, 1)]),
    "popular": lists([(2, 2, 1)]),
}


def measured() -> list[dict[str, Any]]:
    return evaluate_groups(
        SYSTEMS, TARGETS, GROUPS, split="test", num_items=10, ks=(1, 10), samples=200
    )


def test_a_group_is_of_the_held_out_choices() -> None:
    found = {name: table["user"].to_list() for name, table in group_targets(TARGETS, GROUPS)}
    assert found == {"a<b>": [1], "b": [0, 1, 2]}


def test_groups_by_hand() -> None:
    rows = measured()
    value = {(r["group"], r["system"], r["metric"], r["k"]): r["value"] for r in rows}
    assert {key[2] for key in value} == {"recall", "ndcg", "mrr"}
    assert value["b", "generative", "recall", 1] == pytest.approx(1 / 3, abs=1e-6)
    assert value["b", "generative", "recall", 10] == pytest.approx(2 / 3, abs=1e-6)
    assert value["b", "generative", "mrr", 10] == pytest.approx((1 + 1 / 2) / 3, abs=1e-6)
    assert value["b", "popular", "recall", 10] == pytest.approx(1 / 3, abs=1e-6)
    assert value["a<b>", "generative", "mrr", 10] == 0.5
    assert {(r["group"], r["users"]) for r in rows} == {("a<b>", 1), ("b", 3)}
    assert all(r["split"] == "test" and r["low"] <= r["value"] <= r["high"] for r in rows)
    for members in (table for name, table in group_targets(TARGETS, GROUPS) if name == "b"):
        mean = per_user(SYSTEMS["generative"], members, num_items=10, ks=(10,))["ndcg@10"].mean()
        assert value["b", "generative", "ndcg", 10] == pytest.approx(mean, abs=1e-6)


def metrics(groups: list[dict[str, Any]]) -> dict[str, Any]:
    whole = evaluate(
        SYSTEMS,
        TARGETS,
        split="test",
        num_items=10,
        ks=(1, 10),
        baselines=("popular",),
        samples=200,
    )
    return whole | {"groups": groups}


def test_the_console_shows_groups_where_there_are_some() -> None:
    assert groups_table(metrics([])) is None
    out = Console(width=80, record=True, file=io.StringIO())
    out.print(groups_table(metrics(measured())))
    lines = [line.split() for line in out.export_text().splitlines()]
    assert ["a<b>", "b"] in lines
    assert ["system", "1", "3"] in lines
    assert ["generative", "0.6309", f"{(1 + 0.630930) / 3:.4f}"] in lines


def test_the_report_shows_groups_where_there_are_some(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", title="t", metrics=metrics([]))
    assert "Groups of users" not in (tmp_path / "a.html").read_text("utf-8")
    write_report(tmp_path / "b.html", title="t", metrics=metrics(measured()))
    text = (tmp_path / "b.html").read_text("utf-8")
    assert "Groups of users" in text
    assert "a&lt;b&gt;" in text
    assert f"{(1 + 0.630930) / 3:.4f}" in text
