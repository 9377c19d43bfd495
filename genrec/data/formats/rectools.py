"""RecTools' tables as parquet: interactions, flat item features, and the split in files of its own.

Column names are those of `rectools/columns.py` (github.com/MobileTeleSystems/RecTools): user_id,
item_id, weight, datetime; item features are flat rows of id, feature, value, what
`Dataset.construct(item_features_df=...)` takes. RecTools splits by itself, so split.parquet and
users.parquet are for those who want these very users, histories and targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from genrec.data.formats.bundle import Bundle, Ints
from genrec.data.source import Times
from genrec.schema import INTERACTIONS, ITEMS, SPLIT, SPLITS, USERS, check
from genrec.sid.codes import parse_token

_TIMES = "genrec.times"


def write(bundle: Bundle, folder: Path) -> None:
    """Writes interactions, item_features, split and users .parquet, with the owner's ids.

    `datetime` is the timestamp as UTC, in nanoseconds. Without times it stands for order alone:
    nanoseconds from 1970 on, and `genrec.times` in the file's metadata says so. Every attribute of
    an item that is not null is a feature, and so is each level of its SID (`sid_a`: `<a_12>`; of
    further sets of SIDs `sid-1_a`).

    Raises:
        ValueError: there are no interactions.
    """
    if bundle.interactions is None:
        raise ValueError(f"{bundle.name}: RecTools needs interactions with times")
    folder.mkdir(parents=True, exist_ok=True)
    items = bundle.items.select("item", "item_id")
    log = bundle.interactions.join(bundle.users, on="user", maintain_order="left").join(
        items, on="item", maintain_order="left"
    )
    log.select(
        "user_id",
        "item_id",
        weight=pl.lit(1.0),
        datetime=pl.col("timestamp").cast(pl.Datetime("ns")),
        split="split",
    ).write_parquet(folder / "interactions.parquet", metadata={_TIMES: bundle.times})
    _features(bundle).write_parquet(folder / "item_features.parquet")
    own = bundle.items["item_id"]
    parts = [
        getattr(bundle, part)
        .join(bundle.users, on="user", maintain_order="left")
        .select(
            "user_id",
            pl.lit(part).alias("split"),
            history=pl.col("history").list.eval(
                pl.element().replace_strict(bundle.items["item"], own, return_dtype=pl.String)
            ),
            target=pl.col("target").replace_strict(
                bundle.items["item"], own, return_dtype=pl.String
            ),
        )
        for part in SPLITS
    ]
    pl.concat(parts).write_parquet(folder / "split.parquet")
    bundle.users.select("user_id").write_parquet(folder / "users.parquet")


def _features(bundle: Bundle) -> pl.DataFrame:
    table = bundle.items.drop("item", "image")
    for number in range(len(bundle.sets)):
        levels = zip(*bundle.tokens(number), strict=True)
        table = table.with_columns(
            pl.Series(f"{_feature(number)}{tokens[0][1]}", tokens, dtype=pl.String)
            for tokens in levels
        )
    names = [name for name in table.columns if name != "item_id"]
    flat = table.with_columns(pl.col(names).cast(pl.String)).unpivot(
        on=names, index="item_id", variable_name="feature"
    )
    return flat.filter(pl.col("value").is_not_null()).select("feature", "value", id="item_id")


def read(folder: Path, name: str) -> Bundle:
    """Reads what `write` wrote.

    Of a foreign interactions.parquet alone use `prepare.source.kind=files`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a table has not the columns it should have.
    """
    log = _table(folder, "interactions", ("user_id", "item_id", "datetime", "split"))
    metadata = pl.read_parquet_metadata(folder / "interactions.parquet")
    flat = _table(folder, "item_features", ("id", "feature", "value"))
    parts = _table(folder, "split", ("user_id", "split", "history", "target"))
    users = _table(folder, "users", ("user_id",)).with_row_index("user")
    users = check(users.cast({"user": pl.Int32}), USERS, folder)
    items = _items(flat)
    sets = list(_sets(items))
    codes = [c for names, _ in sets for c in names]
    numbers = (items["item_id"], items["item"])
    dense = parts.join(users, on="user_id", maintain_order="left").with_columns(
        history=pl.col("history").list.eval(
            pl.element().replace_strict(*numbers, return_dtype=pl.Int32)
        ),
        target=pl.col("target").replace_strict(*numbers, return_dtype=pl.Int32),
    )
    tables = {p: dense.filter(pl.col("split") == p).select(list(SPLIT)) for p in SPLITS}
    interactions = log.join(users, on="user_id", maintain_order="left").select(
        "user",
        pl.col("item_id").replace_strict(*numbers, return_dtype=pl.Int32).alias("item"),
        pl.col("datetime").dt.epoch("ns").alias("timestamp"),
        "split",
    )
    return Bundle(
        name,
        items.drop(codes),
        users,
        tables["train"],
        tables["valid"],
        tables["test"],
        interactions=check(interactions, INTERACTIONS, folder),
        sids=sets[0][1] if sets else None,
        further_sids=tuple(sids for _, sids in sets[1:]),
        times=cast("Times", metadata.get(_TIMES, "ns")),
    )


def _feature(number: int) -> str:
    """Returns how the features of a set of SIDs begin: `sid_`, then `sid-1_`."""
    return f"sid-{number}_" if number else "sid_"


def _sets(items: pl.DataFrame) -> Iterator[tuple[list[str], Ints]]:
    """Yields the columns of each set of SIDs, and the SIDs."""
    for number in count():
        names = [c for c in items.columns if c.startswith(_feature(number))]
        if not names:
            return
        rows = items.select(names).iter_rows()
        yield names, np.array([[parse_token(t)[1] for t in row] for row in rows], dtype=np.int32)


def _items(flat: pl.DataFrame) -> pl.DataFrame:
    """Flat features as a catalogue; an item's row is where its first feature stands."""
    wide = flat.pivot(on="feature", index="id", values="value", maintain_order=True)
    items = wide.rename({"id": "item_id"}).with_columns(
        item=pl.int_range(pl.len(), dtype=pl.Int32), image=pl.lit(None, dtype=pl.String)
    )
    rest = [c for c in items.columns if c not in ITEMS]
    return check(items.select(*ITEMS, *rest), ITEMS, "item_features.parquet")


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected columns {list(columns)}")
    table = pl.read_parquet(path)
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{path}: no column {missing}; found {table.columns}")
    return table
