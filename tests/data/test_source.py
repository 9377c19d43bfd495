"""What every source shares: rows that are judged, and user ids that are hashed."""

from __future__ import annotations

import hashlib
import hmac

import polars as pl
import pytest

from genrec.data import RawData, hash_users, prepare
from genrec.data.source import RAW_GROUPS, RAW_INTERACTIONS, RAW_ITEMS, BadRows, clean


def items(*rows: tuple[str | None, str | None, str | None]) -> pl.DataFrame:
    return pl.DataFrame([(*row, None) for row in rows], schema=RAW_ITEMS, orient="row")


def log(*rows: tuple[str | None, str | None, int | None]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=RAW_INTERACTIONS, orient="row")


GOOD_ITEMS = items(("a", "Lamp", "warm"), ("b", "Mug", None))
GOOD_LOG = log(("u", "a", 1), ("u", "b", 2))


def cleaned(
    i: pl.DataFrame, x: pl.DataFrame, on_bad: str = "error"
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    bad_rows = BadRows(on_bad)  # type: ignore[arg-type]
    i, x = clean(i, x, bad_rows, items_from="shop.csv", interactions_from="clicks.csv")
    return i, x, bad_rows.dropped


def test_good_rows_pass_and_a_missing_description_is_empty() -> None:
    i, x, dropped = cleaned(GOOD_ITEMS, GOOD_LOG)
    assert i["description"].to_list() == ["warm", ""]
    assert x.equals(GOOD_LOG)
    assert dropped == {}


BAD_ITEMS = [
    (("a", "Again", ""), "repeated_item_id", "item_id 'a'", "Keep one row per item"),
    (("c", "  ", ""), "empty_title", "item_id 'c'", "Fill in the title"),
    (("c", None, ""), "empty_title", "item_id 'c'", "Fill in the title"),
    ((None, "Ghost", ""), "item_without_id", "title 'Ghost'", "Give the item an id"),
]
BAD_LOG = [
    (("v", "zz", 3), "unknown_item", "user_id 'v', item_id 'zz'", "Add the item"),
    (("", "a", 3), "interaction_without_user_id", "item_id 'a'", "Fill in the user_id"),
    (("v", None, 3), "interaction_without_item_id", "user_id 'v'", "Fill in the item_id"),
    (("v", "a", None), "interaction_without_timestamp", "user_id 'v'", "Fill in the timestamp"),
]


@pytest.mark.parametrize(("row", "reason", "named", "fix"), BAD_ITEMS)
def test_bad_item(row: tuple, reason: str, named: str, fix: str) -> None:
    bad = pl.concat([GOOD_ITEMS, items(row)])
    with pytest.raises(ValueError, match=r"shop\.csv") as error:
        cleaned(bad, GOOD_LOG)
    assert named in str(error.value)
    assert fix in str(error.value)
    assert "prepare.on_bad=drop" in str(error.value)
    i, x, dropped = cleaned(bad, GOOD_LOG, "drop")
    assert i["title"].to_list() == ["Lamp", "Mug"]
    assert len(x) == 2
    assert dropped == {reason: 1}


@pytest.mark.parametrize(("row", "reason", "named", "fix"), BAD_LOG)
def test_bad_interaction(row: tuple, reason: str, named: str, fix: str) -> None:
    bad = pl.concat([GOOD_LOG, log(row)])
    with pytest.raises(ValueError, match=r"clicks\.csv") as error:
        cleaned(GOOD_ITEMS, bad)
    assert named in str(error.value)
    assert fix in str(error.value)
    assert "prepare.on_bad=drop" in str(error.value)
    _, x, dropped = cleaned(GOOD_ITEMS, bad, "drop")
    assert x.equals(GOOD_LOG)
    assert dropped == {reason: 1}


def test_interactions_with_a_dropped_item_go_with_it() -> None:
    bad = pl.concat([GOOD_ITEMS, items(("c", "", "no title"))])
    _, x, dropped = cleaned(bad, pl.concat([GOOD_LOG, log(("v", "c", 1))]), "drop")
    assert len(x) == 2
    assert dropped == {"empty_title": 1, "unknown_item": 1}


def test_nothing_left_is_an_error_even_when_dropping() -> None:
    with pytest.raises(ValueError, match=r"clicks\.csv: no usable rows \(dropped: .*unknown_item"):
        cleaned(GOOD_ITEMS, log(("u", "x", 1)), "drop")
    with pytest.raises(ValueError, match=r"shop\.csv: no usable rows; expected at least one"):
        cleaned(GOOD_ITEMS.clear(), GOOD_LOG.clear())


def test_on_bad_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match=r"prepare.on_bad: found 'ignore', expected one of"):
        BadRows("ignore")  # type: ignore[arg-type]


SALT = "0123456789abcdef"
LOG = [(u, i, t) for u in ("mary", "joe") for t, i in enumerate("abc", start=10)]


def two_users() -> RawData:
    items = [(i, f"title {i}", "", None) for i in "abc"]
    return RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(LOG, schema=RAW_INTERACTIONS, orient="row"),
        groups=pl.DataFrame([("joe", "c", "g")], schema=RAW_GROUPS, orient="row"),
        truth={
            "choices": pl.DataFrame({"user_id": ["joe"]}),
            "items": pl.DataFrame({"item_id": ["a"]}),
        },
    )


def test_ids_are_hmacs_everywhere_and_nothing_else_changes() -> None:
    done, plain = hash_users(two_users(), SALT), two_users()
    joe = hmac.new(SALT.encode(), b"joe", hashlib.sha256).hexdigest()
    assert len(joe) == 64
    assert done.groups is not None
    assert done.groups["user_id"].to_list() == [joe]
    assert done.truth["choices"]["user_id"].to_list() == [joe]
    assert done.truth["items"].equals(plain.truth["items"])
    assert done.interactions.drop("user_id").equals(plain.interactions.drop("user_id"))
    assert done.interactions["user_id"].to_list()[3:] == [joe] * 3
    first, second = prepare(done, core=0), prepare(plain, core=0)
    assert first.test.equals(second.test)
    assert first.users["user_id"].to_list()[1] == joe


def test_another_salt_is_another_hash_and_none_is_refused() -> None:
    first, second = (
        hash_users(two_users(), salt).interactions["user_id"] for salt in (SALT, SALT + "x")
    )
    assert not set(first) & set(second)
    with pytest.raises(ValueError, match="salt is empty"):
        hash_users(two_users(), "")
