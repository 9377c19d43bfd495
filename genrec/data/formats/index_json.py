"""LC-Rec's three files: `<name>.inter.json`, `<name>.item.json`, `<name>.index.json`.

As published at github.com/RUCAIBox/LC-Rec and taken over by LETTER, MiniOneRec and CollisionGenRec:
{"0": [0, 1, 2]}, {"0": {"title": ..., "description": ...}}, {"0": ["<a_1>", "<b_2>"]}. The split is
leave-last-out and is in no file; the order is, times are not. Further sets of SIDs are in index files of
their own, `<name>.index-1.json`, each in codes from 0: LC-Rec takes one by `--index_file .index-1.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from genrec.data import LastOut
from genrec.data.formats.bundle import (
    Bundle,
    Ints,
    read_ids,
    write_catalogue,
    write_ids,
    write_json,
)
from genrec.data.formats.interchange import read_catalogue, read_interchange
from genrec.schema import ITEMS, SPLITS, USERS
from genrec.sid.sets import further_files


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the three files and the owner's ids.

    Raises:
        ValueError: no SIDs, a split other than leave-last-out, or an id that cannot be written.
    """
    if not _is_last_out(bundle):
        raise ValueError(
            f"{bundle.name}: index-json has no place for a split, and its readers take leave-last-out, "
            "which this one is not. Export as minionerec, id2sid, recbole or rectools, or set "
            "prepare.split.kind=last_out"
        )
    test = bundle.test.sort("user").iter_rows()
    histories = {str(user): [*history, target] for user, history, target in test}
    write_json(folder / f"{bundle.name}.inter.json", histories)
    write_catalogue(folder, bundle)
    write_ids(folder, bundle)


def read(folder: Path, name: str) -> Bundle:
    """Reads the three files; the split is leave-last-out, `sids` None without an index.

    Without `<name>.item2id` and `<name>.user2id` the files' own names are the ids.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not of its shape, or a user has fewer than 3 items.
    """
    index = folder / f"{name}.index.json"
    catalogue, sids = read_catalogue(
        folder / f"{name}.item.json", index if index.is_file() else None
    )
    raw = read_interchange(folder / f"{name}.inter.json", folder / f"{name}.item.json")
    names = {what: read_ids(folder, name, what) or {} for what in ("item", "user")}
    users = raw.interactions["user_id"].unique(maintain_order=True)
    keys = {"user": users, "item": catalogue["item_id"]}
    dense = {
        what: pl.DataFrame({f"{what}_id": own, what: range(len(own))}) for what, own in keys.items()
    }
    log = raw.interactions
    for what, table in dense.items():
        log = log.join(table, on=f"{what}_id", maintain_order="left")
    log = log.sort("user", maintain_order=True).select(
        pl.col("user").cast(pl.Int32), pl.col("item").cast(pl.Int32), "timestamp"
    )
    if (shortest := int(log.group_by("user").len()["len"].to_numpy().min())) < 3:
        raise ValueError(
            f"{folder / f'{name}.inter.json'}: a user has {shortest} items; leave-last-out needs 3. "
            "Read it as a source, prepare.source.kind=interchange, which leaves such users out"
        )
    parts = LastOut().split(log)
    own = {what: [names[what].get(key, key) for key in keys[what]] for what in keys}
    items = catalogue.with_columns(
        item=pl.int_range(pl.len(), dtype=pl.Int32),
        item_id=pl.Series(own["item"], dtype=pl.String),
        image=pl.lit(None, dtype=pl.String),
    )
    rest = [c for c in catalogue.columns if c not in ITEMS]
    return Bundle(
        name,
        items.select(*ITEMS, *rest),
        pl.DataFrame({"user": range(len(users)), "user_id": own["user"]}, schema=dict(USERS)),
        parts.train,
        parts.valid,
        parts.test,
        interactions=parts.interactions,
        times="none",
        sids=None if sids is None else np.array(list(sids.values()), dtype=np.int32),
        further_sids=() if sids is None else tuple(_further(folder, name)),
    )


def _further(folder: Path, name: str) -> Iterator[Ints]:
    """Yields the SIDs of the sets after the first, as far as there are files of them."""
    for index in further_files(folder, f"{name}.index", "json"):
        _, sids = read_catalogue(folder / f"{name}.item.json", index)
        yield np.array(list((sids or {}).values()), dtype=np.int32)


def _is_last_out(bundle: Bundle) -> bool:
    """Says whether every user is in all parts, each with one item more than the part before."""
    whole = [
        getattr(bundle, part)
        .sort("user")
        .select("user", "history", whole=pl.concat_list("history", "target"))
        for part in SPLITS
    ]
    return all(
        after["user"].equals(before["user"])
        and after["history"].equals(before["whole"], check_names=False)
        for before, after in pairwise(whole)
    )
