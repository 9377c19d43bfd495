from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import schema
from genrec.evaluate import per_user
from genrec.retrieve.fusion import Fusion, methods as fusion
from genrec.retrieve.fusion.candidates import candidates, contributions, ndcg, with_targets
from genrec.retrieve.fusion.methods import LEVELS, fit_weights, kept, reciprocal_rank, weighted

Row = tuple[int, int, float, int]


def table(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(schema.RECOMMENDATIONS), orient="row")


def targets(*pairs: tuple[int, int]) -> pl.DataFrame:
    rows: list[tuple[int, list[int], int]] = [(user, [], target) for user, target in pairs]
    return pl.DataFrame(rows, schema=dict(schema.SPLIT), orient="row")


def items(fused: pl.DataFrame, user: int) -> list[int]:
    return fused.filter(user=user)["item"].to_list()


@st.composite
def tables(draw: st.DrawFn) -> dict[str, pl.DataFrame]:
    """Two or three sources, users 0..3, items 0..5; scores with ties, ranks that share them."""
    found = {}
    for name in ("a", "b", "c")[: draw(st.integers(2, 3))]:
        rows: list[Row] = []
        for user in range(4):
            scores = draw(st.dictionaries(st.integers(0, 5), st.integers(-3, 3), max_size=6))
            for item, score in scores.items():
                rank = 1 + sum(other > score for other in scores.values())
                rows.append((user, item, score / 2, rank))
        found[name] = table(*rows).sort("user", "rank", "item")
    return found


# --- the oracle: dictionaries, one user at a time ------------------------------------------------


def brute(sources: dict[str, pl.DataFrame], w: dict[str, float], method: str, k: int) -> list[Row]:
    rows: list[Row] = []
    for user in range(4):
        total: dict[int, float] = {}
        for name in sorted(sources):
            own = [r for r in sources[name].rows() if r[0] == user]
            scores = np.array([r[2] for r in own])
            for _, item, score, rank in own:
                if method == "reciprocal_rank":
                    tied = sum(r[3] == rank for r in own)
                    value = 1 / (60 + rank + (tied - 1) / 2)
                elif scores.max() == scores.min():
                    value = 1.0
                elif method == "minmax":
                    value = (score - scores.min()) / (scores.max() - scores.min())
                else:
                    value = (score - scores.min()) / scores.std() + 1
                if w[name]:
                    total[item] = total.get(item, 0.0) + w[name] * value
        share = {item: np.float32(v / sum(w.values())) for item, v in total.items()}
        best = sorted(share, key=lambda i: (-share[i], i))[:k]
        rows += [(user, item, float(share[item]), place + 1) for place, item in enumerate(best)]
    return rows


@settings(max_examples=80, deadline=None)
@given(
    tables(),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=3, max_size=3),
    st.sampled_from(["reciprocal_rank", "minmax", "zscore"]),
    st.integers(1, 7),
)
def test_fusions_are_brute_force(
    sources: dict[str, pl.DataFrame], levels: list[float], method: str, k: int
) -> None:
    weights = dict(zip(sources, levels, strict=False))
    if not any(weights.values()):
        weights["a"] = 1.0
    if method == "reciprocal_rank":
        found = reciprocal_rank(sources, weights, k=k)
        other = reciprocal_rank(dict(reversed(sources.items())), weights, k=k)
    else:
        found = weighted(sources, weights, k=k, normalise=method)  # type: ignore[arg-type]
        other = weighted(dict(reversed(sources.items())), weights, k=k, normalise=method)  # type: ignore[arg-type]
    schema.check(found, schema.RECOMMENDATIONS, "test")
    assert found.equals(other)
    expected = brute(sources, weights, method, 99)
    order = {(user, item): score for user, item, score, _ in expected}
    assert len(found) == sum(min(k, len([r for r in expected if r[0] == u])) for u in range(4))
    for user, item, score, _ in found.rows():
        assert score == pytest.approx(order[user, item], rel=1e-5, abs=1e-6)
    for user in range(4):  # equal up to the order of a sum: a near tie may stand either way
        own = found.filter(user=user)
        assert own["rank"].to_list() == list(range(1, len(own) + 1))
        keys = list(zip((-own["score"]).to_list(), own["item"].to_list(), strict=True))
        assert keys == sorted(keys)
        cut = [order[user, item] for item in items(found, user)]
        rest = [s for (u, i), s in order.items() if u == user and i not in items(found, user)]
        assert not cut or not rest or min(cut) >= max(rest) - 1e-5


