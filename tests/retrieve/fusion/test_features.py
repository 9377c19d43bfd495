"""What learned fusions look at, each number made again by hand."""

import numpy as np
import polars as pl
import pytest

from genrec import schema
from genrec.retrieve.fusion import features
from genrec.retrieve.fusion.candidates import candidates
from genrec.retrieve.fusion.features import Facts, blocks, facts_of, feature_names

POPULARITY = np.array([9, 5, 3, 2, 0])
TRAIN = pl.DataFrame(
    [(0, [0, 1], 2), (1, [0, 1], 0), (2, [3], 1)], schema=dict(schema.SPLIT), orient="row"
)
USERS = pl.DataFrame(
    [(7, [0, 1], 2), (3, [3], 4), (5, [], 0)], schema=dict(schema.SPLIT), orient="row"
)


def table(*rows: tuple[int, int, float, int]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(schema.RECOMMENDATIONS), orient="row")


TABLES = {
    "b": table((3, 4, 5, 1), (7, 2, 3, 1), (7, 3, 1, 2)),
    "a": table((5, 0, 1, 1), (7, 2, 4, 1), (7, 0, 2, 2), (7, 4, 0, 3)),
}


def by_name(facts: Facts, users: pl.DataFrame = USERS) -> dict[str, np.ndarray]:
    rows = candidates(TABLES)
    whole = np.concatenate([found for _, found in blocks(rows, users, POPULARITY, facts)])
    names = feature_names(rows.names, facts)
    assert whole.shape == (len(rows.item), len(names))
    assert whole.dtype == np.float32
    return dict(zip(names, whole.T, strict=True))


def test_of_the_lists_by_hand() -> None:
    """Rows: user 3 item 4; user 5 item 0; user 7 items 0, 2, 3, 4."""
    found = by_name(Facts())
    expected = {
        "score a": [0, 1, 0.5, 1, 0, 0],
        "score b": [1, 0, 0, 1, 0, 0],
        "1/rank a": [0, 1, 1 / 2, 1, 0, 1 / 3],
        "1/rank b": [1, 0, 0, 1, 1 / 2, 0],
        "sources": [1, 1, 1, 2, 1, 1],
        "best rank": [1, 1, 2, 1, 2, 3],
        "sum of 1/(1 + rank)": [1 / 2, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 4],
        "popularity": np.log1p([0, 9, 9, 3, 2, 0]),
        "history": np.log1p([1, 0, 2, 2, 2, 2]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    spread = np.std(
        [4, 2, 0]
    )  # of list a; item 2 is the best of b too, whose two are 2 deviations apart
    np.testing.assert_allclose(found["sum of z-scores"][3], (4 / spread + 1) + (2 + 1), rtol=1e-6)
    assert set(found) == {*expected, "sum of z-scores"}


def test_of_the_history_by_hand() -> None:
    """0 is followed by 1 twice, 1 by 2 and by 0, 3 by 1; user 7 has 0, then 1."""
    facts = facts_of(TRAIN, num_items=5)
    assert facts.follows is not None
    np.testing.assert_array_equal(
        facts.follows.toarray(),
        [[0, 2, 0, 0, 0], [1, 0, 1, 0, 0], [0] * 5, [0, 1, 0, 0, 0], [0] * 5],
    )
    found = by_name(facts)
    np.testing.assert_array_equal(found["follows the last item"], [0, 0, 1, 1, 0, 0])
    repeated = USERS.with_columns(pl.Series("history", [[1, 1], [3], []], pl.List(pl.Int32)))
    np.testing.assert_allclose(
        by_name(facts, repeated)["follows the history"], [0, 0, 1.7, 1.7, 0, 0]
    )


def test_nearness_by_hand() -> None:
    """Items 0 and 1 stand at right angles, item 2 between them, item 4 is unknown to the view."""
    view = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0], [0, 0]], np.float32)
    found = by_name(Facts(views={"text": view}))
    nan = np.nan  # user 5 has no history
    expected = {
        "last item": [0, nan, 0, 0.8, 0, 0],
        "mean of history": [0, nan, 0.5, 0.7, -0.5, 0],
        "nearest of history": [0, nan, 1, 0.8, 0, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[f"text: {name}"], values, atol=1e-6, err_msg=name)


def test_times_are_shares_of_the_training_interactions() -> None:
    """Four in training, at shares 1/8, 3/8, 5/8, 7/8; what is held out is not looked at."""
    log = pl.DataFrame(
        {
            "user": [0, 0, 0, 1, 1],
            "item": [0, 1, 2, 0, 3],
            "timestamp": [10, 20, 99, 30, 40],
            "split": ["train", "train", "test", "train", "train"],
        },
        schema=dict(schema.INTERACTIONS),
    )
    facts = facts_of(TRAIN, num_items=5, interactions=log)
    nan = np.nan
    expected = [[1 / 8, 5 / 8], [3 / 8, 3 / 8], [nan, nan], [7 / 8, 7 / 8], [nan, nan]]
    np.testing.assert_allclose(facts.seen, expected)
    found = by_name(facts)
    np.testing.assert_allclose(found["first seen"], [nan, 1 / 8, 1 / 8, nan, 7 / 8, nan])
    np.testing.assert_allclose(found["last seen"], [nan, 5 / 8, 5 / 8, nan, 7 / 8, nan])


@pytest.mark.parametrize(("name", "value"), [("_USERS", 1), ("_USERS", 2), ("_CELLS", 6)])
def test_blocks_do_not_change_a_number(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(TRAIN, num_items=5, views={"v": np.eye(5, dtype=np.float32)})
    whole = by_name(facts)
    monkeypatch.setattr(features, name, value)
    assert len(list(blocks(candidates(TABLES), USERS, POPULARITY, facts))) > 1
    parts = by_name(facts, USERS.reverse())
    for column, values in whole.items():
        np.testing.assert_array_equal(parts[column], values, err_msg=column)


def test_bad_calls_say_what_is_wrong() -> None:
    rows = candidates(TABLES)
    for users, popularity, message in (
        (USERS.head(1), POPULARITY, "user 3 has candidates, but no row"),
        (pl.concat([USERS, USERS]), POPULARITY, "stands twice"),
        (USERS, POPULARITY[:3], r"candidate item 4 is unknown; expected 0\.\.2"),
    ):
        with pytest.raises(ValueError, match=message):
            list(blocks(rows, users, popularity, Facts()))
