"""Filters over the catalogue's columns: which items a list may hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

Scalar = str | float | bool


class Filter(BaseModel):
    """Conditions on one column, all of which must hold; an item without a value meets none of them."""

    model_config = ConfigDict(extra="forbid")

    any: list[Scalar] | None = Field(None, max_length=200, description="one of these, case ignored")
    none: list[Scalar] | None = Field(
        None, max_length=200, description="none of these, case ignored"
    )
    contains: str | None = Field(None, max_length=200, description="these letters, case ignored")
    min: float | None = Field(None, description="a number of at least this")
    max: float | None = Field(None, description="a number of at most this")


def mask(items: pl.DataFrame, filters: Mapping[str, Filter]) -> npt.NDArray[np.bool_]:
    """Returns which items meet all filters, bool [N].

    Args:
        items: the catalogue.
        filters: by column; a column of words is compared as text, and as numbers for min and max.

    Raises:
        ValueError: no such column; names those that there are.
    """
    found = np.ones(len(items), dtype=bool)
    for name, wanted in filters.items():
        if name not in items.columns or name in ("item", "image"):
            known = [c for c in items.columns if c not in ("item", "image")]
            raise ValueError(f"filters: no attribute '{name}'; expected one of {known}")
        found &= _holds(items[name], wanted)
    return found


def _holds(values: pl.Series, wanted: Filter) -> npt.NDArray[np.bool_]:
    """A list column holds a word if one of its words does."""
    if values.dtype == pl.List(pl.String):
        values = values.list.join(" | ")
    words = values.cast(pl.String).str.to_lowercase()
    column = pl.DataFrame({"words": words, "number": values.cast(pl.Float64, strict=False)})
    holds = pl.col("words").is_not_null()
    if wanted.any is not None:
        holds &= pl.col("words").is_in([_word(value) for value in wanted.any])
    if wanted.none is not None:
        holds &= ~pl.col("words").is_in([_word(value) for value in wanted.none])
    if wanted.contains is not None:
        holds &= pl.col("words").str.contains(wanted.contains.lower(), literal=True)
    if wanted.min is not None:
        holds &= pl.col("number") >= wanted.min
    if wanted.max is not None:
        holds &= pl.col("number") <= wanted.max
    return column.select(holds.fill_null(False)).to_series().to_numpy()


def _word(value: Scalar) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower()
