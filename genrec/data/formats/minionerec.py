"""MiniOneRec's folder: a CSV per part, the index, the catalogue and the list of SIDs.

As `data.py`, `evaluate.py` and the scripts of github.com/AkaliKong/MiniOneRec read it: `train/`,
`valid/` and `test/<name>.csv` with seven columns, lists as Python literals; `index/<name>.index.json`
and `.item.json`; `info/<name>.txt`, a line of SID, title and item number, with tabs. It puts SIDs
together from three levels. Its own files cut histories to ten items; here they are whole.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from genrec.data.formats.bundle import (
    Bundle,
    Row,
    bundle_of,
    check_one_set,
    read_ids,
    warn_of_levels,
    write_catalogue,
    write_ids,
)
from genrec.data.formats.interchange import read_catalogue
from genrec.schema import SPLITS

# Its loader takes the last item of every history; training sequences of one item have none, so they
# stand apart, in a file that MiniOneRec does not open.
SINGLES = "single.csv"


def write(bundle: Bundle, folder: Path) -> None:
    """Writes the folder, and files with the owner's ids.

    Raises:
        ValueError: no SIDs or several sets of them, or an id that cannot be written.
    """
    check_one_set(bundle, "MiniOneRec")
    tokens = ["".join(parts) for parts in bundle.tokens()]
    warn_of_levels(bundle, "MiniOneRec")
    titles, users = bundle.items["title"].to_list(), bundle.users["user_id"].to_list()
    for part in SPLITS:
        rows = list(bundle.rows(part))
        files = {f"{bundle.name}.csv": [r for r in rows if r[1]]}
        if singles := [r for r in rows if not r[1]]:
            files[f"{bundle.name}.{SINGLES}"] = singles
        for file, chosen in files.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            table = _table(chosen, users, titles, tokens)
            table.write_csv(folder / part / file, quote_style="non_numeric")
    write_catalogue(folder / "index", bundle)
    (folder / "info").mkdir(exist_ok=True)
    lines = (
        f"{sid}\t{' '.join(title.split())}\t{item}\n"
        for item, (sid, title) in enumerate(zip(tokens, titles, strict=True))
    )
    (folder / "info" / f"{bundle.name}.txt").write_bytes("".join(lines).encode())
    write_ids(folder, bundle)


def _table(
    rows: Iterable[tuple[int, list[int], int]],
    users: list[str],
    titles: list[str],
    sids: list[str],
) -> pl.DataFrame:
    columns = {
        "user_id": pl.String,
        "history_item_title": pl.String,
        "item_title": pl.String,
        "history_item_id": pl.String,
        "item_id": pl.Int32,
        "history_item_sid": pl.String,
        "item_sid": pl.String,
    }
    filled = [
        (
            users[user],
            repr([titles[i] for i in history]),
            titles[target],
            repr(history),
            target,
            repr([sids[i] for i in history]),
            sids[target],
        )
        for user, history, target in rows
    ]
    return pl.DataFrame(filled, schema=columns, orient="row")


def read(folder: Path, name: str) -> Bundle:
    """Reads the folder; ids, order, split and SIDs are those of the files.

    Its own files ask for several items of one user; of validation and test the first counts.
    Without the owner's ids, items are named by their numbers and users by `user_id`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not of its shape; steps of a user are out of order.
    """
    catalogue, sids = read_catalogue(
        folder / "index" / f"{name}.item.json", folder / "index" / f"{name}.index.json"
    )
    users = read_ids(folder, name, "user")
    return bundle_of(
        name,
        catalogue,
        sids,
        {part: list(_rows(folder / part, name)) for part in SPLITS},
        user_ids=None if users is None else {own: own for own in users.values()},
        folder=folder,
    )


def _rows(folder: Path, name: str) -> Iterable[Row]:
    for path in (folder / f"{name}.csv", folder / f"{name}.{SINGLES}"):
        if path.name.endswith(SINGLES) and not path.is_file():
            continue
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected MiniOneRec's CSV of this part")
        table = pl.read_csv(path, infer_schema=False)
        wanted = ("user_id", "history_item_id", "item_id")
        if missing := [column for column in wanted if column not in table.columns]:
            raise ValueError(f"{path}: no column {missing}; found {table.columns}")
        for line, (user, history, target) in enumerate(table.select(wanted).iter_rows(), start=2):
            yield user, _numbers(history, f"{path}: row {line}"), target


def _numbers(text: str, where: str) -> list[str]:
    """Reads "[1, 2]" or "['1', '2']", never running it."""
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        items = None
    if not isinstance(items, list) or not all(isinstance(i, int | str) for i in items):
        raise ValueError(f"{where}: history_item_id is {text!r}; expected a list such as [1, 2]")
    return [str(item) for item in items]
