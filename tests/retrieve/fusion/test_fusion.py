"""Fusions that are asked for what they cannot do: each says what is wrong, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec import schema
from genrec.retrieve.fusion import Fusion
from genrec.retrieve.fusion.methods import fit_weights, kept, reciprocal_rank, weighted


def table(*rows: tuple[int | None, int | None, float, int | None]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(schema.RECOMMENDATIONS), orient="row")


def targets(*pairs: tuple[int, int]) -> pl.DataFrame:
    rows: list[tuple[int, list[int], int]] = [(user, [], target) for user, target in pairs]
    return pl.DataFrame(rows, schema=dict(schema.SPLIT), orient="row")


GOOD = table((0, 1, 1, 1))
TWICE = table((0, 1, 1, 1), (0, 1, 1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reciprocal_rank({}, k=1), "no sources"),
        (lambda: reciprocal_rank({"a": GOOD}, k=0), "k is 0"),
        (lambda: reciprocal_rank({"a": GOOD}, k=1, rrf_k=-1), "rrf_k of 0"),
        (lambda: reciprocal_rank({"a": GOOD}, {"b": 1}, k=1), "name .'b'., but the sources"),
        (lambda: reciprocal_rank({"a": GOOD}, {"a": 0}, k=1), "one above 0"),
        (lambda: reciprocal_rank({"a": GOOD}, {"a": -1}, k=1), "0 or more"),
        (lambda: weighted({"a": GOOD}, k=1, normalise="max"), "expected one of"),  # type: ignore[arg-type]
        (lambda: weighted({"a": pl.concat([GOOD, GOOD])}, k=1), "a: user 0 has item 1 twice"),
        (lambda: weighted({"a": table((0, 1, float("nan"), 1))}, k=1), "a: user 0, item 1 .*nan"),
        (lambda: weighted({"a": table((0, 1, 1, 0))}, k=1), "rank 0"),
        (lambda: weighted({"a": table((0, 1, 1, None))}, k=1), "rank None"),
        (lambda: weighted({"a": table((0, None, 1, 1))}, k=1), "item None"),
        (lambda: weighted({"a": table((0, -1, 1, 1))}, k=1), "item -1"),
        (lambda: reciprocal_rank({"a": GOOD}, k=1, rrf_k=float("nan")), "rrf_k=nan"),
        (lambda: reciprocal_rank({"a": GOOD}, k=1, rrf_k=float("inf")), "rrf_k=inf"),
        (lambda: weighted({"a": GOOD.drop("rank")}, k=1), "a: column 'rank' is missing"),
        (lambda: fit_weights({"a": GOOD}, targets((0, 2))), "no source lists the target"),
        (lambda: fit_weights({"a": GOOD}, targets((0, 1), (0, 2))), "stands twice"),
        (lambda: fit_weights({"a": GOOD}, targets((0, 1)), k=0), "k is 0"),
        (lambda: fit_weights({"a": GOOD}, targets((0, 1)), restarts=-1), "restarts -1"),
        (lambda: kept({"a": GOOD}, GOOD, targets((0, 1)), k=0), "k is 0"),
        (lambda: kept({"a": TWICE}, TWICE, targets((0, 1)), k=2), "a: user 0 has item 1 twice"),
        (lambda: kept({"a": GOOD}, TWICE, targets((0, 1)), k=2), "fused: user 0 has item 1 twice"),
        (lambda: Fusion(method="max"), "method is 'max'"),
        (lambda: Fusion(method="gate", weights={"a": 1}), "gate learns its own"),
        (lambda: Fusion(weights={"a": -1}), r"weights\.a is -1"),
        (lambda: Fusion(rrf_k=float("inf")), "rrf_k is inf"),
    ],
)
def test_bad_calls_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"b": 1}, "the sources are .'a'."), ({"a": 0}, "one above 0")],
)
def test_given_weights_are_looked_at_when_fitting(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fusion(weights=weights).fit({"a": GOOD}, targets((0, 1)), popularity=[1, 1])


@pytest.mark.parametrize("method", ["zscore", "gate"])
def test_a_fit_that_failed_leaves_nothing_to_save(method: Any, tmp_path: Path) -> None:
    fusion = Fusion(method=method)
    with pytest.raises(ValueError, match="no source lists"):
        fusion.fit({"a": GOOD}, targets((0, 2)), popularity=[1, 1, 1])
    with pytest.raises(ValueError, match="not fitted"):
        fusion.save(tmp_path)


def test_a_fusion_that_cannot_be_used(tmp_path: Path) -> None:
    for use in (lambda: Fusion().sources, lambda: Fusion().save(tmp_path)):
        with pytest.raises(ValueError, match="not fitted"):
            use()
    with pytest.raises(FileNotFoundError, match=r"fusion\.json"):
        Fusion.load(tmp_path)
    (tmp_path / "fusion.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        Fusion.load(tmp_path)


def test_former_names_of_settings_warn() -> None:
    with pytest.warns(DeprecationWarning, match="'k0' is now called 'rrf_k'"):
        assert Fusion(method="reciprocal_rank", k0=7).settings.rrf_k == 7
    with pytest.warns(DeprecationWarning, match="'strength' is now called 'C'"):
        assert Fusion(strength=2.0).settings.C == 2.0
    with pytest.raises(ValueError, match="one field"), pytest.warns(DeprecationWarning, match="k0"):
        Fusion(k0=7, rrf_k=8)
