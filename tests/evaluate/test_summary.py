from __future__ import annotations

import io

import polars as pl
import pytest
from rich.console import Console

from genrec import schema
from genrec.evaluate import Summary, evaluate, metrics_table, verdict


def measured(hits: dict[str, range], *, ks: tuple[int, ...] = (5, 10)) -> dict:
    """Systems that put the target of these users on place 1, of 40 users, and nothing else."""
    targets = pl.DataFrame([(u, [], u) for u in range(40)], schema=dict(schema.SPLIT), orient="row")
    systems = {
        name: pl.DataFrame(
            [(u, u, 1.0, 1) for u in users], schema=dict(schema.RECOMMENDATIONS), orient="row"
        )
        for name, users in hits.items()
    }
    baselines = [name for name in ("popular", "cooccurrence") if name in hits]
    return evaluate(
        systems, targets, split="test", num_items=40, ks=ks, baselines=baselines, samples=200
    )


HITS = {"popular": range(5), "cooccurrence": range(10), "generative": range(30)}


def test_baselines_come_last_and_the_best_is_the_highest() -> None:
    summary = Summary.of(measured(HITS))
    assert summary.systems == ("generative", "popular", "cooccurrence")
    assert summary.best_baseline == "cooccurrence"
    assert (summary.k, summary.ks, summary.users, summary.split) == (10, (5, 10), 40, "test")
    assert summary.row("popular", "recall")["value"] == 5 / 40
    assert summary.leader("ndcg") == 30 / 40
    assert summary.difference("generative", "ndcg")["value"] == 20 / 40
    assert summary.difference("generative", "mrr", baseline="popular")["value"] == 25 / 40
    assert summary.difference("cooccurrence", "ndcg") is None


def test_other_splits_and_other_cutoffs() -> None:
    metrics = measured(HITS, ks=(1, 5))
    valid = [row | {"split": "valid", "value": 9.0} for row in metrics["rows"]]
    summary = Summary.of(metrics | {"rows": valid + metrics["rows"]})
    assert summary.k == 5
    assert summary.leader("recall") == 30 / 40
    with pytest.raises(ValueError, match="no row of split 'train'"):
        Summary.of(metrics | {"split": "train"})


def test_rows_of_the_probes_are_no_cutoffs() -> None:
    metrics = measured(HITS)
    probed = {"metric": "unconstrained_invalid_rate", "k": 1, "value": 0.5}
    row = metrics["rows"][0] | probed
    summary = Summary.of(metrics | {"rows": metrics["rows"] + [row]})
    assert summary.ks == (5, 10)
    assert printed(metrics | {"rows": metrics["rows"] + [row]}) == printed(metrics)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.2, "above"), (-0.2, -0.1, "below"), (-0.1, 0.1, "level"), (0.0, 0.1, "level")],
)
def test_verdict(low: float, high: float, word: str) -> None:
    assert verdict({"low": low, "high": high}) == word


def printed(metrics: dict) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(metrics_table(metrics))
    return console.export_text()


def test_console_table_fits_80_columns_and_shows_all() -> None:
    text = printed(measured(HITS))
    for part in (
        "generative",
        "cooccurrence",
        "0.7500",
        "+0.5000",
        "40 users",
        "seen items masked",
    ):
        assert part in text
    assert "…" not in text
    assert "generative 92.5%" in text  # 30 of 40 users have one of ten places: 1 - 0.075
    lines = [line for line in text.splitlines() if line.startswith(" cooccurrence")]
    assert lines[0].rstrip().endswith("-")  # no difference to itself


def test_console_table_without_baselines() -> None:
    text = printed(measured({"generative": range(30)}))
    assert "vs" not in text
    assert "0.7500" in text
