"""Filters over the catalogue's columns: which items a list may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from genrec.serve.numbers import numbers_of

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
        filters: by column; a column of words is compared as text, and for min and max as numbers, as
            `numbers_of` reads them.

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
    """A list meets `any`, `contains` and the bounds by one of its values, and `none` by all."""
    listed = isinstance(values.dtype, pl.List)
    entries = values if listed else values.to_frame("one").select(pl.concat_list("one")).to_series()
    words = entries.cast(pl.List(pl.String)).list.eval(_as_asked(pl.element()))
    holds = values.is_not_null()
    if wanted.any is not None:
        holds &= _one(words, pl.element().is_in([_word(value) for value in wanted.any]))
    if wanted.none is not None:
        holds &= ~_one(words, pl.element().is_in([_word(value) for value in wanted.none]))
    if wanted.contains is not None:
        holds &= _one(words, pl.element().str.contains(wanted.contains.lower(), literal=True))
    if wanted.min is not None or wanted.max is not None:
        least = -np.inf if wanted.min is None else wanted.min
        most = np.inf if wanted.max is None else wanted.max
        holds &= _one(numbers_of(entries), pl.element().is_between(least, most))
    return holds.to_numpy()


def _one(entries: pl.Series, condition: pl.Expr) -> pl.Series:
    """Whether one value of each list meets a condition, bool [N]; of none or of null, no."""
    return entries.list.eval(condition).list.any().fill_null(False)


def _as_asked(word: pl.Expr) -> pl.Expr:
    """Writes values as `_word` does."""
    return word.str.to_lowercase().str.replace(r"^(-?\d+)\.0$", "$1")


def _word(value: Scalar) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return re.sub(r"^(-?\d+)\.0$", r"\1", str(value).lower())
