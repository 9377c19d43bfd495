"""What toolkits exchange: catalogue, users, a split and SIDs; and the parts that formats share.

In files items and users are numbers from 0 (trainers use them as rows of a matrix). The owner's ids are
in `<name>.item2id` and `<name>.user2id`, a tab between id and number, as LC-Rec
(`data_process/utils.py`) and MIMIGenRec (`data/amazon18_data_process.py`) write them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.source import Times
from genrec.schema import ITEMS, SPLIT, USERS, check
from genrec.sid.codes import sid_tokens
from genrec.sid.sets import file_of

logger = logging.getLogger(__name__)

Ints = NDArray[np.int32]
Row = tuple[str, list[str], str]  # user, history, target, as written in a file
Rows = Mapping[str, Sequence[Row]]  # by part: train, valid, test
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Bundle:
    """One dataset, as it leaves for another toolkit or comes from one.

    Attributes:
        name: the files' name.
        items: schema `ITEMS`; images do not travel.
        users: schema `USERS`.
        train: schema `SPLIT`; likewise `valid` and `test`.
        interactions: schema `INTERACTIONS`; None where a format has none.
        sids: int32 [N, L]; None where there are none.
        further_sids: those of further sets, int32 [N, L_m], each in codes from 0.
        times: what the timestamps of the interactions are, see `genrec.data.source`.
    """

    name: str
    items: pl.DataFrame
    users: pl.DataFrame
    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    interactions: pl.DataFrame | None = None
    sids: Ints | None = None
    times: Times = "ns"
    further_sids: tuple[Ints, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"name {self.name!r}: expected letters, digits, '.', '-' and '_', for it names files"
            )
        for sids in self.sets:
            if len(sids) != len(self.items):
                raise ValueError(f"{len(sids)} SIDs and {len(self.items)} items; expected one each")

    @property
    def sets(self) -> tuple[Ints, ...]:
        """The SIDs of every set, each in codes from 0; none where there are no SIDs."""
        return () if self.sids is None else (self.sids, *self.further_sids)

    def index(self, number: int = 0) -> dict[str, list[str]]:
        """Returns each item's SID as `*.index.json` has it: {number: ["<a_1>", "<b_2>"]}."""
        return {str(item): tokens for item, tokens in enumerate(self.tokens(number))}

    def tokens(self, number: int = 0) -> list[list[str]]:
        """Returns each item's SID as tokens: `[["<a_1>", "<b_2>"], ...]`.

        Args:
            number: of the set, from 0.

        Raises:
            ValueError: there are no SIDs.
        """
        if self.sids is None:
            raise ValueError(
                f"{self.name}: this format is made of SIDs, and there are none; run the quantize stage"
            )
        return [sid_tokens(sid) for sid in self.sets[number]]

    def rows(self, part: str) -> Iterator[tuple[int, list[int], int]]:
        """Yields user, history and target of one part, in dense numbers.

        Of training every step is a row, as the toolkits have it: a sequence of n items gives n - 1
        rows, each with all items before its target; one of a single item gives a row with an
        empty history.
        """
        table = getattr(self, part)
        for user, history, target in table.select(list(SPLIT)).iter_rows():
            if part != "train" or not history:
                yield user, history, target
                continue
            whole = [*history, target]
            yield from ((user, whole[:n], whole[n]) for n in range(1, len(whole)))