def test_reciprocal_rank_by_hand() -> None:
    """rrf_k = 1. Item 7: 1/2 + 1/4 (place 3 of b); item 8: 1/3 + 1/2; item 9: 1/3 (place 2 of b)."""
    a = table((5, 7, 0.9, 1), (5, 8, 0.1, 2))
    b = table((5, 8, 3, 1), (5, 9, 2, 2), (5, 7, 1, 3))
    fused = reciprocal_rank({"a": a, "b": b}, k=2, rrf_k=1)
    assert fused.select("user", "item", "rank").rows() == [(5, 8, 1), (5, 7, 2)]
    expected = [(1 / 3 + 1 / 2) / 2, (1 / 2 + 1 / 4) / 2]  # weights sum to 1
    np.testing.assert_allclose(fused["score"], expected, rtol=1e-6)
    assert items(reciprocal_rank({"a": a, "b": b}, {"a": 0, "b": 1}, k=3), 5) == [8, 9, 7]
    assert items(reciprocal_rank({"a": a, "b": b}, {"a": 2, "b": 0}, k=3), 5) == [7, 8]


def test_a_tie_stands_at_its_mean_place_whatever_the_item_numbers() -> None:
    """Items 3 and 4 share a SID at rank 2: places 2 and 3, mean 2.5; then rank 4."""
    rows = candidates({"llm": table((0, 1, 3, 1), (0, 3, 2, 2), (0, 4, 2, 2), (0, 2, 1, 4))})
    assert rows.item.tolist() == [1, 2, 3, 4]
    assert rows.rank[:, 0].tolist() == [1, 4, 2.5, 2.5]
    fused = reciprocal_rank({"llm": table((0, 4, 2, 1), (0, 3, 2, 1))}, k=2)
    assert items(fused, 0) == [3, 4]


def test_users_and_items_of_one_source_alone_are_there() -> None:
    a, b = table((0, 1, 1, 1)), table((2, 5, 1, 1), (2, 6, 0, 2))
    fused = weighted({"a": a, "b": b}, k=9)
    assert fused.select("user", "item").rows() == [(0, 1), (2, 5), (2, 6)]
    empty = weighted({"a": a.head(0), "b": b.head(0)}, k=9)
    assert empty.schema == pl.Schema(dict(schema.RECOMMENDATIONS))


def test_normalised_scores_by_hand() -> None:
    rows = candidates(
        {
            "a": table((0, 1, 10, 1), (0, 2, 6, 2), (0, 3, 2, 3), (1, 1, 4, 1)),
            "b": table((0, 3, -1, 1), (0, 4, -2, 2)),
        }
    )
    assert list(zip(rows.user, rows.item, strict=True)) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1)]
    assert contributions(rows, "minmax").tolist() == [[1, 0], [0.5, 0], [0, 1], [0, 0], [1, 0]]
    std = (32 / 3) ** 0.5
    expected = [[8 / std + 1, 0], [4 / std + 1, 0], [1, 3], [0, 1], [1, 0]]
    np.testing.assert_allclose(contributions(rows, "zscore"), expected)


# --- weights --------------------------------------------------------------------------------------


def planted(seed: int, users: int = 60) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """`good` has the target at place 1 or 2 of 4, `noise` lists 4 wrong items."""
    rng = np.random.default_rng(seed)
    good: list[Row] = []
    noise: list[Row] = []
    wanted = []
    for user in range(users):
        first, wrong = rng.permutation(40)[:8].reshape(2, 4)
        wanted.append((user, int(first[rng.integers(2)])))
        good += [(user, int(i), 4.0 - n, n + 1) for n, i in enumerate(first)]
        noise += [(user, int(i), 4.0 - n, n + 1) for n, i in enumerate(wrong)]
    return {"good": table(*good), "noise": table(*noise)}, targets(*wanted)


