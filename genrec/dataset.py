"""A catalogue and its log under the owner's ids, and every retriever fitted to one.

Inside, users and items are dense integers; whoever uses these classes sees only their own ids.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import registry
from genrec.data.source import BadRows
from genrec.data.timestamps import Unit, parse, settle, times_of
from genrec.progress import Progress, silent
from genrec.ranking import RankedLists
from genrec.retrieve import Retriever, Validation
from genrec.retrieve.settings import RetrieverSettings

Id = Hashable
_RANKED = 2**24  # cells of the lists that are ranked at once where items are filtered


@dataclass(frozen=True)
class Dataset:
    """A catalogue and its interactions.

    Attributes:
        items: `item_id` and whatever else is known of them; row i is item i.
        user_ids: the owner's ids; place u is user u.
        sequences: int32 arrays, the items of user u, oldest first.
    """

    items: pl.DataFrame
    user_ids: pl.Series
    sequences: Sequence[npt.NDArray[np.int32]]

    @classmethod
    def from_frames(
        cls,
        interactions: Any,
        items: Any = None,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = "timestamp",
        unit: Unit = "auto",
    ) -> Self:
        """Makes a dataset of tables: pandas, polars, Arrow or `datasets`.

        Args:
            interactions: a row per event.
            items: a row per item; None takes the items that the interactions name.
            user: the column of user ids, of any type that can be compared.
            item: the column of item ids, in both tables.
            timestamp: the column of times; None where rows stand in the order of time.
            unit: of the times, as of `prepare.source`.

        Raises:
            TypeError: a table of another kind.
            ValueError: a column is missing or has gaps, an item is repeated, an interaction names an
                item that `items` lacks, or a time cannot be read.
        """
        log = _table(interactions, "interactions")
        wanted = [user, item, *([timestamp] if timestamp is not None else [])]
        _need(log, wanted, "interactions")
        log = _in_order_of_time(log, timestamp, unit)
        if items is None:
            catalogue = log.select(pl.col(item).unique(maintain_order=True))
        else:
            catalogue = _table(items, "items")
            _need(catalogue, [item], "items")
            if catalogue[item].is_duplicated().any():
                again = catalogue.filter(pl.col(item).is_duplicated())[item][0]
                raise ValueError(f"items: '{item}' {again!r} stands twice; expected each item once")
        numbers = catalogue.select(item).with_row_index("number")
        if numbers.schema[item] != log.schema[item]:
            raise ValueError(
                f"'{item}' is {log.schema[item]} in the interactions and {numbers.schema[item]} in the "
                "items; make them one type"
            )
        known = log.join(numbers, on=item, how="left", maintain_order="left")
        if known["number"].null_count():
            strange = known.filter(pl.col("number").is_null())[item][0]
            raise ValueError(
                f"interactions: {item} {strange!r} is not among the items "
                f"({known['number'].null_count()} rows in all); add it, or drop these rows"
            )
        lists = known.group_by(user, maintain_order=True).agg(pl.col("number").cast(pl.Int32))
        return cls(
            catalogue.rename({item: "item_id"}),
            lists[user].alias("user_id"),
            [row.to_numpy() for row in lists["number"]],
        )

    @classmethod
    def from_prepared(cls, folder: str | Path) -> Self:
        """Opens what the stage `prepare` wrote, all interactions in it."""
        items, users, log = (
            pl.read_parquet(Path(folder) / f"{name}.parquet")
            for name in ("items", "users", "interactions")
        )
        lists = log.group_by("user", maintain_order=True).agg("item")
        named = users.join(lists, on="user", how="inner", maintain_order="left")
        return cls(items.drop("item"), named["user_id"], [row.to_numpy() for row in named["item"]])

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.items)

    @cached_property
    def item_numbers(self) -> Mapping[Id, int]:
        """Item number by the owner's id."""
        return {item: number for number, item in enumerate(self.items["item_id"])}

    @cached_property
    def user_numbers(self) -> Mapping[Id, int]:
        """User number by the owner's id."""
        return {user: number for number, user in enumerate(self.user_ids)}

    def histories(self, users: Iterable[Id]) -> list[npt.NDArray[np.int32]]:
        """Returns the whole sequences of users.

        Raises:
            KeyError: nobody of that id.
        """
        return [self.sequences[_number(self.user_numbers, user, "user")] for user in users]

    def numbered(self, items: Iterable[Id]) -> npt.NDArray[np.int32]:
        """Returns the numbers of items.

        Raises:
            KeyError: there is none of that id.
        """
        numbers = [_number(self.item_numbers, item, "item") for item in items]
        return np.array(numbers, dtype=np.int32)

    def held_out(self) -> tuple[list[npt.NDArray[np.int32]], Validation]:
        """Returns what is left to learn from, and each user's last item to validate on.

        Users of fewer than three interactions are learned from whole.
        """
        long = [len(sequence) > 2 for sequence in self.sequences]
        pairs = list(zip(self.sequences, long, strict=True))
        training = [sequence[:-1] if enough else sequence for sequence, enough in pairs]
        histories = [sequence[:-1] for sequence, enough in pairs if enough]
        targets = np.array([sequence[-1] for sequence, enough in pairs if enough], dtype=np.int32)
        return training, Validation(histories, targets)


