"""The arithmetic of an ablation's table by hand, and its words."""

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from genrec.ablate import console_tables
from genrec.ablate.show import markdown
from genrec.ablate.table import Measured, compare, holm, over_seeds, over_users, spread


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)))
    assert spread([0.5]) == (0.5, None)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_t_test_pairs_seeds() -> None:
    ours, theirs = [0.31, 0.42, 0.57], [0.30, 0.40, 0.53]
    gains = np.array([0.01, 0.02, 0.04])
    t = gains.mean() / (gains.std(ddof=1) / math.sqrt(3))
    assert over_seeds(ours, theirs) == pytest.approx(2 * stats.t.sf(t, df=2))
    assert over_seeds([0.5], [0.4]) is None
    assert over_seeds([0.5, 0.6], [0.4, 0.5]) is None  # the same gain twice: nothing to test with


def test_users_are_drawn_together() -> None:
    gains = np.random.default_rng(0).normal(size=(300, 1))
    mean, low, high = over_users(np.hstack([gains, 2 * gains]), samples=2000)
    assert mean == pytest.approx([gains.mean(), 2 * gains.mean()])
    assert (low[1], high[1]) == (pytest.approx(2 * low[0]), pytest.approx(2 * high[0]))
    wide = 1.96 * gains.std() / math.sqrt(300)
    assert high[0] - low[0] == pytest.approx(2 * wide, rel=0.1)


def run_of(variant: str, seed: int, hits: list[float], rate: float, data: str = "d") -> Measured:
    """Four users, of whom the first two are a group; the baseline hits the first alone."""
    systems = {
        name: {
            (group, metric): np.array(values[:users], dtype=float)
            for group, users in ((None, 4), ("some", 2))
            for metric in ("recall", "ndcg")
        }
        for name, values in (("generative", hits), ("popular", [1.0, 0.0, 0.0, 0.0]))
    }
    return Measured(variant, seed, data, rate, 10, systems)


RUNS = [
    run_of("full", 0, [1, 1, 1, 0], 0.10),
    run_of("full", 1, [1, 1, 0, 0], 0.20),
    run_of("text", 0, [0, 1, 0, 0], 0.30),
    run_of("text", 1, [0, 0, 0, 0], 0.30),
    run_of("one", 1, [1, 1, 1, 1], 0.20),
]
NAMES = {"full": "all of it", "text": "", "one": "", "never": ""}


def cells(table: dict[str, Any], row: str, metric: str, group: str | None = None) -> Any:
    (found,) = [r for r in table["rows"] if r["variant"] == row]
    chosen = [m for m in found["metrics"] if (m["metric"], m["group"]) == (metric, group)]
    return chosen[0] if chosen else None


def test_the_table_by_hand() -> None:
    table = compare(RUNS, variants=NAMES, reference="full", seeds=2, errors=[("one", 0, "broke")])
    assert [row["variant"] for row in table["rows"]] == [*NAMES, "popular"]
    full, text = (cells(table, name, "recall") for name in ("full", "text"))
    assert (full["mean"], full["users"], full["difference"]) == (0.625, 4, None)
    assert full["sd"] == pytest.approx(0.25 / math.sqrt(2), abs=1e-6)
    assert (text["mean"], text["k"]) == (0.125, 10)
    gain = text["difference"]
    assert (gain["value"], gain["seeds"]) == (-0.5, 2)
    # User by user, averaged over seeds: -1, -0.5, -0.5, 0. Both seeds lose 0.5: no t-test.
    assert -1 <= gain["low"] < -0.5 < gain["high"] <= 0
    assert gain["p"] is None
    group = cells(table, "text", "recall", "some")
    assert (group["users"], group["mean"], group["difference"]["value"]) == (2, 0.25, -0.75)
    # 'one' has seed 1 alone: it is compared with seed 1 of the reference.
    one = cells(table, "one", "recall")
    assert (one["mean"], one["sd"], one["difference"]["value"]) == (1.0, None, 0.5)
    assert one["difference"]["seeds"] == 1
    assert cells(table, "popular", "recall")["difference"]["value"] == 0.25 - 0.625
    assert cells(table, "never", "recall") is None
    rows = {row["variant"]: row for row in table["rows"]}
    assert (rows["one"]["seeds"], rows["one"]["errors"]) == ([1], [{"seed": 0, "error": "broke"}])
    assert rows["never"]["seeds"] == []


def test_collisions_are_compared_over_seeds() -> None:
    table = compare(RUNS, variants=NAMES, reference="full", seeds=2)
    rate = cells(table, "text", "collision_rate")
    assert (rate["mean"], rate["sd"]) == (0.3, 0.0)
    gain = rate["difference"]
    assert (gain["value"], gain["low"]) == (0.15, None)
    p = 2 * stats.t.sf(0.15 / (np.std([0.2, 0.1], ddof=1) / math.sqrt(2)), df=1)
    assert gain["p"] == pytest.approx(p, abs=1e-6)
    assert gain["p_holm"] == gain["p"]  # the only p-value of its column


def test_other_users_are_not_paired() -> None:
    runs = [*RUNS[:2], run_of("text", 0, [0, 0, 0, 0], 0.3, data="other")]
    table = compare(runs, variants=NAMES, reference="full", seeds=2)
    assert cells(table, "text", "recall")["mean"] == 0
    assert cells(table, "text", "recall")["difference"] is None


def test_without_the_reference_nothing_is_compared() -> None:
    table = compare(RUNS[2:], variants=NAMES, reference="full", seeds=2)
    assert cells(table, "text", "recall")["difference"] is None
    named = table | {"grid": "g", "recipe": "r", "description": ""}
    assert "There is no finished run of `full`" in markdown(named)


def test_nothing_finished_is_a_table_too() -> None:
    table = compare([], variants=NAMES, reference="full", seeds=2, errors=[("text", 1, "x | y")])
    text = markdown(table | {"grid": "g", "recipe": "r", "description": ""})
    assert "| text | none 1 failed |" in text
    assert "- text, seed 1: x | y" in text


def test_the_table_in_words() -> None:
    table = compare(RUNS, variants=NAMES, reference="full", seeds=2, errors=[("one", 0, "broke")])
    table |= {"grid": "g", "recipe": "r", "description": "What for."}
    text = markdown(table)
    assert "## all users (4 users)" in text
    assert "## some (2 users)" in text
    assert "| full | 2 | 0.6250 ±0.1768 |" in text
    assert "| one | 1 1 failed | 1.0000 | +0.5000 (" in text
    assert "| never | none |" in text
    assert "| popular baseline |  | 0.2500 | \N{MINUS SIGN}0.3750 (" in text
    assert "- `full`: all of it" in text
    assert "- one, seed 0: broke" in text
    assert "None" not in text
    out = Console(width=100, record=True, file=io.StringIO())
    for part in console_tables(table):
        out.print(part)
    assert "0.6250" in (shown := out.export_text())
    assert "by group of users" in " ".join(shown.split())
    assert "one, seed 0: broke" in shown
