"""Files of other toolkits as a source: the log to be split anew, and the split that they bring."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec.data import formats
from genrec.data.formats.bundle import Bundle
from genrec.data.protocols import Parts
from genrec.data.settings import ExchangeSettings
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, GivenSplit, OnBad, RawData, Times
from genrec.progress import Progress, silent
from genrec.schema import INTERACTIONS, SPLITS


def read(
    settings: ExchangeSettings,
    *,
    folder: Path,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads what `settings` name; see `genrec.data.formats.read`. A `ReadSource`."""
    return as_raw(formats.read(settings.folder, settings.format, settings.name))


def as_raw(bundle: Bundle) -> RawData:
    """Returns catalogue, log and SIDs in the owner's ids, and the split that the bundle has.

    Where the files have no times, a timestamp is the place in what is known of a user.
    """
    log = _log(bundle)
    named = log.join(bundle.users, on="user", maintain_order="left").join(
        bundle.items.select("item", "item_id"), on="item", maintain_order="left"
    )
    attributes = [c for c in bundle.items.columns if c not in (*RAW_ITEMS, "item")]
    item_ids = bundle.items["item_id"]
    sets = [
        {item_id: tuple(sid) for item_id, sid in zip(item_ids, sids.tolist(), strict=True)}
        for sids in bundle.sets
    ]
    return RawData(
        bundle.items.select(*RAW_ITEMS, *attributes),
        named.select(list(RAW_INTERACTIONS)),
        sids=sets[0] if sets else None,
        further_sids=tuple(sets[1:]),
        times=_times(bundle),
        given=GivenSplit(
            bundle.name,
            bundle.items,
            bundle.users,
            Parts(log, bundle.train, bundle.valid, bundle.test),
        ),
    )


def _times(bundle: Bundle) -> Times:
    return "none" if bundle.interactions is None else bundle.times


def _log(bundle: Bundle) -> pl.DataFrame:
    """Returns the interactions; without them, what the parts say of each user, in order."""
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
