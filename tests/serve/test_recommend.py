"""What a request gets is what the stages would give, with filters and wishes on top."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline, recipe
from genrec.bundle import LLM, Bundle
from genrec.pipeline import MissingArtifact
from genrec.serve.recommend import SEARCH, Ask, answer


def histories(pipeline: Pipeline, count: int = 12) -> list[tuple[int, ...]]:
    users = pipeline["prepare"].load("test.parquet").head(count)
    return [tuple(row) for row in users["history"].to_list()]


def test_the_list_of_a_test_user_is_that_of_the_stages(pipeline: Pipeline, shop: Bundle) -> None:
    users = pipeline["prepare"].load("test.parquet").head(12)["user"]
    asked = histories(pipeline)
    for system, key in ((None, "fuse"), (LLM, "recommend"), ("magnitude", "retrieve.magnitude")):
        lists = answer(shop, [Ask(history, 10, system=system) for history in asked])
        table = pipeline[key].load().filter(pl.col("rank") <= 10)
        for user, found in zip(users, lists, strict=True):
            own = table.filter(pl.col("user") == user)
            assert [one.item for one in found] == own["item"].to_list()[:10]
            np.testing.assert_allclose(
                [one.score for one in found], own["score"].to_list()[:10], rtol=1e-4, atol=1e-5
            )


def test_the_batch_does_not_matter(pipeline: Pipeline, shop: Bundle) -> None:
    allowed = np.arange(len(shop)) % 2 == 0
    first, *others = histories(pipeline)
    asks = [
        Ask(first, 5),
        Ask(others[0], 5, allowed=allowed),
        Ask(others[1], 5, keep_seen=True, exclude=(1, 2, 3)),
        Ask((), 5, text="a warm jacket"),
        Ask(others[2], 3, text="a warm jacket"),
        Ask(others[3], 7, system="popular"),
    ]
    together = answer(shop, asks)
    for ask, found in zip(asks, together, strict=True):
        (alone,) = answer(shop, [ask])
        assert [one.item for one in found] == [one.item for one in alone]
        assert len(found) == ask.k
    assert answer(shop, []) == []


def test_filters_hold_whatever_answers(pipeline: Pipeline, shop: Bundle) -> None:
    allowed = np.arange(len(shop)) % 3 == 0
    history = histories(pipeline)[0]
    for system in (None, *shop.systems, SEARCH):
        ask = Ask(history, 60, allowed=allowed, exclude=(0, 3), text="a tent", system=system)
        found = [one.item for one in answer(shop, [ask])[0]]
        assert len(found) == len(set(found)) > 5
        assert set(found) <= set(np.flatnonzero(allowed)) - {0, 3} - set(history)


def test_items_of_the_history_come_back_if_asked_for(pipeline: Pipeline, shop: Bundle) -> None:
    history = histories(pipeline)[0]
    seen = answer(shop, [Ask(history, 60, keep_seen=True, system="popular")])[0]
    assert set(history) <= {one.item for one in seen}


def test_places_say_who_listed_an_item(pipeline: Pipeline, shop: Bundle) -> None:
    history = histories(pipeline)[0]
    best = answer(shop, [Ask(history, 3)])[0][0]
    assert best.places
    for system, place in best.places.items():
        alone = answer(shop, [Ask(history, 60, system=system)])[0]
        assert alone[place - 1].item == best.item or system == LLM  # a tie shares its place


def test_a_title_finds_its_item(shop: Bundle) -> None:
    titles = shop.items["title"].to_list()
    lists = answer(shop, [Ask((), 10, text=title) for title in titles])
    hits = [row in [one.item for one in found] for row, found in enumerate(lists)]
    assert np.mean(hits) > 2 * 10 / len(titles)


def test_an_unknown_system(shop: Bundle) -> None:
    with pytest.raises(ValueError, match=r"system 'sasrec' is unknown; expected one of"):
        answer(shop, [Ask((1,), 5, system="sasrec")])


def test_what_was_not_built_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    other = Pipeline(recipe.load("demo", [f"runtime.store={tmp_path}"]), words=["demo"])
    with pytest.raises(MissingArtifact, match="genrec prepare demo"):
        other.bundle().open()