@pytest.mark.parametrize("method", ["reciprocal_rank", "minmax", "zscore"])
def test_fitted_weights_trust_the_source_that_knows(method: str) -> None:
    sources, wanted = planted(0)
    weights = fit_weights(sources, wanted, method=method)  # type: ignore[arg-type]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["good"] > 2 * weights["noise"]
    assert weights == fit_weights(dict(reversed(sources.items())), wanted, method=method)  # type: ignore[arg-type]

    fresh, unseen = planted(1)
    found = with_targets(candidates(fresh), unseen)
    values = contributions(found.rows, method)  # type: ignore[arg-type]
    equal = ndcg(found, values @ np.ones(2), k=10)
    assert ndcg(found, values @ np.array(list(weights.values())), k=10) > 1.1 * equal


def test_coordinate_ascent_finds_the_best_point_of_a_small_grid() -> None:
    """Three sources: brute force over all levels of their weights finds nothing better."""
    rng = np.random.default_rng(3)
    sources = {}
    for name in "abc":
        rows: list[Row] = []
        for user in range(25):
            listed = rng.permutation(12)[:5]
            rows += [(user, int(i), 5.0 - n, n + 1) for n, i in enumerate(listed)]
        sources[name] = table(*rows)
    wanted = targets(*[(user, int(rng.integers(12))) for user in range(25)])
    found = with_targets(candidates(sources), wanted)
    values, present = contributions(found.rows, "minmax"), found.rows.present

    def measured(weights: Iterable[float]) -> float:
        levels = np.array(list(weights))
        listed = (present & (levels > 0)).any(axis=1)
        return ndcg(found, np.where(listed, values @ levels, -np.inf), k=3)

    grid = [w for w in itertools.product(LEVELS, repeat=3) if any(w)]
    best = max(measured(w) for w in grid)
    fitted = fit_weights(sources, wanted, method="minmax", k=3, restarts=10)
    assert measured(fitted.values()) >= 0.97 * best
    assert measured(fitted.values()) >= max(measured(w) for w in np.eye(3))


@settings(max_examples=30, deadline=None)
@given(
    tables(),
    st.lists(st.integers(0, 5), min_size=4, max_size=4),
    st.sampled_from(["reciprocal_rank", "minmax", "zscore"]),
)
def test_on_its_own_users_a_fitted_fusion_is_no_worse_than_a_source_alone(
    sources: dict[str, pl.DataFrame], wanted: list[int], method: Any
) -> None:
    """Measured on the tables, by the metrics that stand in the report."""
    users = targets(*enumerate(wanted))
    if not any(
        len(t.join(users, left_on=["user", "item"], right_on=["user", "target"]))
        for t in sources.values()
    ):
        with pytest.raises(ValueError, match="no source lists"):
            fit_weights(sources, users, method=method, k=3)
        return

    def measured(weights: dict[str, float]) -> float:
        fused = Fusion(method=method, weights=weights).fit(sources, users, popularity=[1] * 6)
        table = fused.fuse(sources, users, k=6)
        gain = float(per_user(table, users, num_items=6, ks=(3,))["ndcg@3"].mean())  # type: ignore[arg-type]
        score = fusion._combined(values, found.rows.present, np.array(list(weights.values())))
        assert gain == pytest.approx(ndcg(found, score, k=3))  # what the fit looks at
        return gain

    found = with_targets(candidates(sources), users)
    values = contributions(found.rows, method)
    best = max(measured({n: float(n == name) for n in sources}) for name in sources)
    assert measured(fit_weights(sources, users, method=method, k=3)) >= best - 1e-9


