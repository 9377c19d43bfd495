"""MIMIGenRec's files: `id2sid.json`, `new_tokens.json`, and what its preprocessing starts from.

As `preprocess_data_sft_rl.py` of github.com/cocoshe/MIMIGenRec writes and reads them: `id2sid.json`
{"0": ["<a_1>", "<b_2>", "<c_3>"]}; `new_tokens.json`, all tokens sorted as text; and in
`<name>/` the catalogue, the index and `<name>.{train,valid,test}.inter`, whose three columns are user,
history and target. It puts SIDs together from three levels and skips rows without a history.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from genrec.data.formats.bundle import (
    Bundle,
    Row,
    bundle_of,
    check_one_set,
    read_ids,
    warn_of_levels,
    write_catalogue,
    write_ids,
    write_json,
)
from genrec.data.formats.interchange import read_catalogue
from genrec.schema import SPLITS

HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token"


def write(bundle: Bundle, folder: Path) -> None:
    """Writes both JSON files and the folder `<name>/`.

    Raises:
        ValueError: no SIDs or several sets of them, or an id that cannot be written.
    """
    check_one_set(bundle, "MIMIGenRec")
    index = bundle.index()
    warn_of_levels(bundle, "MIMIGenRec")
    inside = folder / bundle.name
    inside.mkdir(parents=True, exist_ok=True)
    write_json(folder / "id2sid.json", index)
    write_json(folder / "new_tokens.json", sorted({t for parts in index.values() for t in parts}))
    write_catalogue(inside, bundle)
    for part in SPLITS:
        lines = (
            f"{user}\t{' '.join(map(str, history))}\t{target}"
            for user, history, target in bundle.rows(part)
        )
        text = "\n".join([HEADER, *lines]) + "\n"
        (inside / f"{bundle.name}.{part}.inter").write_bytes(text.encode())
    write_ids(inside, bundle)


def read(folder: Path, name: str) -> Bundle:
    """Reads the folder; ids, order, split and SIDs (those of `id2sid.json`) are the files'.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not of its shape; steps of a user are out of order.
    """
    inside = folder / name
    catalogue, sids = read_catalogue(inside / f"{name}.item.json", folder / "id2sid.json")
    return bundle_of(
        name,
        catalogue,
        sids,
        {part: list(_rows(inside / f"{name}.{part}.inter")) for part in SPLITS},
        user_ids=read_ids(inside, name, "user"),
        folder=inside,
    )


def _rows(path: Path) -> Iterable[Row]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {HEADER!r} and a row per question")
    header, *lines = path.read_bytes().decode().split("\n")
    if header != HEADER:
        raise ValueError(f"{path}: the first line is {header!r}, expected {HEADER!r}")
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        parts = line.split("\t")
        if len(parts) != 3:
            raise ValueError(f"{path}: line {number} has {len(parts)} columns, expected 3")
        yield parts[0], parts[1].split(), parts[2]
