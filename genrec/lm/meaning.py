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


def check_meaning(name: str, folder: str, tokens: frozenset[str], sids: Sids) -> None:
    """Checks that a model's SID tokens mean the items that they are to mean here.

    Items that only one side knows are no contradiction; those that only this side knows are warned of.

    Args:
        name: of the model, as the recipe has it.
        folder: where it lies, or its name on the hub.
        tokens: the SID tokens in its vocabulary, at least one.
        sids: what they are to mean: item id to codes.

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
    known = read_index(file)
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
        raise ValueError(
            f"{what}: its SID tokens mean other items: by {file}, {len(other)} of the {len(shared)} "
            f"items that both know have another SID than here (item {item!r}: "
            f"{format_sid(known[item])} there, {format_sid(sids[item])} here). Use the SIDs that it "
            "was trained with: the same data, seed and settings of prepare, embed and quantize, or "
            f"that file as prepare.source.index with quantize.kind=published; or {_ANEW}"
        )
    if new := len(sids) - len(shared):
        logger.warning(
            "%s: %d of %d items are not in %s, so the model has yet to learn that its SID tokens mean "
            "them too",
            *(what, new, len(sids), file),
        )


def _find(what: str, folder: str) -> Path | None:
    """Returns the file that says what the tokens mean, `sids.json` before those of others."""
    if not Path(folder).is_dir():  # a name on the hub
        quiet = ("missing_entries", "connection_errors")
        options = {f"_raise_exceptions_for_{name}": False for name in quiet}
        path = cached_file(folder, SIDS_FILE, **options)
        return None if path is None else Path(path)
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


def _some(items: Iterable[str]) -> str:
    return ", ".join(repr(item) for item, _ in zip(items, range(3), strict=False))
