from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

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
        (lambda g, t, u: Gate(C=0), "C is 0"),
        (lambda g, t, u: g.fuse({"text": t["text"]}, u, k=1), "fitted on sources"),
        (lambda g, t, u: g.fuse(t, u.head(3), k=1), "no row with a history"),
        (lambda g, t, u: g.fuse(t, u, k=0), "k is 0"),
        (lambda g, t, u: g.fuse(t, pl.concat([u, u]), k=1), "stands twice"),
        (lambda g, t, u: Gate().fit(t, u, popularity=[1, 2]), r"expected 0\.\.1"),
        (lambda g, t, u: Gate().fit(t, u, popularity=-POPULARITY), "popularity"),
        (lambda g, t, u: Gate().fit(t, u, popularity=POPULARITY * np.nan), "popularity"),
        (lambda g, t, u: Gate().fit(t, u, popularity=POPULARITY[:, None]), "popularity"),
        (lambda g, t, u: Gate().fit(*only_targets(t, u), popularity=POPULARITY), "nothing to tell"),
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


def only_targets(tables: Tables, split: pl.DataFrame) -> tuple[Tables, pl.DataFrame]:
    """One class alone: every candidate is its user's target."""
    wanted = split.rename({"target": "item"}).select("user", "item")
    return {n: t.join(wanted, on=["user", "item"], how="semi") for n, t in tables.items()}, split


def test_a_source_that_lists_nothing_and_a_single_user() -> None:
    """User 0 wants what `text` puts first; `silent` has no list for anyone."""
    tables, split = planted(0, users=1)
    tables["silent"] = tables["text"].clear()
    gate = Gate().fit(tables, split, popularity=POPULARITY)
    assert all(gate.weights()[f"{what} silent"] == 0 for what in ("score", "1/rank", "listed"))
    fused = gate.fuse(tables, split, k=20)
    assert sorted(fused["item"]) == sorted(
        tables["text"]["item"].append(tables["behaviour"]["item"])
    )
    assert first_is_right(fused, split) == 1
    nobody = {name: table.clear() for name, table in tables.items()}
    assert gate.fuse(nobody, split, k=5).is_empty()


def test_scores_are_those_of_the_features_by_hand() -> None:
    """Features and standardisation one candidate at a time, scikit-learn's weights on top."""
    tables, split = planted(3, users=12)
    tables["text"] = tables["text"].with_columns(
        rank=pl.lit(1, pl.Int32)
    )  # a tie of four: place 2.5
    rows = [
        (user, item)
        for user, item in sorted(
            {r[:2] for t in tables.values() for r in t.select("user", "item").rows()}
        )
    ]
    history = {user: len(h) for user, h, _ in split.rows()}
    names = ["behaviour", "text"]

    def of(user: int, item: int) -> tuple[list[float], list[float]]:
        listed = [tables[n].filter(user=user, item=item) for n in names]
        own = [tables[n].filter(user=user)["score"] for n in names]
        spans = zip(listed, own, strict=True)
        score = [
            (t["score"][0] - s.min()) / (s.max() - s.min()) if len(t) else 0.0 for t, s in spans
        ]
        place = [
            0.0 if t.is_empty() else 1 / (t["rank"][0] + 1.5 * (n == "text"))
            for t, n in zip(listed, names, strict=True)
        ]
        there = [float(len(t)) for t in listed]
        return [*score, *place, *there], [np.log1p(POPULARITY[item]), np.log1p(history[user])]

    sources, context = (np.array(x) for x in zip(*(of(*row) for row in rows), strict=True))
    level = (context - context.mean(0)) / context.std(0)
    crossed = [sources * level[:, [0]], sources * level[:, [1]]]
    whole = np.hstack([sources, *crossed, sources[:, 4:].sum(1, keepdims=True), context])
    spread = np.where(whole.std(0) > 0, whole.std(0), 1)
    scaled = (whole - whole.mean(0)) / spread
    label = [dict(split.select("user", "target").rows())[user] == item for user, item in rows]
    model = LogisticRegression(C=1.0, max_iter=2000).fit(scaled, label)
    expected = dict(zip(rows, scaled @ model.coef_[0], strict=True))

    gate = Gate().fit(tables, split, popularity=POPULARITY)
    assert gate.names_ == ("behaviour", "text")
    fused = gate.fuse(tables, split, k=99)
    assert len(fused) == len(rows)
    for user, item, score, _ in fused.rows():
        assert score == pytest.approx(expected[user, item], abs=1e-3)


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
