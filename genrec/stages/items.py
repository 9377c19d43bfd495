"""Items with all their words: the catalogue's columns, and those that caption and mine add."""

from __future__ import annotations

import polars as pl

from genrec.enrich.settings import MADE_FIELDS
from genrec.stages.context import Context


def read_items(context: Context) -> pl.DataFrame:
    """Returns the items, with columns `caption` and `interests` as far as the stage reads them.

    Both stages write a row per item; a caption that failed is null, and so is a list of interests.

    Raises:
        ValueError: an annotation does not have one row per item, in order.
    """
    items = context.inputs["prepare"].load("items.parquet")
    for column, stage in MADE_FIELDS.items():
        if stage not in context.inputs:
            continue
        made = context.inputs[stage].load()
        if not made["item"].equals(items["item"]):
            raise ValueError(
                f"{context.inputs[stage].path}: {len(made)} rows that are not the {len(items)} "
                f"items in their order; build it again with --force {stage}"
            )
        items = items.with_columns(made[column].alias(column))
    return items
