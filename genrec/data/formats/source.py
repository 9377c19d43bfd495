"""A bundle as a source: its log to be split anew, or the split that it brings."""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec.data import Prepared, RawData, describe
from genrec.data.formats.bundle import Bundle, Ints
from genrec.data.protocols import Parts
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, Times
from genrec.schema import INTERACTIONS, SPLITS


def as_raw(bundle: Bundle) -> RawData:
    """Returns catalogue, log and SIDs in the owner's ids; the split is left behind.

    Where the files have no times, a timestamp is the place in what is known of a user.
    """
    log = _log(bundle)
    named = log.join(bundle.users, on="user", maintain_order="left").join(
        bundle.items.select("item", "item_id"), on="item", maintain_order="left"
    )
    attributes = [c for c in bundle.items.columns if c not in (*RAW_ITEMS, "item")]
    sids = None
    if bundle.sids is not None:
        pairs = zip(bundle.items["item_id"], bundle.sids.tolist(), strict=True)
        sids = {item_id: tuple(sid) for item_id, sid in pairs}
    return RawData(
        bundle.items.select(*RAW_ITEMS, *attributes),
        named.select(list(RAW_INTERACTIONS)),
        sids=sids,
        times=_times(bundle),
    )


def as_prepared(bundle: Bundle, raw: RawData) -> Prepared:
    """Returns the bundle's own split as the prepare stage writes it, numbers unchanged.

    It is taken as it is: whether it leaks, whoever made it has to know. What can be said of it, such as
    targets that stand in their own history, is in the stats.

    Args:
        bundle: what was read.
        raw: `as_raw` of it, user ids perhaps hashed since.

    Raises:
        ValueError: a part is empty.
    """
    log = _log(bundle)
    for part in SPLITS:
        if getattr(bundle, part).is_empty():
            raise ValueError(
                f"{bundle.name}: the given split has no {part} row; choose another split"
            )
    own = raw.interactions.select("user_id").with_columns(user=log["user"]).unique("user")
    users = bundle.users.rename({"user_id": "old"}).join(own, on="user", how="left").sort("user")
    # A user of whom nothing is known has no row to take the new name from, and is in no part either.
    kept = users.filter(pl.col("user_id").is_not_null()).select("user", "user_id")
    if len(kept) < len(users):
        raise ValueError(
            f"{bundle.name}: {len(users) - len(kept)} users stand in no part; expected each in one"
        )
    parts = Parts(log, bundle.train, bundle.valid, bundle.test)
    return Prepared(
        bundle.items,
        kept,
        log,
        bundle.train,
        bundle.valid,
        bundle.test,
        sids=_int32(bundle.sids),
        groups=None,
        stats=describe(
            bundle.items,
            kept,
            parts,
            kind="given",
            times=_times(bundle),
            dropped={},
        ),
    )


def _int32(sids: Ints | None) -> Ints | None:
    return None if sids is None else sids.astype(np.int32)


def _times(bundle: Bundle) -> Times:
    return "none" if bundle.interactions is None else bundle.times


def _log(bundle: Bundle) -> pl.DataFrame:
    """Returns the interactions; without them, what the parts tell of each user, in order."""
    if bundle.interactions is not None:
        return bundle.interactions
    known: dict[int, list[tuple[int, str]]] = {}
    for part in SPLITS:
        for user, history, target in getattr(bundle, part).iter_rows():
            rows = known.setdefault(user, [])
            before = [item for item, _ in rows]
            # Histories that were cut, or leave something out, do not go on from what is known.
            goes_on = history[: len(before)] == before
            rows += [(item, part) for item in (history[len(before) :] if goes_on else ())]
            rows.append((target, part))
    flat = [
        (user, item, place, part)
        for user, rows in sorted(known.items())
        for place, (item, part) in enumerate(rows)
    ]
    return pl.DataFrame(flat, schema=dict(INTERACTIONS), orient="row")
