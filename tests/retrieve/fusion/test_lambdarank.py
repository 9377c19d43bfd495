from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec import schema
from genrec.retrieve.fusion import Fusion, lambdarank
from genrec.retrieve.fusion.features import Facts, facts_of
from genrec.retrieve.fusion.lambdarank import LambdaRank
from genrec.retrieve.fusion.methods import fit_weights, kept, weighted

pytest.importorskip("lightgbm", reason="in the extra `fuse`")

NUM_ITEMS = 60
POPULARITY = np.ones(NUM_ITEMS, dtype=np.int64)
VIEW = np.random.default_rng(9).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
VIEW /= np.linalg.norm(VIEW, axis=1, keepdims=True)
FACTS = Facts(views={"text": VIEW})
Tables = dict[str, pl.DataFrame]


def planted(seed: int, users: int = 400) -> tuple[Tables, pl.DataFrame]:
    """The target is the candidate whose vector is nearest to the last item's: no list tells it.

    Both sources list eight items in a random order; where they overlap says nothing either.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[int, int, float, int]]] = {"behaviour": [], "text": []}
    split = []
    for user in range(users):
        last, *others = rng.permutation(NUM_ITEMS).tolist()
        lists = {name: others[8 * n : 8 * n + 8] for n, name in enumerate(rows)}
        for name, listed in lists.items():
            rows[name] += [(user, item, 8.0 - n, n + 1) for n, item in enumerate(listed)]
        listed = [item for each in lists.values() for item in each]
        split.append((user, [3, last], listed[int(np.argmax(VIEW[listed] @ VIEW[last]))]))
    tables = {
        name: pl.DataFrame(r, schema=dict(schema.RECOMMENDATIONS), orient="row")
        for name, r in rows.items()
    }
    return tables, pl.DataFrame(split, schema=dict(schema.SPLIT), orient="row")


def first_is_right(fused: pl.DataFrame, split: pl.DataFrame) -> float:
    best = fused.filter(rank=1).join(split, on="user")
    return float((best["item"] == best["target"]).sum()) / len(split)


@pytest.fixture(scope="module")
def trees() -> LambdaRank:
    return LambdaRank().fit(*planted(0), popularity=POPULARITY, facts=FACTS)


def test_it_finds_what_no_list_says(trees: LambdaRank) -> None:
    fresh, unseen = planted(1)
    fused = trees.fuse(fresh, unseen, k=5)
    schema.check(fused, schema.RECOMMENDATIONS, "test")
    assert first_is_right(fused, unseen) > 0.8
    weights = fit_weights(*planted(0), method="zscore")
    vote = weighted(fresh, weights, k=5, normalise="zscore")
    assert first_is_right(vote, unseen) < 0.3
    importances = trees.weights()
    assert sum(importances.values()) == pytest.approx(1)
    assert max(importances, key=importances.__getitem__) == "text: last item"


def test_it_keeps_private_hits_that_a_vote_loses(trees: LambdaRank) -> None:
    fresh, unseen = planted(1)
    weights = fit_weights(*planted(0), method="zscore")
    lost = [
        sum(s["lost"] for s in kept(fresh, fused, unseen, k=5)["sources"].values())
        for fused in (
            trees.fuse(fresh, unseen, k=5),
            weighted(fresh, weights, k=5, normalise="zscore"),
        )
    ]
    assert lost[0] < lost[1] / 5


def test_where_users_are_too_few_for_a_tree_the_equal_vote_decides() -> None:
    tables, split = planted(0, users=9)
    found = LambdaRank().fit(tables, split, popularity=POPULARITY)
    assert found.booster_.lower_bound() == found.booster_.upper_bound()
    fresh, unseen = planted(1)
    fused, vote = found.fuse(fresh, unseen, k=9), weighted(fresh, k=9, normalise="zscore")
    assert fused.select("user", "item", "rank").equals(vote.select("user", "item", "rank"))


def test_without_facts_the_lists_alone_are_ranked() -> None:
    """The first of `behaviour` is always right."""
    tables, split = planted(0)
    best = tables["behaviour"].filter(rank=1)
    split = split.select("user", "history", target=best["item"])
    found = LambdaRank().fit(tables, split, popularity=POPULARITY)
    fresh, unseen = planted(1)
    unseen = unseen.with_columns(target=fresh["behaviour"].filter(rank=1)["item"])
    assert first_is_right(found.fuse(fresh, unseen, k=5), unseen) > 0.99
    assert not any("text:" in name or "follows" in name for name in found.weights())


def test_targets_are_not_looked_at_when_fusing(trees: LambdaRank) -> None:
    fresh, unseen = planted(1)
    other = unseen.with_columns(target=pl.lit(0, pl.Int32))
    fused = trees.fuse(fresh, unseen, k=3)
    assert fused.equals(trees.fuse(fresh, other, k=3))
    reverse = dict(reversed(fresh.items()))
    assert fused.equals(trees.fuse(reverse, unseen.select("user", "history"), k=3))


def test_a_users_list_does_not_depend_on_who_else_is_asked(trees: LambdaRank) -> None:
    fresh, unseen = planted(1)
    alone = {name: t.filter(user=7) for name, t in fresh.items()}
    assert (
        trees.fuse(fresh, unseen, k=9)
        .filter(user=7)
        .equals(trees.fuse(alone, unseen.filter(user=7), k=9))
    )


def test_saved_and_loaded_it_ranks_the_same(trees: LambdaRank, tmp_path: Path) -> None:
    train = pl.DataFrame([(0, [5, 6], 7)], schema=dict(schema.SPLIT), orient="row")
    seen = np.linspace(0, 1, 2 * NUM_ITEMS, dtype=np.float32).reshape(-1, 2)
    facts = facts_of(train, num_items=NUM_ITEMS, views=FACTS.views)._replace(seen=seen)
    fresh, unseen = planted(1)
    for name, found in {
        "views": trees,
        "all": LambdaRank(trees=9).fit(*planted(0), popularity=POPULARITY, facts=facts),
        "none": LambdaRank(trees=9).fit(*planted(0), popularity=POPULARITY),
    }.items():
        found.save(tmp_path / name)
        loaded = LambdaRank.load(tmp_path / name, views={**FACTS.views, "image": VIEW})
        assert loaded.fuse(fresh, unseen, k=5).equals(found.fuse(fresh, unseen, k=5))
        assert loaded.weights() == pytest.approx(found.weights())
        assert (loaded.settings.trees, loaded.seed) == (found.settings.trees, found.seed)


def test_the_same_seed_gives_the_same_trees(trees: LambdaRank) -> None:
    again = LambdaRank().fit(*planted(0), popularity=POPULARITY, facts=FACTS)
    assert again.booster_.model_to_string() == trees.booster_.model_to_string()
    other = LambdaRank(seed=1).fit(*planted(0), popularity=POPULARITY, facts=FACTS)
    assert other.booster_.model_to_string() != trees.booster_.model_to_string()


def test_the_pool_bounds_what_is_learned_from_and_what_the_trees_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(lambdarank._TREES, "bagging_fraction", 1.0)
    tables, split = planted(0)
    found = LambdaRank(pool=3).fit(tables, split, popularity=POPULARITY, facts=FACTS)
    first = pl.concat([t.filter(pl.col("rank") <= 3) for t in tables.values()])
    hits = split.join(first, left_on=["user", "target"], right_on=["user", "item"], how="semi")
    counts = found.booster_.trees_to_dataframe()["count"]
    assert counts.max() == 6 * len(hits)  # a target beyond it teaches nothing
    fresh, unseen = planted(1)
    fused = found.fuse(fresh, unseen, k=16).sort("user", "rank")
    place = pl.concat(fresh.values()).select("user", "item", place="rank")
    places = fused.join(place, on=["user", "item"], maintain_order="left")["place"].to_numpy()
    assert (places.reshape(-1, 16)[:, :6] <= 3).all()
    assert (places.reshape(-1, 16)[:, 6:] == np.repeat([4, 5, 6, 7, 8], 2)).all()
    in_pool = unseen.join(
        pl.concat([t.filter(pl.col("rank") <= 3) for t in fresh.values()]),
        left_on=["user", "target"],
        right_on=["user", "item"],
        how="semi",
    )
    assert first_is_right(fused, in_pool) > 0.8


def test_damaged_files_and_missing_views(trees: LambdaRank, tmp_path: Path) -> None:
    trees.save(tmp_path)
    with pytest.raises(ValueError, match=r"fitted with the views \['text'\]"):
        LambdaRank.load(tmp_path)
    (tmp_path / "trees.txt").write_text("no trees\n")
    with pytest.raises(ValueError, match=r"trees\.txt: damaged"):
        LambdaRank.load(tmp_path, views=FACTS.views)
    (tmp_path / "trees.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"trees\.txt"):
        LambdaRank.load(tmp_path, views=FACTS.views)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, t, u: LambdaRank().fuse(t, u, k=1), "not fitted"),
        (lambda g, t, u: LambdaRank().save("anywhere"), "not fitted"),
        (lambda g, t, u: LambdaRank(leaves=1), "leaves is 1"),
        (lambda g, t, u: g.fuse({"text": t["text"]}, u, k=1), "fitted on sources"),
        (lambda g, t, u: g.fuse(t, u.head(3), k=1), "no row with a history"),
        (lambda g, t, u: g.fuse(t, u, k=0), "k is 0"),
        (lambda g, t, u: LambdaRank().fit(t, u, popularity=-POPULARITY), "popularity"),
        (
            lambda g, t, u: LambdaRank().fit(
                t, u.with_columns(target=pl.lit(99, pl.Int32)), popularity=POPULARITY
            ),
            "no source lists the target",
        ),
        (
            lambda g, t, u: LambdaRank().fit(
                {"text": t["text"].filter(rank=1)},
                u.with_columns(target=t["text"].filter(rank=1)["item"]),
                popularity=POPULARITY,
            ),
            "nothing to tell apart",
        ),
    ],
)
def test_bad_calls_say_what_is_wrong(
    trees: LambdaRank, call: Callable[[LambdaRank, Tables, pl.DataFrame], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(trees, *planted(1, users=9))


def test_lightgbm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"needs lightgbm; run: pip install .*\[fuse\]"):
        LambdaRank()


def test_as_a_fusion_it_is_saved_with_its_settings(tmp_path: Path) -> None:
    options: dict[str, Any] = {"popularity": POPULARITY, "facts": FACTS}
    fresh, unseen = planted(1)
    fusion = Fusion(method="lambdarank", trees=20).fit(*planted(0), **options)
    fusion.save(tmp_path)
    loaded = Fusion.load(tmp_path, views=FACTS.views)
    assert loaded.fuse(fresh, unseen, k=4).equals(fusion.fuse(fresh, unseen, k=4))
    assert loaded.summary() == fusion.summary()
    assert set(fusion.summary()) == {"method", "sources", "importances"}
