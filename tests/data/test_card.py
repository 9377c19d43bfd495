"""The data card's numbers by hand, and its image."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec.data import LastOut, describe, plot_popularity
from genrec.schema import ITEMS, USERS

# User 0 has item 0 three times, user 1 items 1, 2, 3 (3 never in training).
LOG = [
    *((0, 0, 0), (0, 0, 10), (0, 1, 20), (0, 0, 1_600_000_000_000_000_120)),
    *((1, 1, 5), (1, 2, 6), (1, 3, 6)),
]


@pytest.fixture
def card() -> dict[str, object]:
    rows = [
        (0, "a", "ab", "", None),
        (1, "b", "abcd", "12", "b.jpg"),
        (2, "c", "ab", "1234", None),
        (3, "d", "ab", "", None),
        (4, "e", "ab", "", None),
    ]
    items = pl.DataFrame(rows, schema=ITEMS, orient="row")
    users = pl.DataFrame({"user": [0, 1], "user_id": ["u", "v"]}, schema=dict(USERS))
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64}
    parts = LastOut().split(pl.DataFrame(LOG, schema=schema, orient="row"))
    return describe(items, users, parts, kind="last_out", times="ns", dropped={"b": 1, "a": 2})


def test_numbers_by_hand(card: dict[str, object]) -> None:
    assert card["density"] == pytest.approx(7 / 10)
    assert card["repeats"] == pytest.approx(2 / 7)
    assert card["image_share"] == pytest.approx(1 / 5)
    assert card["valid_targets_unseen_in_train"] == 0.5  # item 2; item 1 is learned from user 1
    assert card["test_targets_unseen_in_train"] == 0.5
    assert card["test_targets_in_history"] == 0.5
    assert card["title_characters"] == {"median": 2.0, "p95": pytest.approx(3.6), "max": 4}
    assert card["description_characters"] == {"median": 3.0, "p95": pytest.approx(3.9), "max": 4}
    assert card["time"] == {
        "first": "1970-01-01T00:00:00+00:00",
        "last": "2020-09-13T12:26:40.00000012+00:00",
        "unit": "ns",
        "equal_neighbours": 1,
    }
    assert list(card["dropped"]) == ["a", "b"]  # type: ignore[call-overload]


def test_popularity_by_hand(card: dict[str, object]) -> None:
    popularity = card["popularity"]
    assert isinstance(popularity, dict)
    # Interactions 3, 2, 1, 1, 0: Gini (0 * -4 + 1 * -2 + 1 * 0 + 2 * 2 + 3 * 4) / (5 * 7).
    assert popularity["gini"] == pytest.approx(14 / 35)
    assert popularity["top_20_percent"] == pytest.approx(3 / 7)
    assert popularity["items_with_one_interaction"] == 2


def test_the_image_is_one_and_the_same(tmp_path: Path) -> None:
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64}
    log = LastOut().split(pl.DataFrame(LOG, schema=schema, orient="row")).interactions
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, items in zip(paths, (5, 5, 9), strict=True):
        plot_popularity(log, items, path)
    assert Image.open(paths[0]).size[0] > 600
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()
