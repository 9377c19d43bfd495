"""The tables that stages hand to each other: column names, dtypes and their validators.

Everything between two stages is one of these. A table that does not fit is an error that names the
file and the column, never something that a later stage has to guess about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

Schema = Mapping[str, pl.DataType | type[pl.DataType]]

ITEMS: Schema = {
    "item": pl.Int32,
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "image": pl.String,  # null where an item has no image; relative paths start at the artifact
}
USERS: Schema = {"user": pl.Int32, "user_id": pl.String}
INTERACTIONS: Schema = {
    "user": pl.Int32,
    "item": pl.Int32,
    "timestamp": pl.Int64,
    "split": pl.String,  # "train" is what is learned from; all else is held out
    # then the context of the interaction, as far as the source keeps any: String or Float64, or null
}
# Groups of choices, for evaluation only: a (user, item) may stand in several, or in none.
GROUPS: Schema = {"user": pl.Int32, "item": pl.Int32, "group": pl.String}
# At most one row per user; a user may be absent from any of the three parts.
SPLIT: Schema = {"user": pl.Int32, "history": pl.List(pl.Int32), "target": pl.Int32}
RECOMMENDATIONS: Schema = {
    "user": pl.Int32,
    "item": pl.Int32,
    "score": pl.Float32,
    "rank": pl.Int32,
}
# Captions and interests: `error` says why an item has none; both are null where there was nothing
# to ask. `attempts` counts how often the model was asked.
CAPTIONS: Schema = {
    "item": pl.Int32,
    "caption": pl.String,
    "error": pl.String,
    "attempts": pl.Int32,
}
INTERESTS: Schema = {
    "item": pl.Int32,
    "reasoning": pl.String,
    "interests": pl.List(pl.String),  # strongest evidence first; empty where there are none
    "evidence": pl.List(pl.String),
    "confidence": pl.List(pl.Float32),
    "error": pl.String,
    "attempts": pl.Int32,
    "dropped": pl.Int32,  # interests left out: repeats, and personal traits of users
}
# What a model wrote about items, with the truth; `rank` of the truth among all items' texts, by the
# embedding of what was written (ties: the mean place).
WRITTEN: Schema = {
    "item": pl.Int32,
    "task": pl.String,
    "truth": pl.String,
    "written": pl.String,
    "rank": pl.Float64,
}
_SEGMENTS = pl.List(pl.Struct({"text": pl.String, "sid": pl.List(pl.Int32), "entry": pl.Boolean}))
EXAMPLES: Schema = {"task": pl.String, "prompt": _SEGMENTS, "completion": _SEGMENTS}

SPLITS = ("train", "valid", "test")
GROUP = 20_000  # examples of one parquet row group: what is written, or encoded, at once


def recommendations_file(split: str) -> str:
    """Returns the name of the recommendations table of one split.

    The test table is the contract's `recommendations.parquet`; validation users' lists, on which
    fusion is fitted, have a file of their own.
    """
    return "recommendations.parquet" if split == "test" else f"recommendations.{split}.parquet"


def check(table: pl.DataFrame, schema: Schema, where: str | Path) -> pl.DataFrame:
    """Returns `table` if it has the columns and dtypes of `schema`; further columns are allowed.

    Args:
        table: the table to look at.
        schema: one of this module's schemas.
        where: the file or step that the table came from, named in the error.

    Raises:
        ValueError: a column is missing or has another dtype.
    """
    for name, dtype in schema.items():
        if name not in table.columns:
            raise ValueError(
                f"{where}: column '{name}' is missing; found {table.columns}, "
                f"expected {list(schema)}"
            )
        if table.schema[name] != dtype:
            raise ValueError(f"{where}: column '{name}' is {table.schema[name]}, expected {dtype}")
    return table


def check_lists(table: pl.DataFrame, where: str | Path, *, invalid: bool = True) -> pl.DataFrame:
    """Returns a recommendations table if its values can be trusted.

    Args:
        table: schema `RECOMMENDATIONS`.
        where: the file or system that it came from, named in the error.
        invalid: a negative item, which fills a place with nothing, is allowed; its score may be -inf.

    Raises:
        ValueError: it does not fit its schema, a value is missing, a score is not finite, a rank is
            below 1, or an item stands twice in a user's list. Names row (from 1), user and item.
    """
    check(table, RECOMMENDATIONS, where)
    nothing = pl.col("item") < 0
    score = pl.col("score")
    rules = [
        ("user", pl.col("user").is_not_null(), "a user"),
        ("item", pl.col("item").is_not_null() & (~nothing | invalid), "an item of the catalogue"),
        ("rank", pl.col("rank") >= 1, "1 or more"),
        ("score", score.is_finite() | ((score == float("-inf")) & nothing), "a finite number"),
    ]
    for name, holds, expected in rules:
        if len(wrong := _numbered(table, ~holds.fill_null(False))):
            first = wrong.row(0, named=True)
            raise ValueError(
                f"{where}: user {first['user']}, item {first['item']} has {name} {first[name]} "
                f"(row {first['row']}; {len(wrong):,} such rows); expected {expected}. Correct these "
                "rows or leave them out."
            )
    again = ~nothing & pl.struct("user", "item").is_duplicated()
    if len(twice := _numbered(table, again)):
        row, user, item = twice.row(0)[:3]
        raise ValueError(
            f"{where}: user {user} has item {item} twice (row {row}; {len(twice):,} such rows); "
            "expected every item once in a user's list"
        )
    return table


def _numbered(table: pl.DataFrame, wrong: pl.Expr) -> pl.DataFrame:
    """The rows where `wrong` holds, with their number from 1 before the columns of `RECOMMENDATIONS`."""
    holds = table.select(wrong.alias("wrong"))["wrong"]
    if not holds.any():
        return pl.DataFrame()
    return table.select(RECOMMENDATIONS.keys()).with_row_index("row", 1).filter(holds)


def read(path: str | Path, schema: Schema) -> pl.DataFrame:
    """Reads a parquet table and checks it against `schema`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not parquet, or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table")
    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: not a readable parquet file ({error})") from error
    return check(table, schema, path)


