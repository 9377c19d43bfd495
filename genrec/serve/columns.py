"""A catalogue's columns with their types: what filters, chat, cards and checks know of them.

Which columns are the catalogue's own and which are attributes, which of them are numbers, and what a
cell's number is, is said here alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.bundle import Bundle
from genrec.serve.numbers import numbers_of
from genrec.serve.schemas import Filter, Scalar

_OWN = ("item", "item_id", "title", "description", "image", "caption", "interests")
_UNFILTERED = ("item", "image")  # a number of ours, and a path on this machine
_NUMERIC = 0.8  # a column of numbers: so many of its values are some


class Kind(StrEnum):
    """What the cells of a column are."""

    TEXT = "text"
    CATEGORY = "category"
    NUMBER = "number"
    LIST = "list"


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a catalogue of N items.

    Attributes:
        name: the catalogue's.
        kind: `text` of the columns that every catalogue has; of an attribute `list` or `number`, the
            latter also where the numbers are written as prices, else `category`.
        values: the cells as they are, [N].
    """

    name: str
    kind: Kind
    values: pl.Series

    @cached_property
    def numbers(self) -> pl.Series:
        """The cells as numbers, whatever the kind: Float64 [N] or lists of it; null where none is."""
        return numbers_of(self.values)

    def mask(self, wanted: Filter) -> npt.NDArray[np.bool_]:
        """Returns which items meet a filter, bool [N].

        A list meets `any`, `contains` and the bounds by one of its values, and `none` by all.
        """
        texts = _lists(self.values).cast(pl.List(pl.String)).list.eval(_normalised(pl.element()))
        holds = self.values.is_not_null()
        if wanted.any is not None:
            holds &= _some(texts, pl.element().is_in([_text(value) for value in wanted.any]))
        if wanted.none is not None:
            holds &= ~_some(texts, pl.element().is_in([_text(value) for value in wanted.none]))
        if wanted.contains is not None:
            holds &= _some(texts, pl.element().str.contains(wanted.contains.lower(), literal=True))
        if wanted.min is not None or wanted.max is not None:
            least = -np.inf if wanted.min is None else wanted.min
            most = np.inf if wanted.max is None else wanted.max
            holds &= _some(_lists(self.numbers), pl.element().is_between(least, most))
        return holds.to_numpy()


class Columns(Mapping[str, Column]):
    """The columns of one catalogue, by name and in its order.

    Args:
        items: the catalogue, row i is item i; with `caption` and `interests` where they were made.

    Attributes:
        table: the catalogue.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self.table = items
        self._columns = {name: _typed(items[name]) for name in items.columns}

    def __getitem__(self, name: str) -> Column:
        """Returns a column."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Yields the names."""
        return iter(self._columns)

    def __len__(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    @property
    def attributes(self) -> list[str]:
        """The names of the columns that this catalogue has and others need not, as its prices."""
        return [name for name in self if name not in _OWN]

    @property
    def numeric(self) -> list[str]:
        """The names of the attributes that are numbers."""
        return [name for name in self.attributes if self[name].kind is Kind.NUMBER]

    def mask(self, filters: Mapping[str, Filter]) -> npt.NDArray[np.bool_]:
        """Returns which items meet all filters, bool [N].

        Args:
            filters: by column. Values are compared as text, and for min and max as
                numbers, as `numbers_of` reads them.

        Raises:
            ValueError: no such column; names those that there are.
        """
        known = [name for name in self if name not in _UNFILTERED]
        for name in filters:
            if name not in known:
                raise ValueError(f"filters: no attribute '{name}'; expected one of {known}")
        met = np.ones(len(self.table), dtype=bool)
        for name, wanted in filters.items():
            met &= self[name].mask(wanted)
        return met


_of_bundles: WeakKeyDictionary[Bundle, Columns] = WeakKeyDictionary()


def columns_of(bundle: Bundle) -> Columns:
    """Returns the columns of a bundle's items, which are read once."""
    columns = _of_bundles.get(bundle)
    if columns is None:
        columns = _of_bundles[bundle] = Columns(bundle.items)
    return columns


def _typed(values: pl.Series) -> Column:
    if isinstance(values.dtype, pl.List):
        return Column(values.name, Kind.LIST, values)
    if values.name in _OWN:
        return Column(values.name, Kind.TEXT, values)
    number = Column(values.name, Kind.NUMBER, values)
    if values.count() and number.numbers.count() >= _NUMERIC * values.count():
        return number
    return Column(values.name, Kind.CATEGORY, values)


def _lists(cells: pl.Series) -> pl.Series:
    """Cells as lists: a single value is a list of one."""
    if isinstance(cells.dtype, pl.List):
        return cells
    return cells.to_frame("cell").select(pl.concat_list("cell")).to_series()


def _some(entries: pl.Series, condition: pl.Expr) -> pl.Series:
    """Whether one value of each list meets a condition, bool [N]; of none or of null, no."""
    return entries.list.eval(condition).list.any().fill_null(False)


def _normalised(text: pl.Expr) -> pl.Expr:
    """Writes values as `_text` does."""
    return text.str.to_lowercase().str.replace(r"^(-?\d+)\.0$", "$1")


def _text(value: Scalar) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return re.sub(r"^(-?\d+)\.0$", r"\1", str(value).lower())
