"""The items that several sources list for a user: what a decoder may be restricted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.retrieve.fusion.sources import Tables

Ints = npt.NDArray[np.int64]


def pooled(tables: Tables, users: Sequence[int], *, size: int) -> list[Ints]:
    """Returns for each user the first `size` different items of all lists, by their best rank.

    Args:
        tables: recommendations table by source name; of equal ranks the earlier source's comes first.
        users: U users; one whom no source lists anything for gets none.
        size: at most so many for each.

    Returns:
        U arrays int64 [n <= size].

    Raises:
        ValueError: no tables, one that is malformed (see `schema.check_lists`), or size below 1.
    """
    if not tables or size < 1:
        raise ValueError(f"{len(tables)} sources, size {size}; expected 1 of each or more")
    order = ["user", "rank", "source", "item"]
    lists = [
        schema.check_lists(table, name, invalid=False).select(
            "user", "item", "rank", source=pl.lit(place, pl.Int32)
        )
        for place, (name, table) in enumerate(tables.items())
    ]
    first = (
        pl.concat(lists)
        .sort(order)
        .unique(["user", "item"], keep="first", maintain_order=True)
        .group_by("user", maintain_order=True)
        .agg(pl.col("item").head(size))
    )
    asked = pl.DataFrame({"user": users}, schema={"user": pl.Int32})
    found = asked.join(first, on="user", how="left", maintain_order="left")["item"]
    return [
        np.zeros(0, np.int64) if row is None else row.to_numpy().astype(np.int64) for row in found
    ]