class DatasetRetriever:
    """Any retriever, fitted to a dataset and asked by the owner's ids.

        DatasetRetriever("sasrec", dim=32).fit(dataset).recommend(users=["42"], k=10)

    Args:
        retriever: the kind of a registered retriever, its settings, or a retriever itself.
        options: of a kind: its settings, `seed` and `device`.

    Raises:
        KeyError: no such kind.
        ValueError: an unknown option, or a value out of bounds.
    """

    def __init__(self, retriever: str | RetrieverSettings | Retriever[Any], **options: Any) -> None:
        if isinstance(retriever, Retriever):
            if options:
                raise ValueError(
                    f"{sorted(options)}: a retriever that is made has its own; drop them"
                )
            self.retriever: Retriever[Any] = retriever
        elif isinstance(retriever, RetrieverSettings):
            self.retriever = registry.implementation(retriever)(retriever, **options)
        else:
            known = registry.parts("retrievers")
            if retriever not in known:
                raise KeyError(f"no retriever '{retriever}'; expected one of {', '.join(known)}")
            self.retriever = registry.implementation(known[retriever])(**options)
        self.dataset: Dataset | None = None

    def fit(
        self,
        dataset: Dataset,
        *,
        views: Mapping[str, npt.ArrayLike] | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Learns from all interactions; a retriever that trains by epochs validates on last items.

        Args:
            dataset: what to learn from.
            views: float [N, D] by name, rows in the order of `dataset.items`, for retrievers that use
                the items' content.
            progress: told how far the fit is.

        Raises:
            ValueError: the retriever needs views that are not given, or as its own `fit`.
        """
        settings, extra = self.retriever.settings, dict[str, Any]()
        given = {name: np.asarray(view, np.float32) for name, view in (views or {}).items()}
        wanted = settings.wanted_views(tuple(given))
        if missing := [name for name in wanted if name not in given]:
            raise ValueError(f"{settings.kind} needs the views {missing}; give them as `views`")
        if wanted:
            extra["features"] = {name: given[name] for name in wanted}
        sequences = dataset.sequences
        if settings.learns:
            sequences, valid = dataset.held_out()
            if len(valid.targets):
                extra["valid"] = valid
        self.retriever.fit(sequences, num_items=dataset.num_items, progress=progress, **extra)
        self.dataset = dataset
        return self

    def recommend(
        self,
        users: Iterable[Id] | None = None,
        *,
        histories: Mapping[Id, Sequence[Id]] | None = None,
        k: int = 10,
        filter_seen: bool = True,
        allowed: Collection[Id] | None = None,
    ) -> pl.DataFrame:
        """Ranks items for users of the dataset, or for any histories.

        Args:
            users: ids of users of the dataset; None with no histories takes all of them.
            histories: item ids, oldest first, by whatever the user is to be called.
            k: items for each.
            filter_seen: leave out the items of the user's history.
            allowed: the only items to recommend.

        Returns:
            `user_id`, `item_id`, `score`, `rank`, best first.

        Raises:
            KeyError: an unknown user or item.
            ValueError: not fitted, users and histories both given, or k below 1.
        """
        if self.dataset is None:
            raise ValueError(f"this {self.retriever.kind} is not fitted; call fit(dataset) first")
        if users is not None and histories is not None:
            raise ValueError("users and histories are two ways to ask; give one of them")
        if histories is not None:
            names = list(histories)
            sequences = [self.dataset.numbered(items) for items in histories.values()]
        else:
            names = list(self.dataset.user_ids if users is None else users)
            sequences = self.dataset.histories(names)
        lists = self._ranked(sequences, k, filter_seen, allowed)
        row, place = np.nonzero(lists.valid)
        item_ids, owner = self.dataset.items["item_id"], self.dataset.user_ids.dtype
        return pl.DataFrame(
            {
                "user_id": pl.Series(names, dtype=None if histories else owner)[row],
                "item_id": item_ids[lists.items[row, place]],
                "score": lists.scores[row, place],
                "rank": lists.ranks[row, place],
            }
        )

    def _ranked(
        self,
        sequences: Sequence[npt.NDArray[np.int32]],
        k: int,
        filter_seen: bool,
        allowed: Collection[Id] | None,
    ) -> RankedLists:
        assert self.dataset is not None
        if allowed is None:
            return self.retriever.recommend(sequences, k=k, exclude_seen=filter_seen)
        count = self.dataset.num_items
        may = np.zeros(count, dtype=bool)
        may[self.dataset.numbered(allowed)] = True
        parts = []
        step = max(1, _RANKED // count)
        for start in range(0, len(sequences), step):
            part = sequences[start : start + step]
            whole = self.retriever.recommend(part, k=count, exclude_seen=filter_seen)
            parts.append(whole.filtered([may] * len(part), k))
        return RankedLists.concatenated(parts) if parts else RankedLists.empty(0, k)


def _table(frame: Any, what: str) -> pl.DataFrame:
    """Any table as polars; nothing is imported for kinds that nobody has."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    kind = f"{type(frame).__module__}.{type(frame).__name__}"
    if kind.startswith("pandas."):
        return pl.from_pandas(frame)
    if kind.startswith("pyarrow."):
        table = pl.from_arrow(frame)
        assert isinstance(table, pl.DataFrame)
        return table
    if kind.startswith("datasets."):
        table = frame.to_polars()
        assert isinstance(table, pl.DataFrame)
        return table
    raise TypeError(f"{what}: {kind}; expected a table of pandas, polars, Arrow or `datasets`")


def _need(table: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    for name in columns:
        if name not in table.columns:
            raise ValueError(f"{what}: no column '{name}'; found {table.columns}")
        if gaps := table[name].null_count():
            raise ValueError(f"{what}: {gaps} rows without '{name}'; expected a value in each")
    if not len(table):
        raise ValueError(f"{what}: no rows; expected one or more")


def _in_order_of_time(log: pl.DataFrame, timestamp: str | None, unit: Unit) -> pl.DataFrame:
    if timestamp is None:
        return log
    where = "interactions"
    times = log.select(pl.col(timestamp).alias("timestamp"))
    bad_rows = BadRows("error")
    times = parse(times, unit=unit, bad_rows=bad_rows, where=where, field=timestamp, setting="unit")
    times = settle(times, where=where, times=times_of(timestamp, unit))
    order = times.with_row_index("row").sort("timestamp", maintain_order=True)["row"]
    return log[order]


def _number(numbers: Mapping[Id, int], key: Id, what: str) -> int:
    try:
        return numbers[key]
    except (KeyError, TypeError):
        example = next(iter(numbers), None)
        raise KeyError(f"no {what} {key!r}; ids are such as {example!r}") from None
