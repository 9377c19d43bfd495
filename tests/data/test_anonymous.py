"""Hashed user ids: what is computed, what stays, and what is refused."""

import hashlib
import hmac

import polars as pl
import pytest

from genrec.data import RawData, hash_users, prepare
from genrec.data.source import RAW_GROUPS, RAW_INTERACTIONS, RAW_ITEMS

SALT = "0123456789abcdef"
LOG = [(u, i, t) for u in ("mary", "joe") for t, i in enumerate("abc", start=10)]


def raw() -> RawData:
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
    done, plain = hash_users(raw(), SALT), raw()
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
    one, two = (hash_users(raw(), salt).interactions["user_id"] for salt in (SALT, SALT + "x"))
    assert not set(one) & set(two)
    with pytest.raises(ValueError, match="salt is empty"):
        hash_users(raw(), "")
