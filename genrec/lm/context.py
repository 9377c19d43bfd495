"""What prompts say of a history's events beside their items, and of the user whose history it is.

A rating, the time since the event before; an age group, a country. Who the user is stands once, before
the first item. An event's context stands after its item, and only what is known once the event is over
is said: so the next item is learned and asked for with the context of all events before it, and never
with its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.data.settings import TIMED
from genrec.prompts import ContextTemplate, ContextWording, Style, load_context, load_profile

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**9
_DAY = 24 * 60 * 60 * _SECOND
# Where `minutes`, `hours`, ... begin.
_GAPS = (60 * _SECOND, 3600 * _SECOND, _DAY, 7 * _DAY, 30 * _DAY, 365 * _DAY)
_LONGEST = 60  # characters of a text of the log


@dataclass(frozen=True)
class _Columns(ABC):
    """How columns of a table are written.

    Attributes:
        names: of the columns, in the order in which they stand.
        style: the form of the template.
        levels: of each column of numbers the upper bounds of all levels but the last, ascending.
    """

    names: tuple[str, ...]
    style: Style
    levels: Mapping[str, Sequence[float]]

    @classmethod
    def fit(cls, names: Sequence[str], style: Style, rows: pl.DataFrame) -> Self:
        """Finds the levels of numbers in the rows that are learned from.

        Args:
            names: see above.
            style: see above.
            rows: as of `texts`.
        """
        most = len(load_context().number)
        numbers = [name for name in names if name in rows.columns and _is_number(rows[name])]
        return cls(tuple(names), style, {name: _levels(rows[name], most) for name in numbers})

    def texts(self, rows: pl.DataFrame) -> list[str | None]:
        """Returns each row as it stands in a prompt; None where nothing is known.

        Args:
            rows: has the columns that are named.
        """
        columns = [self._words(name, rows) for name in self.names]
        wording, texts = self._wording, list[str | None]()
        for row in zip(*columns, strict=True):
            known = [
                wording.value.format(name=name, value=value)
                for name, value in zip(self.names, row, strict=True)
                if value is not None
            ]
            values = wording.between.join(known)
            texts.append(wording.context.format(values=values) if known else None)
        return texts

    @property
    @abstractmethod
    def _wording(self) -> ContextWording:
        """Of the style."""

    def _value(self, name: str, value: Any, where: str = "") -> Any:
        """Returns what somebody says as it is in a table."""
        if value is None:
            return None
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if name in self.levels:
            if not number:
                raise ValueError(f"{where}{name} {value!r}; expected a number")
            return float(value)
        if number:  # JSON has 10115 as 10115.0
            return str(int(value) if value == int(value) else value)
        if not isinstance(value, str | bool):
            raise ValueError(f"{where}{name} {value!r}; expected a text")
        return str(value).lower() if isinstance(value, bool) else value

    def _words(self, name: str, rows: pl.DataFrame) -> list[str | None]:
        if name in self.levels:
            return _chosen(load_context().number, self.levels[name], rows[name], side="left")
        return [
            None if value is None else " ".join(str(value).split())[:_LONGEST]
            for value in rows[name]
        ]


@dataclass(frozen=True)
class UserProfile(_Columns):
    """How the profile of a user is written: the attributes that a table of users has."""

    def said(self, attributes: Mapping[str, Any]) -> str | None:
        """Returns the profile of a user whom somebody describes, as `texts` does.

        Args:
            attributes: by name; what is left out or None is not said.

        Raises:
            ValueError: an unknown name, or a value that does not fit.
        """
        if unknown := sorted(attributes.keys() - set(self.names)):
            raise ValueError(f"no {unknown} in prompts; expected {list(self.names)}")
        kinds = {name: pl.Float64 if name in self.levels else pl.String for name in self.names}
        row = [self._value(name, attributes.get(name)) for name in self.names]
        return self.texts(pl.DataFrame([row], schema=kinds, orient="row"))[0]

    def added(self, split: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
        """Returns a split with the column `profile`, a text or null.

        Args:
            split: table `schema.SPLIT`.
            users: `user`, at most once, and the attributes.
        """
        own = users.select("user", profile=pl.Series(self.texts(users), dtype=pl.String))
        return split.join(own, on="user", how="left", maintain_order="left")

    @cached_property
    def _wording(self) -> ContextWording:
        return load_profile().of(self.style)


@dataclass(frozen=True)
class EventContext(_Columns):
    """How the context of events is written: columns of the log, and `gap`, `weekday`, `month`.

    Rows are those of `schema.INTERACTIONS`, oldest first within each `place` (of a history).
    """

    def said(self, events: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Returns the context of a history's events as somebody describes them, as `texts` does.

        Args:
            events: oldest first; of each its columns by name, and where a gap, weekday or month is said
                its `timestamp`, a datetime or ISO 8601 (without a zone it is UTC). What is left out or
                None is not said.

        Raises:
            ValueError: an unknown name, or a value that does not fit; names the event.
        """
        known = [name for name in self.names if name not in TIMED]
        known += ["timestamp"] if len(known) < len(self.names) else []
        rows = []
        for number, event in enumerate(events):
            if unknown := sorted(event.keys() - set(known)):
                raise ValueError(f"event {number}: no {unknown} in prompts; expected {known}")
            where = f"event {number}: "
            rows.append([self._value(name, event.get(name), where) for name in known])
        kinds: dict[str, Any] = dict.fromkeys(known, pl.String)
        kinds |= dict.fromkeys(self.levels, pl.Float64)
        kinds |= {"timestamp": pl.Int64} if "timestamp" in known else {}
        table = pl.DataFrame(rows, schema=kinds, orient="row")
        return self.texts(table.with_columns(place=0))

    def added(self, split: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
        """Returns a split with the column `context`, a text or null per item of each history.

        Args:
            split: table `schema.SPLIT`.
            events: those of its histories, as `data.context.events_of` returns them.
        """
        texts = events.select("place", context=pl.Series(self.texts(events), dtype=pl.String))
        own = texts.group_by("place").agg("context")
        rows = split.with_row_index("place").with_columns(pl.col("place").cast(pl.Int64))
        joined = rows.join(
            own.cast({"place": pl.Int64}), on="place", how="left", maintain_order="left"
        )
        return joined.drop("place").with_columns(pl.col("context").fill_null([]))

    @cached_property
    def _template(self) -> ContextTemplate:
        return load_context()

    @cached_property
    def _wording(self) -> ContextWording:
        return self._template.of(self.style)

    def _value(self, name: str, value: Any, where: str = "") -> Any:
        if value is None or name != "timestamp":
            return super()._value(name, value, where)
        try:
            time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"{where}timestamp {value!r}; expected such as 2026-01-31T12:00:00Z"
            ) from None
        zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
        return (zoned - _EPOCH) // timedelta(microseconds=1) * 1000

    def _words(self, name: str, events: pl.DataFrame) -> list[str | None]:
        if name == "gap":
            gap = events.select(pl.col("timestamp").diff().over("place")).to_series()
            # Histories of a random split are not in the order of time.
            return _chosen(self._template.gap, _GAPS, gap.set(gap < 0, None), side="right")
        if name in ("weekday", "month"):
            time = pl.from_epoch("timestamp", time_unit="ns").dt
            number = events.select(
                time.weekday() if name == "weekday" else time.month()
            ).to_series()
            words = getattr(self._template, name)
            return [None if place is None else words[place - 1] for place in number]
        return super()._words(name, events)


def _is_number(values: pl.Series) -> bool:
    return values.dtype.is_numeric()


def _levels(values: pl.Series, most: int) -> list[float]:
    """Returns where levels end, but for the last: distinct values if there are few, else quantiles."""
    known: npt.NDArray[np.float64] = values.drop_nulls().to_numpy().astype(np.float64)
    distinct = np.unique(known)
    if len(distinct) > most:
        ends = np.quantile(known, np.arange(1, most) / most, method="inverted_cdf")
        return [float(end) for end in np.unique(ends)]
    return [float(value) for value in distinct[:-1]]


def _chosen(
    words: Sequence[str], bounds: Sequence[float], values: pl.Series, *, side: str
) -> list[str | None]:
    """Returns the word of each value by the bounds between them; None for null."""
    found = np.searchsorted(np.asarray(bounds), values.fill_null(0).to_numpy(), side=side)  # type: ignore[call-overload]
    return [
        None if missing else words[place]
        for missing, place in zip(values.is_null(), found, strict=True)
    ]
