"""The context of interactions: further columns of a log, such as a rating, beside user, item and time.

They stay columns of the log, of our names while a file is read and of the owner's ones from then on.
The tables of the split have none: what a history's interactions were like is looked up in the log, so
that nothing is said of a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec.data import tables
from genrec.schema import INTERACTIONS


def read_names(context: Sequence[str], setting: str = "context") -> dict[str, str]:
    """Returns the names of context columns while a file is read: `context.0` is where one is set."""
    return {f"{setting}.{number}": column for number, column in enumerate(context)}


def settle_context(
    log: pl.DataFrame, context: Sequence[str], *, where: str | Path, setting: str = "context"
) -> pl.DataFrame:
    """Returns a log, or a table of users, with its context as text or numbers, by the owner's names.

    Args:
        log: has the columns of `read_names(context, setting)`.
        context: the owner's names.
        where: the file, for messages.
        setting: that has these names.

    Returns:
        Float64 where every cell that is not empty is a finite number, else String; null where there is
        nothing.

    Raises:
        ValueError: a column that is neither text nor numbers.
    """
    values = []
    for ours, theirs in read_names(context, setting).items():
        value = tables.as_attribute(ours, log.schema[ours])
        if value is None:
            raise ValueError(
                f"{where}: column '{theirs}' is {log.schema[ours]}; context is text or numbers. Do not "
                "name it in prepare.source."
            )
        text = log.select(value.cast(pl.String).alias(theirs)).to_series()
        number = text.cast(pl.Float64, strict=False)
        number = number.set(~number.is_finite(), None)
        given = text.is_not_null() & ~text.str.to_lowercase().is_in(["nan", "inf", "-inf"])
        values.append(number if (number.is_not_null() == given).all() else text)
    return log.drop(list(read_names(context, setting))).with_columns(values)


def context_of(log: pl.DataFrame) -> list[str]:
    """Returns the context columns of a table of interactions."""
    return [name for name in log.columns if name not in (*INTERACTIONS, "user_id", "item_id")]


def events_of(split: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """Returns the interactions that histories are made of.

    A history is the beginning of what its user did, but for items that are held out of training.

    Args:
        split: schema `SPLIT`, at most one row per user.
        interactions: schema `INTERACTIONS` and any context, of the same users.

    Returns:
        The rows of `interactions`, history by history in the order of `split`, oldest first; `place` is
        the row of the history in `split`.

    Raises:
        ValueError: a history is not what its user did first, as in a split made elsewhere.
    """
    rows = split.select("user", "history", pl.int_range(pl.len()).alias("place"))
    known = rows.explode("history").select("user", item="history").unique()
    events = (
        interactions.join(known, on=["user", "item"], how="semi", maintain_order="left")
        .join(
            rows.with_columns(length=pl.col("history").list.len()), on="user", maintain_order="left"
        )
        .filter(pl.int_range(pl.len()).over("user") < pl.col("length"))
        .sort("place", maintain_order=True)
        .drop("history", "length")
    )
    found = events.group_by("place", maintain_order=True).agg(history="item")
    both = rows.join(found, on="place", how="left")
    empty = pl.col("history").list.len() == 0
    odd = both.filter(~empty & pl.col("history").ne_missing(pl.col("history_right")))
    if len(odd):
        raise ValueError(
            f"user {odd['user'][0]} has a history that is not what the user did first ({len(odd)} users "
            "in all), so the context of its items is not known. Leave compose.context out."
        )
    return events