def write_json(path: Path, value: Any) -> None:
    """Writes UTF-8 JSON, the same bytes for the same value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def write_ids(folder: Path, bundle: Bundle) -> None:
    """Writes `<name>.item2id` and `<name>.user2id`.

    Raises:
        ValueError: an id has a tab or a line end in it.
    """
    for what, table in (("item", bundle.items), ("user", bundle.users)):
        ids = table[f"{what}_id"]
        broken = ids.filter(ids.str.contains("[\t\n]"))
        if len(broken):
            raise ValueError(
                f"{what}_id {broken[0]!r} has a tab or a line end in it, which the files of other "
                f"toolkits cannot hold ({len(broken)} in all); rename such ids in the source"
            )
        lines = "".join(f"{own}\t{number}\n" for number, own in enumerate(ids))
        (folder / f"{bundle.name}.{what}2id").write_bytes(lines.encode())


def read_ids(folder: Path, name: str, what: str) -> dict[str, str] | None:
    """Returns the owner's id of each number (as text), in the order of numbers; None without the file.

    Raises:
        ValueError: a line is no id, a tab and a number, or a number is missing.
    """
    path = folder / f"{name}.{what}2id"
    if not path.is_file():
        return None
    pairs = [line.rsplit("\t", 1) for line in path.read_bytes().decode().split("\n") if line]
    ids = {pair[-1]: pair[0] for pair in pairs}
    wanted = [str(number) for number in range(len(pairs))]
    if any(len(pair) != 2 for pair in pairs) or sorted(ids) != sorted(wanted):
        raise ValueError(
            f"{path}: expected a line '<{what} id><tab><number>' for every number from 0 to "
            f"{len(pairs) - 1}"
        )
    return {number: ids[number] for number in wanted}


def write_catalogue(folder: Path, bundle: Bundle) -> None:
    """Writes `<name>.item.json`, {number: {title, description, ...}}, and `<name>.index.json`.

    Of several sets of SIDs the second is in `<name>.index-1.json`, and so on.
    """
    columns = [c for c in bundle.items.columns if c not in ("item", "item_id", "image")]
    rows = bundle.items.select(columns).iter_rows(named=True)
    features = {str(number): row for number, row in enumerate(rows)}
    write_json(folder / f"{bundle.name}.item.json", features)
    for number in range(max(1, len(bundle.sets))):
        file = file_of(number, f"{bundle.name}.index", "json")
        write_json(folder / file, bundle.index(number))


def sequence_rows(rows: Iterable[Row], where: str | Path) -> dict[str, list[str]]:
    """Returns each user's training sequence from its steps.

    Histories may be cut to the newest items, as MiniOneRec and MIMIGenRec do, so a sequence is
    its first row followed by the targets of the others.

    Raises:
        ValueError: a row does not go on from the one before.
    """
    sequences: dict[str, list[str]] = {}
    for user, history, target in rows:
        known = sequences.setdefault(user, list(history))
        if history and known[-len(history) :] != history:
            raise ValueError(
                f"{where}: user {user!r}: the row with target {target!r} has a history that is not the "
                "end of what came before; expected the user's steps in order"
            )
        known.append(target)
    return sequences


def bundle_of(
    name: str,
    catalogue: pl.DataFrame,
    sids: Mapping[str, Sequence[int]] | None,
    rows: Rows,
    *,
    user_ids: Mapping[str, str] | None,
    folder: Path,
) -> Bundle:
    """Puts together what a reader found, in dense numbers.

    Args:
        name: of the dataset.
        catalogue: title, description and attributes; `item_id` is the file's name of an item.
        sids: by these names, in their order; or None.
        rows: of each part, in the file's names. Of training every step is one. Of validation and
            test the first of each user counts; more of them are counted and said.
        user_ids: the owner's ids by the files' names of users, in the order of numbers; None where the
            names are the ids.
        folder: where `<name>.item2id` may be; named in errors.

    Raises:
        ValueError: an unknown item or user, or steps out of order.
    """
    item_keys = catalogue["item_id"].to_list()
    item_ids = read_ids(folder, name, "item")
    numbers = {key: number for number, key in enumerate(item_keys)}
    users = list(user_ids or dict.fromkeys(user for part in rows.values() for user, _, _ in part))
    user_numbers = {key: number for number, key in enumerate(users)}
    parts: dict[str, list[Row]] = {
        "train": [(u, s[:-1], s[-1]) for u, s in sequence_rows(rows["train"], folder).items()]
    }
    for part in ("valid", "test"):
        first: dict[str, Row] = {}
        for row in rows[part]:
            first.setdefault(row[0], row)
        parts[part] = list(first.values())
        if more := len(rows[part]) - len(first):
            logger.warning("%s: %d further %s rows of the same users left out", folder, more, part)
    try:
        tables = {
            part: pl.DataFrame(
                [(user_numbers[u], [numbers[i] for i in h], numbers[t]) for u, h, t in written],
                schema=dict(SPLIT),
                orient="row",
            ).sort("user")
            for part, written in parts.items()
        }
    except KeyError as error:
        raise ValueError(
            f"{folder}: {error.args[0]!r} is no item of the catalogue and no user of the list"
        ) from error
    own = [key if item_ids is None else item_ids[key] for key in item_keys]
    named = pl.DataFrame({"item": range(len(own)), "item_id": own}, schema_overrides=_IDS)
    image = pl.lit(None, dtype=pl.String).alias("image")
    features = catalogue.drop("item_id")
    rest = [c for c in features.columns if c not in ITEMS]
    items = pl.concat([named, features], how="horizontal").with_columns(image)
    return Bundle(
        name,
        check(items.select(*ITEMS, *rest), ITEMS, folder),
        pl.DataFrame(
            {
                "user": range(len(users)),
                "user_id": [key if user_ids is None else user_ids[key] for key in users],
            },
            schema=dict(USERS),
        ),
        tables["train"],
        tables["valid"],
        tables["test"],
        sids=None if sids is None else np.array(list(sids.values()), dtype=np.int32),
    )


_IDS = {"item": pl.Int32, "item_id": pl.String}


def check_one_set(bundle: Bundle, toolkit: str) -> None:
    """Checks that there are no more SIDs than a toolkit has a place for.

    Raises:
        ValueError: there are several sets of them.
    """
    if bundle.further_sids:
        raise ValueError(
            f"{bundle.name}: {toolkit} has one SID for each item, and here are {len(bundle.sets)} sets "
            "of SIDs. Export as index-json, recbole or rectools, which hold them all, or make one set: "
            "quantize.sets=1"
        )


def warn_of_levels(bundle: Bundle, toolkit: str) -> None:
    """Warns where a toolkit reads three levels only, however many a file has."""
    if bundle.sids is not None and bundle.sids.shape[1] != 3:
        logger.warning(
            "%s puts a SID together from its first three levels; these have %d",
            toolkit,
            bundle.sids.shape[1],
        )