def test_a_source_of_weight_0_gives_no_candidates_while_fitting_either() -> None:
    """Only b has the target, as its last item: with a at 1, it stands last whatever b weighs.

    Items of b at weight 0, were they still listed, would follow item number: place 2.
    """
    a = table((0, 5, 1, 1))
    b = table((0, 7, 3, 1), (0, 6, 2, 2), (0, 0, 1, 3))
    found = with_targets(candidates({"a": a, "b": b}), targets((0, 0)))
    values, gain = contributions(found.rows, "reciprocal_rank"), 1 / np.log2(1 + 4)
    assert ndcg(found, values @ np.ones(2), k=10) == pytest.approx(gain)
    level, kept_gain = fusion._best_level(found, values, np.ones(2), 1, gain=gain, k=10)
    assert (level, kept_gain) == (1, gain)
    assert fit_weights({"a": a, "b": b}, targets((0, 0)), restarts=0) == {"a": 0, "b": 1}


def test_ndcg_is_that_of_the_fused_table() -> None:
    """The measure inside the fit and the table it leads to agree: 1 / log2(1 + rank) up to k."""
    sources, wanted = planted(2)
    found = with_targets(candidates(sources), wanted)
    fused = reciprocal_rank(sources, {"good": 1, "noise": 1.01}, k=3)
    rank = wanted.join(fused, left_on=["user", "target"], right_on=["user", "item"])["rank"]
    expected = (1 / np.log2(1 + rank.to_numpy())).sum() / len(wanted)
    values = contributions(found.rows, "reciprocal_rank") @ np.array([1, 1.01])
    assert ndcg(found, values, k=3) == pytest.approx(expected)
    assert 0 < expected < 1


# --- what is kept ---------------------------------------------------------------------------------


def test_kept_by_hand() -> None:
    """k = 2. User 0: a alone hits, kept. 1: b alone, lost. 2: both, kept. 3: both, lost.

    User 4: nobody in the top 2 (a has it on place 3), the fusion has it: gained. User 5: none.
    """
    a = table((0, 10, 2, 1), (2, 12, 2, 1), (3, 13, 2, 2), (4, 14, 1, 3))
    b = table((1, 11, 2, 2), (2, 12, 2, 2), (3, 13, 2, 1))
    fused = table((0, 10, 2, 2), (1, 11, 2, 3), (2, 12, 2, 1), (4, 14, 2, 1))
    wanted = targets(*[(user, 10 + user) for user in range(6)])
    assert kept({"a": a, "b": b}, fused, wanted, k=2) == {
        "k": 2,
        "users": 6,
        "sources": {
            "a": {"hits": 3, "unique": 1, "kept": 1, "lost": 0},
            "b": {"hits": 3, "unique": 1, "kept": 0, "lost": 1},
        },
        "shared": {"hits": 2, "kept": 1, "lost": 1},
        "gained": 1,
        "fused": 3,
    }


def test_a_tie_over_the_cut_off_is_a_hit_by_chance() -> None:
    """A tie of 4 on places 2..5, k = 3: two of its four places count, chance 1/2."""
    tied = table((0, 9, 3, 1), *[(0, item, 2, 2) for item in (1, 2, 3, 4)])
    sure = table((0, 3, 1, 1))
    found = kept({"llm": tied, "other": sure}, sure, targets((0, 3)), k=3)
    assert found["sources"]["llm"] == {"hits": 0.5, "unique": 0, "kept": 0, "lost": 0}
    assert found["sources"]["other"] == {"hits": 1, "unique": 0.5, "kept": 0.5, "lost": 0}
    assert found["shared"] == {"hits": 0.5, "kept": 0.5, "lost": 0}


@settings(max_examples=40, deadline=None)
@given(tables(), st.lists(st.integers(0, 5), min_size=4, max_size=4), st.integers(1, 5))
def test_every_fused_hit_is_private_shared_or_gained(
    sources: dict[str, pl.DataFrame], wanted: list[int], k: int
) -> None:
    fused = reciprocal_rank(sources, k=k)
    found = kept(sources, fused, targets(*enumerate(wanted)), k=k)
    parts = [s["kept"] for s in found["sources"].values()]
    whole = sum(parts) + found["shared"]["kept"] + found["gained"]
    assert whole == pytest.approx(found["fused"], abs=1e-5)
    for s in found["sources"].values():
        assert s["kept"] + s["lost"] == pytest.approx(s["unique"], abs=1e-5)
        assert s["unique"] <= s["hits"] + 1e-6
