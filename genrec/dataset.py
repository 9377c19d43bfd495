"""A catalogue and its log under the owner's ids, and every retriever fitted to one.

Inside, users and items are dense integers; whoever uses these classes sees only their own ids.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import registry
from genrec.bundle import USER_ATTRIBUTES
from genrec.console import Console
from genrec.data.source import BadRows
from genrec.data.timestamps import Unit, parse, settle, times_of
from genrec.progress import Progress
from genrec.ranking import RankedLists
from genrec.retrieve import Retriever, Validation
from genrec.retrieve.settings import RetrieverSettings

Id = Hashable
T = TypeVar("T")
_TIME = "genrec time"  # a column of our own in the owner's table
_RANKED = 2**24  # cells of the lists that are ranked at once where items are filtered


@dataclass(frozen=True, repr=False)
class Dataset:
    """A catalogue and its interactions.

    Attributes:
        items: `item_id` and whatever else is known of them; row i is item i.
        user_ids: the owner's ids; place u is user u.
        sequences: int32 arrays, the items of user u, oldest first.
        times: int64 arrays, when that was, nanoseconds since 1970 (UTC); None where only the order is
            known.
        images: the folder in which the paths of the items' column `image` lie; None without images.
        users: `user_id` and whatever else is known of users, each once; None where nothing is.
    """

    items: pl.DataFrame
    user_ids: pl.Series
    sequences: Sequence[npt.NDArray[np.int32]]
    times: Sequence[npt.NDArray[np.int64]] | None = None
    images: Path | None = None
    users: pl.DataFrame | None = None

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
        images: str | Path | None = None,
        users: Any = None,
    ) -> Self:
        """Makes a dataset of tables: pandas, polars, Arrow or `datasets`.

        Args:
            interactions: a row per event.
            items: a row per item; None takes the items that the interactions name. A pipeline reads
                `title`, `description` and `image`; further columns are attributes.
            user: the column of user ids, of any type that can be compared; also in `users`.
            item: the column of item ids, in both tables.
            timestamp: the column of times; None where rows stand in the order of time.
            unit: of the times, as of `prepare.source`.
            images: the folder in which the paths of the column `image` lie.
            users: a row per user, of those of whom something is known; a pipeline's prompts say all
                further columns of it (`compose.user_attributes`).

        Raises:
            TypeError: a table of another kind.
            NotADirectoryError: `images` is no folder.
            ValueError: a column is missing or has gaps, an item or a user is repeated, an interaction
                names an item that `items` lacks, nobody of `users` is in the interactions, or a time
                cannot be read.
        """
        log = _table(interactions, "interactions")
        wanted = [user, item, *([timestamp] if timestamp is not None else [])]
        _need(log, wanted, "interactions")
        if images is not None and not Path(images).is_dir():
            raise NotADirectoryError(f"images: no folder {images}")
        log = _in_order_of_time(log, timestamp, unit)
        if items is None:
            catalogue = log.select(pl.col(item).unique(maintain_order=True))
        else:
            catalogue = _once(_table(items, "items"), item, "item")
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
        lists = known.group_by(user, maintain_order=True).agg(
            pl.col("number").cast(pl.Int32), _TIME
        )
        dated = timestamp is not None and unit != "order"
        return cls(
            catalogue.rename({item: "item_id"}),
            lists[user].alias("user_id"),
            [row.to_numpy() for row in lists["number"]],
            [row.to_numpy() for row in lists[_TIME]] if dated else None,
            None if images is None else Path(images).resolve(),
            None if users is None else _users(_table(users, "users"), user, lists[user]),
        )

    @classmethod
    def demo(
        cls, *, items: int = 800, users: int = 2000, seed: int = 7, images: str | Path | None = None
    ) -> Self:
        """Makes a dataset to play with: the made-up shop of `recipes/demo.yaml`.

        Args:
            items: number of products N.
            users: number of users U.
            seed: same seed, same data.
            images: a folder to draw the products' images into; None draws none.
        """
        from genrec.demo import make_demo

        made = make_demo(images, items=items, users=users, seed=seed)
        catalogue = made.items if images is not None else made.items.drop("image")
        return cls.from_frames(made.interactions, catalogue, unit="ns", images=images)

    @classmethod
    def from_prepared(cls, folder: str | Path) -> Self:
        """Opens what the stage `prepare` wrote, all interactions in it and what is known of users."""
        items, users, log = (
            pl.read_parquet(Path(folder) / f"{name}.parquet")
            for name in ("items", "users", "interactions")
        )
        lists = log.group_by("user", maintain_order=True).agg("item")
        named = users.join(lists, on="user", how="inner", maintain_order="left")
        sequences = [row.to_numpy() for row in named["item"]]
        known = None
        if (file := Path(folder) / USER_ATTRIBUTES).exists():
            attributes = pl.read_parquet(file)
            known = users.join(attributes, on="user", maintain_order="left").drop("user")
        return cls(items.drop("item"), named["user_id"], sequences, users=known)

    @property
    def interactions(self) -> pl.DataFrame:
        """All interactions in numbers: `user` and `item`, by user, oldest first."""
        lengths = [len(sequence) for sequence in self.sequences]
        users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        items = np.concatenate([np.empty(0, np.int32), *self.sequences])
        return pl.DataFrame({"user": users, "item": items})

    def save(self, folder: str | Path) -> None:
        """Writes `items.parquet`, `interactions.parquet` and, where there are users, `users.parquet`.

        The source `files` reads them.
        Interactions have `user_id`, `item_id` and, where times are known, `timestamp`; they stand by
        user, oldest first.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = self.interactions
        log = pl.DataFrame(
            {
                "user_id": self.user_ids.gather(numbers["user"]),
                "item_id": self.items["item_id"].gather(numbers["item"]),
            }
        )
        if self.times is not None:
            log = log.with_columns(timestamp=np.concatenate([np.empty(0, np.int64), *self.times]))
        log.write_parquet(folder / "interactions.parquet")
        self.items.write_parquet(folder / "items.parquet")
        if self.users is not None:
            self.users.write_parquet(folder / "users.parquet")

    def __repr__(self) -> str:
        count = sum(map(len, self.sequences))
        return f"Dataset({len(self.user_ids)} users, {self.num_items} items, {count} interactions)"

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
        return [self.sequences[by_id(self.user_numbers, user, "user")] for user in users]

    def numbered(self, items: Iterable[Id]) -> npt.NDArray[np.int32]:
        """Returns the numbers of items.

        Raises:
            KeyError: there is none of that id.
        """
        numbers = [by_id(self.item_numbers, item, "item") for item in items]
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
        progress: Progress | None = None,
    ) -> Self:
        """Learns from all interactions; a retriever that trains by epochs validates on last items.

        Args:
            dataset: what to learn from.
            views: float [N, D] by name, rows in the order of `dataset.items`, for retrievers that use
                the items' content.
            progress: told how far the fit is; None draws it on stderr, `progress.silent` does not.

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
        with Console() as console:
            shown = progress or console.progress(self.retriever.kind)
            self.retriever.fit(sequences, num_items=dataset.num_items, progress=shown, **extra)
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
        check_request(users, histories, k)
        if histories is not None:
            names = list(histories)
            sequences = [self.dataset.numbered(items) for items in histories.values()]
        else:
            own = self.dataset.user_ids
            if users is not None:
                own = own.gather([by_id(self.dataset.user_numbers, u, "user") for u in users])
            names, sequences = list(own), self.dataset.histories(own)
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


def _once(table: pl.DataFrame, column: str, what: str) -> pl.DataFrame:
    """Returns a table in which each item, or user, stands once."""
    _need(table, [column], f"{what}s")
    again = table.filter(pl.col(column).is_duplicated())[column]
    if len(again):
        raise ValueError(
            f"{what}s: '{column}' {again[0]!r} stands twice; expected each {what} once"
        )
    return table


def _users(table: pl.DataFrame, user: str, known: pl.Series) -> pl.DataFrame:
    _once(table, user, "user")
    if table.schema[user] != known.dtype:
        raise ValueError(
            f"'{user}' is {known.dtype} in the interactions and {table.schema[user]} in the users; make "
            "them one type"
        )
    if table.width == 1:
        raise ValueError(f"users: only '{user}'; expected further columns, such as a country")
    if not table[user].is_in(known.implode()).any():
        raise ValueError(
            f"users: nobody is in the interactions: ids are such as {table[user].head(3).to_list()}, "
            f"and there such as {known.head(3).to_list()}"
        )
    return table.rename({user: "user_id"})


def _need(table: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    for name in columns:
        if name not in table.columns:
            raise ValueError(
                f"{what}: no column '{name}'; found {table.columns}. Name yours by user=, item= or "
                "timestamp=; timestamp=None where rows stand in the order of time"
            )
        if gaps := table[name].null_count():
            raise ValueError(f"{what}: {gaps} rows without '{name}'; expected a value in each")
    if not len(table):
        raise ValueError(f"{what}: no rows; expected one or more")


def _in_order_of_time(log: pl.DataFrame, timestamp: str | None, unit: Unit) -> pl.DataFrame:
    """Returns the log by time, ties as they stand; `_TIME` holds the times, 0 without any."""
    if timestamp is None:
        return log.with_columns(pl.lit(0, pl.Int64).alias(_TIME))
    where = "interactions"
    times = log.select(pl.col(timestamp).alias("timestamp"))
    bad_rows = BadRows("error")
    times = parse(times, unit=unit, bad_rows=bad_rows, where=where, field=timestamp, setting="unit")
    times = settle(times, where=where, times=times_of(timestamp, unit))
    log = log.with_columns(times["timestamp"].alias(_TIME))
    return log.sort(_TIME, maintain_order=True)


def check_request(users: Any, histories: Any, k: Any) -> None:
    """Checks whom to recommend to, and how much.

    Raises:
        TypeError: histories are no mapping of lists, users are a text, or k is no whole number.
        ValueError: users and histories are both given, or k is below 1.
    """
    if users is not None and histories is not None:
        raise ValueError("users and histories are two ways to ask; give one of them")
    if isinstance(users, str):
        raise TypeError(f"users is the text {users!r}; expected a list of ids, such as [{users!r}]")
    if histories is not None and not isinstance(histories, Mapping):
        kind = type(histories).__name__
        raise TypeError(
            f"histories is a {kind}; expected a mapping, such as {{'me': [item, item]}}"
        )
    for name, items in (histories or {}).items():
        if isinstance(items, str):
            raise TypeError(
                f"histories[{name!r}] is the text {items!r}; expected a list of item ids"
            )
    if not isinstance(k, Integral) or isinstance(k, bool):
        raise TypeError(f"k is {k!r}; expected a whole number")
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")


def by_id(entries: Mapping[Any, T], key: Id, what: str) -> T:
    """Returns the entry of an owner's id; 12 and "12" are one id.

    Raises:
        KeyError: there is none; `what` names the kind of thing in the message.
    """
    for form in (key, *_other_form(key)):
        if form in entries:
            return entries[form]
    example = next(iter(entries), None)
    raise KeyError(f"no {what} has the id {key!r}; ids look like {example!r}")


def _other_form(key: Id) -> tuple[Id, ...]:
    """Text for a whole number, a whole number for its text."""
    if isinstance(key, Integral) and not isinstance(key, bool):
        return (str(int(key)),)
    if isinstance(key, str) and key.removeprefix("-").isdecimal() and str(int(key)) == key:
        return (int(key),)
    return ()
