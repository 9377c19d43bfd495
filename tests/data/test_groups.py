"""Groups of choices: numbered like the tables, and in the demo what the truth says."""

import re
from pathlib import Path

import polars as pl
import pytest

from genrec.data import RawData, prepare
from genrec.data.source import RAW_GROUPS, RAW_INTERACTIONS, RAW_ITEMS
from genrec.demo import make_demo
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS
from genrec.schema import GROUPS

ITEMS = pl.DataFrame([(i, f"title {i}", "", None) for i in "abcd"], RAW_ITEMS, orient="row")
LOG = [("z", "b", 1), ("y", "a", 1), ("z", "c", 2), ("z", "a", 3), ("y", "b", 2), ("x", "a", 1)]
LOG += [("y", "d", 3)]


def raw(groups: list[tuple[str, str, str]] | None) -> RawData:
    log = pl.DataFrame(LOG, RAW_INTERACTIONS, orient="row")
    table = None if groups is None else pl.DataFrame(groups, RAW_GROUPS, orient="row")
    return RawData(ITEMS, log, groups=table)


def test_groups_get_the_numbers_of_users_and_items() -> None:
    groups = [
        ("y", "d", "late"),
        ("z", "c", "b"),
        ("z", "c", "a"),
        ("z", "c", "a"),
        ("x", "a", "a"),
    ]
    done = prepare(raw(groups), core=0)
    assert done.users["user_id"].to_list() == ["z", "y"]  # x is too short
    assert done.groups is not None
    assert done.groups.schema == GROUPS
    assert done.groups.rows() == [(0, 2, "a"), (0, 2, "b"), (1, 3, "late")]


def test_a_source_without_groups() -> None:
    assert prepare(raw(None), core=0).groups is None


def test_a_groups_table_that_does_not_fit() -> None:
    wrong = RawData(ITEMS, raw(None).interactions, groups=pl.DataFrame({"user_id": ["z"]}))
    with pytest.raises(ValueError, match="groups: column 'item_id' is missing"):
        prepare(wrong, core=0)


def test_hidden_means_that_no_word_tells_the_look(tmp_path: Path) -> None:
    raw = make_demo(tmp_path, items=120, users=150, image_size=32)
    assert raw.groups is not None
    choices, items = raw.truth["choices"], raw.truth["items"]
    by_group = {name: table for (name,), table in raw.groups.group_by("group")}
    for reason in ("category", "visual", "interest", "popular"):
        expected = choices.filter(reason=reason).select("user_id", "item_id")
        assert by_group[reason].select("user_id", "item_id").equals(expected)
    hidden, named = by_group["visual, hidden"], by_group["visual, named"]
    assert len(hidden) + len(named) == len(by_group["visual"])
    assert 0.15 < len(hidden) / len(by_group["visual"]) < 0.4  # 0.65 ** 3 of the products
    words = pl.concat_str("title", "description", separator=" ").str.to_lowercase()
    texts = dict(raw.items.select("item_id", words).iter_rows())
    truth = {row["item_id"]: row for row in items.iter_rows(named=True)}

    def words_told(item_id: str) -> int:
        row = truth[item_id]
        shapes = CATEGORIES[row["category"]].shapes
        words = (*COLOURS, *PATTERNS.values(), *shapes)
        return sum(bool(re.search(rf"\b{word}\b", texts[item_id])) for word in words)

    assert all(words_told(item_id) == 0 for item_id in hidden["item_id"])
    assert all(words_told(item_id) > 0 for item_id in named["item_id"])