def write(path: str | Path, table: pl.DataFrame, schema: Schema) -> None:
    """Checks `table` against `schema` (of lists, also their values) and writes it as parquet."""
    check(table, schema, path)
    if schema is RECOMMENDATIONS:
        check_lists(table, path)
    table.write_parquet(path)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt or completion: plain text, or one item's SID.

    SIDs never travel as text, so that a title which happens to contain `<a_12>` stays a title.

    Attributes:
        text: plain text; beside a SID the context of its event, which stands after it and is no target.
        sid: an item's codes.
        entry: this text is one item of a history. Where a prompt is too long, items go whole and
            oldest first; a SID always is an item.
    """

    text: str | None = None
    sid: tuple[int, ...] | None = None
    entry: bool = False

    def __post_init__(self) -> None:
        assert self.text is not None or self.sid is not None, "a segment is a text or a SID"


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: the loss falls on `completion`, never on `prompt`."""

    task: str
    prompt: tuple[Segment, ...]
    completion: tuple[Segment, ...]


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Writes examples as a parquet table of schema `EXAMPLES`, in the order given.

    They are taken one group of rows at a time, so there may be more of them than memory holds.
    """
    from pyarrow import parquet  # slow to import, and most users of this module write no examples

    iterator, empty = iter(examples), _examples_table([])
    with parquet.ParquetWriter(path, empty.to_arrow().schema, compression="zstd") as writer:
        while group := list(islice(iterator, GROUP)):
            writer.write_table(_examples_table(group).to_arrow())


def read_examples(path: str | Path) -> list[Example]:
    """Reads what `write_examples` wrote.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    return [_example(row) for row in read(path, EXAMPLES).iter_rows(named=True)]


def pick_examples(path: str | Path, rows: Sequence[int]) -> list[Example]:
    """Reads some rows, in the order given; see `read_examples`."""
    return [_example(row) for row in read(path, EXAMPLES)[list(rows)].iter_rows(named=True)]


def example_groups(path: str | Path) -> int:
    """Returns how many groups of rows `write_examples` made."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return int(file.num_row_groups)


def iterate_examples(
    path: str | Path, *, groups: Sequence[int] | None = None, size: int = 2000
) -> Iterator[list[Example]]:
    """Yields what `write_examples` wrote in lists of `size` at most, with little in memory.

    Args:
        path: the file.
        groups: which groups of rows; None takes all.
        size: examples at once.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        chosen = range(file.num_row_groups) if groups is None else groups
        # Plain Arrow, one thread: polars hangs in a process forked from one that has used it.
        for part in file.iter_batches(size, row_groups=list(chosen), use_threads=False):
            yield [_example(row) for row in part.to_pylist()]


def _examples_table(examples: Sequence[Example]) -> pl.DataFrame:
    rows = [
        {"task": e.task, "prompt": _rows(e.prompt), "completion": _rows(e.completion)}
        for e in examples
    ]
    return pl.DataFrame(rows, schema=dict(EXAMPLES))


def _example(row: Mapping[str, Any]) -> Example:
    return Example(row["task"], _segments(row["prompt"]), _segments(row["completion"]))


def _rows(segments: Iterable[Segment]) -> list[dict[str, object]]:
    return [
        {"text": s.text, "sid": None if s.sid is None else list(s.sid), "entry": s.entry}
        for s in segments
    ]


def _segments(rows: Iterable[dict[str, object]]) -> tuple[Segment, ...]:
    return tuple(
        Segment(text=row["text"], entry=row["entry"])  # type: ignore[arg-type]
        if row["sid"] is None
        else Segment(sid=tuple(row["sid"]), text=row["text"])  # type: ignore[arg-type]
        for row in rows
    )
