"""Salted hashes instead of user ids, so that no artifact holds the owner's.

HMAC-SHA256 (RFC 2104): without the salt nobody can try ids until one fits. It hides names, not habits:
a history that somebody knows can still be recognised.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import polars as pl

from genrec.data.source import RawData


def hashed(ids: pl.Series, salt: str) -> pl.Series:
    """Returns the HMAC-SHA256 of each id, 64 hex digits.

    Raises:
        ValueError: the salt is empty.
    """
    if not salt:
        raise ValueError("prepare.hash_users.salt is empty; anybody could compute such hashes")
    key = salt.encode()
    digests = [hmac.new(key, own.encode(), hashlib.sha256).hexdigest() for own in ids]
    return pl.Series(ids.name, digests, dtype=pl.String)


def hash_users(raw: RawData, salt: str) -> RawData:
    """Returns the same data with every user id as 64 hex digits; order and rows stay.

    Args:
        raw: any source's data; its log, groups, truth and the given split's users are rewritten.
        salt: the secret; the same salt and id give the same digits.

    Raises:
        ValueError: the salt is empty.
    """
    tables = [raw.interactions, *raw.truth.values()]
    tables += [raw.groups] if raw.groups is not None else []
    tables += [raw.given.users] if raw.given is not None else []
    known = (
        pl.concat([t["user_id"] for t in tables if "user_id" in t.columns]).unique().drop_nulls()
    )
    new = pl.col("user_id").replace_strict(known, hashed(known, salt))

    def rewritten(table: pl.DataFrame) -> pl.DataFrame:
        return table.with_columns(new) if "user_id" in table.columns else table

    return replace(
        raw,
        interactions=rewritten(raw.interactions),
        groups=None if raw.groups is None else rewritten(raw.groups),
        truth={name: rewritten(table) for name, table in raw.truth.items()},
        given=None if raw.given is None else replace(raw.given, users=rewritten(raw.given.users)),
    )
