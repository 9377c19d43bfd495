"""RecBole's atomic files: `.inter`, `.item`, and pre-split `.train/.valid/.test.inter`.

recbole.io/docs/user_guide/data/atomic_files.html: tab-separated, the header names each column
`field:type` with types token, token_seq, float. The pre-split files are for
`benchmark_filename: [train, valid, test]` of sequential models, whose histories stand in
`item_id_list:token_seq` (data_settings.html; `alias_of_item_id: [item_id_list]`). Reading them back is a
source: `prepare.source.kind=recbole`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec.exchange.bundle import Bundle
from genrec.schema import SPLITS


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the files, with the owner's ids: RecBole numbers them itself.

    `<name>.inter` holds every interaction with its time and part (`split:token`, which RecBole leaves
    alone). The pre-split files hold one row per question, of training one per step; a training
    sequence of one item is in `.inter` alone, for RecBole's models need a history. SIDs
    stand in `<name>.item` as `sid:token_seq`, where there are any.

    Raises:
        ValueError: an id has white space in it, or there are no interactions.
    """
    log = bundle.interactions
    if log is None:
        raise ValueError(f"{bundle.name}: RecBole's .inter needs interactions with times")
    for what, table in (("item", bundle.items), ("user", bundle.users)):
        ids = table[f"{what}_id"]
        if len(broken := ids.filter(ids.str.contains(r"\s"))):
            raise ValueError(
                f"{what}_id {broken[0]!r} has white space in it, which separates ids in RecBole's files "
                f"({len(broken)} in all); rename such ids in the source"
            )
    folder.mkdir(parents=True, exist_ok=True)
    named = log.join(bundle.users, on="user", maintain_order="left").join(
        bundle.items.select("item", "item_id"), on="item", maintain_order="left"
    )
    inter = named.select(
        pl.col("user_id").alias("user_id:token"),
        pl.col("item_id").alias("item_id:token"),
        pl.col("timestamp").alias("timestamp:float"),
        pl.col("split").alias("split:token"),
    )
    _write(inter, folder / f"{bundle.name}.inter")
    for part in SPLITS:
        _write(_questions(bundle, part), folder / f"{bundle.name}.{part}.inter")
    _write(_items(bundle), folder / f"{bundle.name}.item")


def _questions(bundle: Bundle, part: str) -> pl.DataFrame:
    users, items = bundle.users["user_id"].to_list(), bundle.items["item_id"].to_list()
    rows = [
        (users[user], " ".join(items[i] for i in history), items[target])
        for user, history, target in bundle.rows(part)
        if history
    ]
    columns = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _items(bundle: Bundle) -> pl.DataFrame:
    """Title, description and attributes; words on one line, numbers as floats."""
    columns = []
    for name, dtype in bundle.items.schema.items():
        if name in ("item", "item_id", "image"):
            continue
        if dtype.is_numeric():
            columns.append(pl.col(name).alias(f"{name}:float"))
        else:
            words = pl.col(name).cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
            columns.append(words.alias(f"{name}:token_seq"))
    if bundle.sids is not None:
        sids = pl.Series("sid:token_seq", [" ".join(tokens) for tokens in bundle.tokens()])
        columns.append(pl.lit(sids))
    return bundle.items.select(pl.col("item_id").alias("item_id:token"), *columns)


def _write(table: pl.DataFrame, path: Path) -> None:
    table.write_csv(path, separator="\t", quote_style="necessary")
