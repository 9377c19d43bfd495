"""`genrec recommend RECIPE --user 42`: recommendations under the owner's ids, printed or in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import rich.console
from rich.text import Text

from genrec.pipeline import Pipeline
from genrec.progress import Progress

_NEWEST = 3  # items of a history that are printed


def recommend(
    pipeline: Pipeline,
    named: Sequence[str],
    *,
    users: str | None = None,
    history: Sequence[str] = (),
    k: int = 10,
    system: str | None = None,
    keep_seen: bool = False,
    why: bool = False,
    to: Path | None = None,
    progress: Progress,
) -> None:
    """Recommends to one kind of users, and prints the lists or writes them.

    Args:
        pipeline: of a finished recipe.
        named: ids of users; or
        users: `all`, or a text file with an id per line; or
        history: item ids, oldest first, of somebody who is not among the users.
        k: items for each.
        system: one system's lists, not the fused ones.
        keep_seen: items of the history may come again.
        why: with reasons.
        to: a `.parquet` or `.csv` file, replaced when it is complete; None prints.
        progress: told how many users are done.

    Raises:
        KeyError: no such user or item.
        ValueError: several kinds of users, an unknown system, or another kind of file.
        FileNotFoundError: no such file of users, or no folder for `to`.
        MissingArtifact: the recipe is not finished; names the command.
    """
    from genrec.recommendations import recommend_users

    if sum(map(bool, (named, users, history))) != 1:
        raise ValueError("give one of --user, --users and --history")
    if to is not None and to.suffix not in (".parquet", ".csv"):
        raise ValueError(f"--to {to}: expected a name that ends in .parquet or .csv")
    if to is not None and not to.parent.is_dir():
        raise FileNotFoundError(f"--to {to}: there is no folder {to.parent}")
    ids = None if users == "all" else list(named) or _ids_of(users)
    bundle = pipeline.finished_bundle()
    tables = recommend_users(
        bundle,
        None if history else ids,
        histories={"": list(history)} if history else None,
        k=k,
        system=system,
        filter_seen=not keep_seen,
        why=why,
        progress=progress,
    )
    if to is not None:
        count = _write(tables, to)
        print(f"{count} recommendations: {to}")
        return
    titles = dict(zip(bundle.items["item_id"], bundle.items["title"], strict=True))
    out = rich.console.Console(highlight=False)
    for table in tables:
        for (user,), own in table.group_by("user_id", maintain_order=True):
            chosen = history or [bundle.items["item_id"][n] for n in bundle.histories[str(user)]]
            _print(out, str(user), own, [titles[item] for item in chosen], titles)


def _ids_of(file: str | None) -> list[str]:
    if file is None:
        return []
    if not Path(file).is_file():
        raise FileNotFoundError(f"--users {file}: expected `all`, or a file with an id per line")
    try:
        lines = Path(file).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--users {file}: not UTF-8; expected a text with an id per line"
        ) from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"--users {file}: no ids; expected one per line")
    return ids


def _print(
    out: rich.console.Console,
    user: str,
    own: pl.DataFrame,
    chosen: Sequence[str],
    titles: dict[str, str],
) -> None:
    newest = "; ".join(_short(title, 40) for title in chosen[: -_NEWEST - 1 : -1])
    head = f"user {user}: " if user else ""
    out.print(
        Text(f"{head}{len(chosen)} chosen, the newest: {newest}", style="bold"), soft_wrap=True
    )
    width = max(map(len, own["item_id"]))
    for row in own.iter_rows(named=True):
        line = f"{row['rank']:>4}  {row['item_id']:<{width}}  {row['score']:>9.4f}  "
        out.print(Text(line + _short(row["title"], 80)), soft_wrap=True)
        if "systems" in row:
            reasons = [f"{entry['system']} {entry['rank']}" for entry in row["systems"]]
            because = [
                f"{_short(titles[entry['item_id']], 40)} ({entry['log_ratio']:+.2f})"
                for entry in row["because"] or ()
            ]
            reasons += [f"because of {'; '.join(because)}"] if because else []
            out.print(Text(f"      {' ' * width}{', '.join(reasons)}", style="dim"), soft_wrap=True)


def _write(tables: Iterator[pl.DataFrame], to: Path) -> int:
    """Writes part by part; the file appears when it is complete."""
    from pyarrow import csv, parquet

    if to.suffix == ".csv":
        tables = map(_flat, tables)
    writer: Any = csv.CSVWriter if to.suffix == ".csv" else parquet.ParquetWriter
    first = next(tables).to_arrow()  # an unknown user is known before there is a file
    count, partial = 0, to.with_name(f"{to.name}.partial")
    try:
        with writer(partial, first.schema) as out:
            for table in chain([first], (part.to_arrow() for part in tables)):
                out.write_table(table)
                count += len(table)
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Reasons as JSON text: a cell of a CSV file holds no list."""
    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    texts = (
        pl.Series(
            name, [v if v is None else json.dumps(v) for v in table[name].to_list()], pl.String
        )
        for name in nested
    )
    return table.with_columns(*texts)


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
