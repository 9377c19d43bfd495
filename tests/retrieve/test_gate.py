from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec import schema
from genrec.retrieve.fusion.gate import Gate
from genrec.retrieve.fusion.methods import fit_weights, reciprocal_rank, weighted

NUM_ITEMS = 40
POPULARITY = np.where(np.arange(NUM_ITEMS) < 20, 50, 1)  # items 0..19 are popular
Tables = dict[str, pl.DataFrame]


def planted(seed: int, users: int = 150) -> tuple[Tables, pl.DataFrame]:
    """Users with long histories want what `behaviour` says, those with short ones what `text` says.

    No weights for all users can tell them apart: both sources list four items, and the target is
    always the first of the right one.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int, float, int]]] = {"behaviour": [], "text": []}
    split = []
    for user in range(users):
        long = bool(rng.integers(2))
        picked = rng.permutation(NUM_ITEMS).reshape(2, -1)
        for (name, found), listed in zip(rows.items(), picked, strict=True):
            found += [(user, int(i), 4.0 - n, n + 1) for n, i in enumerate(listed[:4])]
            if (name == "behaviour") == long:
                target = int(listed[0])
        split.append((user, [0] * (30 if long else 2), target))
    tables = {
        name: pl.DataFrame(r, schema=dict(schema.RECOMMENDATIONS), orient="row")
        for name, r in rows.items()
    }
    return tables, pl.DataFrame(split, schema=dict(schema.SPLIT), orient="row")


def first_is_right(fused: pl.DataFrame, split: pl.DataFrame) -> float:
    best = fused.filter(rank=1).join(split, on="user")
    return float((best["item"] == best["target"]).sum()) / len(split)


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate().fit(*planted(0), popularity=POPULARITY)


def test_it_learns_whom_to_trust_where_weights_cannot(gate: Gate) -> None:
    fresh, unseen = planted(1)
    fused = gate.fuse(fresh, unseen, k=5)
    schema.check(fused, schema.RECOMMENDATIONS, "test")
    assert first_is_right(fused, unseen) > 0.95
    weights = fit_weights(*planted(0), method="minmax")
    assert first_is_right(weighted(fresh, weights, k=5), unseen) < 0.7
    assert first_is_right(reciprocal_rank(fresh, k=5), unseen) < 0.7


def test_popularity_opens_and_shuts_a_source() -> None:
    """`behaviour` is right about popular items only, `text` about the rest only."""
    rng = np.random.default_rng(5)

    def made(users: int) -> tuple[Tables, pl.DataFrame]:
        rows: dict[str, list[tuple[int, int, float, int]]] = {"behaviour": [], "text": []}
        split = []
        for user in range(users):
            popular, rare = rng.permutation(20)[:2], 20 + rng.permutation(20)[:2]
            right = bool(rng.integers(2))
            rows["behaviour"] += [(user, int(popular[0] if right else rare[0]), 1.0, 1)]
            rows["text"] += [(user, int(popular[1] if right else rare[1]), 1.0, 1)]
            split.append((user, [0], int(popular[0] if right else rare[1])))
        tables = {
            name: pl.DataFrame(r, schema=dict(schema.RECOMMENDATIONS), orient="row")
            for name, r in rows.items()
        }
        return tables, pl.DataFrame(split, schema=dict(schema.SPLIT), orient="row")

    found = Gate().fit(*made(100), popularity=POPULARITY)
    fresh, unseen = made(100)
    assert first_is_right(found.fuse(fresh, unseen, k=2), unseen) == 1
    assert found.weights()["listed behaviour x popularity"] > 0.1
    assert found.weights()["listed text x popularity"] < -0.1


def test_targets_are_not_looked_at_when_fusing(gate: Gate) -> None:
    fresh, unseen = planted(1)
    other = unseen.with_columns(target=pl.lit(0, pl.Int32))
    assert gate.fuse(fresh, unseen, k=3).equals(gate.fuse(fresh, other, k=3))
    assert gate.fuse(fresh, unseen, k=3).equals(
        gate.fuse(dict(reversed(fresh.items())), unseen.select("user", "history"), k=3)
    )


def test_saved_and_loaded_it_ranks_the_same(gate: Gate, tmp_path: Path) -> None:
    gate.save(tmp_path / "a")
    loaded = Gate.load(tmp_path / "a")
    fresh, unseen = planted(1)
    assert loaded.fuse(fresh, unseen, k=5).equals(gate.fuse(fresh, unseen, k=5))
    assert loaded.weights() == gate.weights()
    loaded.save(tmp_path / "b")
    for name in ("retriever.json", "arrays.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again = Gate().fit(*planted(0), popularity=POPULARITY)
    np.testing.assert_array_equal(again.coefficients_, gate.coefficients_)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, t, u: Gate().fuse(t, u, k=1), "not fitted"),
        (lambda g, t, u: Gate().save("anywhere"), "not fitted"),
        (lambda g, t, u: Gate(strength=0), "strength is 0"),
        (lambda g, t, u: g.fuse({"text": t["text"]}, u, k=1), "fitted on sources"),
        (lambda g, t, u: g.fuse(t, u.head(3), k=1), "no row with a history"),
        (lambda g, t, u: g.fuse(t, u, k=0), "k is 0"),
        (lambda g, t, u: Gate().fit(t, u, popularity=[1, 2]), r"expected 0\.\.1"),
        (
            lambda g, t, u: Gate().fit(
                {"text": t["text"]},
                u.with_columns(target=pl.lit(99, pl.Int32)),
                popularity=POPULARITY,
            ),
            "no source lists the target",
        ),
    ],
)
def test_bad_calls_say_what_is_wrong(
    gate: Gate, call: Callable[[Gate, Tables, pl.DataFrame], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(gate, *planted(1, users=9))


def test_few_negatives_teach_it_as_well() -> None:
    """Seven others of each user's eight candidates are all; three of them are enough."""
    tables, split = planted(0)
    few = Gate(negatives=3, seed=1).fit(tables, split, popularity=POPULARITY)
    fresh, unseen = planted(1)
    assert first_is_right(few.fuse(fresh, unseen, k=5), unseen) > 0.95
    again = Gate(negatives=3, seed=2).fit(tables, split, popularity=POPULARITY)
    assert (few.coefficients_ != again.coefficients_).any()  # others were drawn
    every = [Gate(negatives=n).fit(tables, split, popularity=POPULARITY) for n in (7, 100)]
    np.testing.assert_array_equal(every[0].coefficients_, every[1].coefficients_)
