"""What a model's SID tokens stand for: the file of its items' SIDs that lies next to its weights.

To a model, `<a_12>` means the items that had this code in training. Under other SIDs the same token
means other items, so a model may be trained further only under the SIDs that it knows.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers.utils import cached_file

from genrec.data.formats.interchange import read_index
from genrec.sid.codes import format_sid, is_token, sid_tokens
from genrec.sid.sets import file_of

logger = logging.getLogger(__name__)

SIDS_FILE = "sids.json"
# What others call a file of the same form: LC-Rec, LETTER and MiniOneRec; MIMIGenRec.
_OTHERS = ("*.index.json", "index/*.index.json", "id2sid.json")
_ANEW = "set train.model.sid_init=random to draw the rows of its SID tokens anew"

Sids = Mapping[str, Sequence[int]]  # item id -> its codes


def write_sids(file: Path, item_ids: Iterable[str], sids: NDArray[np.integer]) -> None:
    """Writes `sids.json`, in the form of LC-Rec's index files: `{"i7": ["<a_1>", "<b_2>"], ..}`.

    Args:
        file: in the folder of the model, `sids.json` for its first or only set.
        item_ids: N names, as the owner calls the items.
        sids: int [N, L].
    """
    index = dict(zip(item_ids, map(sid_tokens, sids), strict=True))
    text = json.dumps(index, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def sid_tokens_in(vocabulary: Iterable[str]) -> frozenset[str]:
    """Returns the tokens of a vocabulary that are SID tokens."""
    return frozenset(token for token in vocabulary if is_token(token))


def check_meaning(
    name: str, folder: str, tokens: frozenset[str], sids: Sequence[Sids]
) -> frozenset[str]:
    """Checks that a model's SID tokens mean the items that they are to mean here, in every set of SIDs.

    Items that only one side knows are no contradiction; those that only this side knows are warned of,
    and so is a set that only one side has, if its codes are not those of another set on the other side.

    Args:
        name: of the model, as the recipe has it.
        folder: where it lies, or its name on the hub.
        tokens: the SID tokens in its vocabulary, at least one.
        sids: what they are to mean: of each set, item id to codes.

    Returns:
        The tokens that go on as they were: all but those of sets that the model does not know.

    Raises:
        ValueError: they mean other items, or nothing says what they mean; names the file, and what
            to set.
    """
    what = f"train.model.name='{name}'"
    file = _find(what, folder)
    if file is None:
        raise ValueError(
            f"{what}: its vocabulary has {len(tokens)} SID tokens, such as {min(tokens)}, but "
            f"nothing in {folder} says which items they mean; expected {SIDS_FILE}, or another index "
            f"file ({', '.join(_OTHERS)}). Put the one that it was trained with there, as {SIDS_FILE}; "
            f"or {_ANEW}"
        )
    files = [file]
    while (file := _further(folder, len(files))) is not None:
        files.append(file)
    known = [read_index(file) for file in files]
    for number, (file, there, here) in enumerate(zip(files, known, sids, strict=False)):
        _check_set(what, file, there, here, number if len(sids) > 1 else None)
    _check_apart(what, files, known, sids)
    new = frozenset[str]().union(*(_tokens_of(here) for here in sids[len(known) :]))
    if new:
        logger.warning(
            "%s: knows %d of the %d sets of SIDs; the %d tokens of the others are drawn anew",
            *(what, len(known), len(sids), len(new)),
        )
    if len(known) > len(sids):
        logger.warning(
            "%s: knows %d sets of SIDs and quantize.sets has %d here, so what it learned of the others "
            "is not used",
            *(what, len(known), len(sids)),
        )
    return tokens - new


def _check_set(what: str, file: Path, known: Sids, sids: Sids, number: int | None) -> None:
    """Checks one set of SIDs; `number` is named where there are several."""
    in_set = "" if number is None else f" in set {number + 1} of SIDs"
    shared = [item for item in sids if item in known]
    if not shared:
        raise ValueError(
            f"{what}: {file} names none of the {len(sids)} items of this catalogue (there "
            f"{_some(known)}; here {_some(sids)}), so its SID tokens mean other items. Train it on the "
            f"catalogue that it knows, or {_ANEW}"
        )
    other = [item for item in shared if tuple(known[item]) != tuple(map(int, sids[item]))]
    if other:
        item = other[0]
        published = (
            "that file as prepare.source.index"
            if number is None
            else "its files of all sets as prepare.source.index=[sids.json, sids-1.json]"
        )
        raise ValueError(
            f"{what}: its SID tokens mean other items: by {file}, {len(other)} of the {len(shared)} "
            f"items that both know have another SID than here{in_set} (item {item!r}: "
            f"{format_sid(known[item])} there, {format_sid(sids[item])} here). Use the SIDs that it "
            "was trained with: the same data, seed and settings of prepare, embed and quantize, or "
            f"{published} with quantize.kind=published; or {_ANEW}"
        )
    if new := len(sids) - len(shared):
        logger.warning(
            "%s: %d of %d items are not in %s, so the model has yet to learn that its SID tokens mean "
            "them too",
            *(what, new, len(sids), file),
        )


def _check_apart(
    what: str, files: Sequence[Path], known: Sequence[Sids], sids: Sequence[Sids]
) -> None:
    """Checks that no token is of one set of SIDs there and of another one here."""
    if len(known) == len(sids) == 1:
        return
    there, here = (
        {token: number for number, own in enumerate(sets) for token in _tokens_of(own)}
        for sets in (known, sids)
    )
    moved = [token for token in sorted(here) if there.get(token, here[token]) != here[token]]
    if moved:
        token = moved[0]
        raise ValueError(
            f"{what}: {token} is a code of set {there[token] + 1} of SIDs by {files[there[token]]}, and "
            f"of set {here[token] + 1} here, as {len(moved)} in all. Use the SIDs that it was trained "
            f"with, and more sets only after those; or {_ANEW}"
        )


def _tokens_of(sids: Sids) -> set[str]:
    return {token for codes in sids.values() for token in sid_tokens(codes)}


def _find(what: str, folder: str) -> Path | None:
    """Returns the file that says what the tokens mean, `sids.json` before those of others."""
    if not Path(folder).is_dir():
        return _on_hub(folder, SIDS_FILE)
    for pattern in (SIDS_FILE, *_OTHERS):
        files = sorted(Path(folder).glob(pattern))
        if len(files) > 1:
            raise ValueError(
                f"{what}: {len(files)} index files could say what its SID tokens mean: "
                f"{', '.join(map(str, files))}; copy the one that it was trained with to "
                f"{Path(folder) / SIDS_FILE}, or {_ANEW}"
            )
        if files:
            return files[0]
    return None


def _further(folder: str, number: int) -> Path | None:
    """Returns the file of a further set of SIDs; None where the model has no such set."""
    name = file_of(number, suffix="json")
    if not Path(folder).is_dir():
        return _on_hub(folder, name)
    file = Path(folder) / name
    return file if file.is_file() else None


def _on_hub(name: str, file: str) -> Path | None:
    quiet = ("missing_entries", "connection_errors")
    options = {f"_raise_exceptions_for_{what}": False for what in quiet}
    path = cached_file(name, file, **options)
    return None if path is None else Path(path)


def _some(items: Iterable[str]) -> str:
    return ", ".join(repr(item) for item, _ in zip(items, range(3), strict=False))
