"""What a request gets is what the stages would give, with filters and queries on top; influences."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline, recipe
from genrec.bundle import LLM, Bundle
from genrec.pipeline import MissingArtifact
from genrec.recommendations import MAX_INFLUENCES, SEARCH, ListRequest, influence, recommend


def histories(pipeline: Pipeline, count: int = 12) -> list[tuple[int, ...]]:
    users = pipeline["prepare"].load("test.parquet").head(count)
    return [tuple(row) for row in users["history"].to_list()]


def test_the_list_of_a_test_user_is_that_of_the_stages(pipeline: Pipeline, bundle: Bundle) -> None:
    users = pipeline["prepare"].load("test.parquet").head(12)["user"]
    requested = histories(pipeline)
    for system, key in ((None, "fuse"), (LLM, "recommend"), ("magnitude", "retrieve.magnitude")):
        lists = recommend(
            bundle, [ListRequest(history, 10, system=system) for history in requested]
        )
        table = pipeline[key].load().filter(pl.col("rank") <= 10)
        for user, listed in zip(users, lists, strict=True):
            own = table.filter(pl.col("user") == user)
            assert [entry.item for entry in listed] == own["item"].to_list()[:10]
            np.testing.assert_allclose(
                [entry.score for entry in listed], own["score"].to_list()[:10], rtol=1e-4, atol=1e-5
            )


def test_the_batch_does_not_matter(pipeline: Pipeline, bundle: Bundle) -> None:
    allowed = np.arange(len(bundle)) % 2 == 0
    first, *others = histories(pipeline)
    requests = [
        ListRequest(first, 5),
        ListRequest(others[0], 5, allowed=allowed),
        ListRequest(others[1], 5, keep_seen=True, exclude=(1, 2, 3)),
        ListRequest((), 5, text="a warm jacket"),
        ListRequest(others[2], 3, text="a warm jacket"),
        ListRequest(others[3], 7, system="popular"),
    ]
    together = recommend(bundle, requests)
    for request, listed in zip(requests, together, strict=True):
        (alone,) = recommend(bundle, [request])
        assert [entry.item for entry in listed] == [entry.item for entry in alone]
        assert len(listed) == request.k
    assert recommend(bundle, []) == []


def test_filters_hold_whatever_answers(pipeline: Pipeline, bundle: Bundle) -> None:
    allowed = np.arange(len(bundle)) % 3 == 0
    history = histories(pipeline)[0]
    for system in (None, *bundle.systems, SEARCH):
        request = ListRequest(
            history, 60, allowed=allowed, exclude=(0, 3), text="a tent", system=system
        )
        listed = [entry.item for entry in recommend(bundle, [request])[0]]
        assert len(listed) == len(set(listed)) > 5
        assert set(listed) <= set(np.flatnonzero(allowed)) - {0, 3} - set(history)


def test_items_of_the_history_come_back_if_asked_for(pipeline: Pipeline, bundle: Bundle) -> None:
    history = histories(pipeline)[0]
    seen = recommend(bundle, [ListRequest(history, 60, keep_seen=True, system="popular")])[0]
    assert set(history) <= {entry.item for entry in seen}


def test_places_say_who_listed_an_item(pipeline: Pipeline, bundle: Bundle) -> None:
    history = histories(pipeline)[0]
    best = recommend(bundle, [ListRequest(history, 3)])[0][0]
    assert best.ranks
    for system, place in best.ranks.items():
        alone = recommend(bundle, [ListRequest(history, 60, system=system)])[0]
        assert alone[place - 1].item == best.item or system == LLM  # a tie shares its place


def test_a_title_finds_its_item(bundle: Bundle) -> None:
    titles = bundle.items["title"].to_list()
    lists = recommend(bundle, [ListRequest((), 10, text=title) for title in titles])
    hits = [row in [entry.item for entry in listed] for row, listed in enumerate(lists)]
    assert np.mean(hits) > 2 * 10 / len(titles)


def test_an_unknown_system(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match=r"system 'sasrec' is unknown; expected one of"):
        recommend(bundle, [ListRequest((1,), 5, system="sasrec")])


def test_what_was_not_built_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    other = Pipeline(recipe.load("demo", [f"runtime.store={tmp_path}"]), words=["demo"])
    with pytest.raises(MissingArtifact, match="genrec prepare demo"):
        other.bundle().open()


def log_probability(bundle: Bundle, history: list[int], item: int) -> float:
    """Of one item, by a search that may write nothing else."""
    assert bundle.llm is not None
    lists = bundle.llm.recommend([bundle.prompt(history)], k=1, num_beams=60, allowed=[[item]])
    assert lists.items[0, 0] == item
    return float(lists.scores[0, 0])


def test_it_is_what_the_log_probability_loses(bundle: Bundle) -> None:
    history, items = [3, 17, 29, 3], [40, 5, 11]
    influences = influence(bundle, history, items)
    assert influences is not None
    for item, ratios in zip(items, influences, strict=True):
        whole = log_probability(bundle, history, item)
        assert list(ratios) == [3, 17, 29]  # a repeated item is left out as one
        for other, ratio in ratios.items():
            without = log_probability(bundle, [seen for seen in history if seen != other], item)
            assert ratio == pytest.approx(whole - without, abs=1e-4)


def test_items_that_share_a_sid_share_their_influence(bundle: Bundle) -> None:
    twin = np.array(bundle.sids_by_set[0])
    assert bundle.llm is not None
    _, first, counts = np.unique(twin, axis=0, return_index=True, return_counts=True)
    for item in first[counts > 1][:2]:
        twins = np.flatnonzero((twin == twin[item]).all(axis=1)).tolist()
        influences = influence(bundle, [1, 2], twins)
        assert influences is not None
        for other in influences[1:]:
            assert other == pytest.approx(influences[0], abs=1e-6)


def test_the_newest_of_a_long_history(bundle: Bundle) -> None:
    history = list(range(30))
    (influences,) = influence(bundle, history, [45]) or []
    assert list(influences) == history[-MAX_INFLUENCES:]


def test_where_there_is_nothing_to_say(bundle: Bundle) -> None:
    assert influence(bundle, [], [1, 2]) == [{}, {}]
    assert influence(bundle, [1], []) == []
    assert influence(bundle.replace(llm=None), [1], [2]) is None


def test_the_owners_ids(pipeline: Pipeline, bundle: Bundle) -> None:
    users = list(bundle.histories)[:3]
    table = pipeline.recommend(users, k=4, why=True)
    assert table["user_id"].unique(maintain_order=True).to_list() == users
    assert table["rank"].to_list() == [1, 2, 3, 4] * 3
    requests = [ListRequest(tuple(bundle.histories[user]), 4) for user in users]
    expected = [entry for listed in recommend(bundle, requests) for entry in listed]
    assert [bundle.rows[item] for item in table["item_id"]] == [entry.item for entry in expected]
    assert table["score"].to_list() == [entry.score for entry in expected]
    titles = dict(bundle.items.select("item_id", "title").iter_rows())
    for row, entry in zip(table.iter_rows(named=True), expected, strict=True):
        assert row["title"] == titles[row["item_id"]]
        assert {each["system"]: each["rank"] for each in row["systems"]} == entry.ranks
        history = {bundle.items["item_id"][n] for n in bundle.histories[row["user_id"]]}
        assert {each["item_id"] for each in row["because"]} <= history
        assert all(each["log_ratio"] > 0 for each in row["because"])


def test_histories_allowed_and_seen_items_by_id(pipeline: Pipeline, bundle: Bundle) -> None:
    ids = bundle.items["item_id"].to_list()
    history, allowed = ids[3:6], ids[:20]
    table = pipeline.recommend(histories={"me": history}, k=30, allowed=allowed)
    assert set(table["user_id"]) == {"me"}
    assert set(table["item_id"]) == set(allowed) - set(history)
    again = pipeline.recommend(
        histories={"me": history}, k=60, filter_seen=False, system="popular", allowed=allowed
    )
    assert set(history) <= set(again["item_id"])
    assert pipeline.recommend([]).is_empty()
    assert len(pipeline.recommend(k=1)) == len(bundle.histories)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"users": ["nobody"]}, "no user has the id 'nobody'; ids look like 'u0"),
        ({"histories": {"me": ["p0001", "x"]}}, "no item has the id 'x'; ids look like 'p0"),
        ({"users": [], "histories": {}}, "two ways to ask"),
        ({"k": 0}, "k is 0"),
        ({"system": "oracle"}, "system 'oracle' is unknown"),
    ],
)
def test_what_cannot_be_recommended(
    pipeline: Pipeline, options: dict[str, object], problem: str
) -> None:
    with pytest.raises((KeyError, ValueError), match=problem):
        pipeline.recommend(**options)  # type: ignore[arg-type]
