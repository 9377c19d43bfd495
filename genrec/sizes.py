"""How large to make what is trained, from the size of the data: what `genrec init` writes.

The numbers continue those of the shipped recipes, which were measured on catalogues of 800 to 4,344
items; beyond them they are a place to start from.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from genrec.data.split import k_core

_CORES = (5, 3, 2)
_KEPT = 0.4  # share of the interactions that a core has to keep
_TWO_LEVELS = 20_000  # items; beyond it a third level costs less than more codes
_DENSE = 20_000  # items; up to it EASE's N x N numbers are few
_COMPARED = 200_000  # items; up to it each can be compared with every user's last one
_LARGE = 1_000_000  # interactions; beyond it a step has more of them
_TOKENS = 4  # of an interaction in a set of SIDs: two codes, in a history and as what comes next
_LONG = 5_000  # steps that a slow average of the weights needs


def core(log: pl.DataFrame) -> tuple[int, int, int, int]:
    """Returns the largest of the usual k-cores that keeps much of a log; 0 where none does.

    Args:
        log: `user` and `item`, a row per interaction.

    Returns:
        k, and the users, items and interactions that it keeps.
    """
    for k in _CORES:
        kept = k_core(log, k, min_user=3)
        if len(kept) >= _KEPT * len(log):
            return k, kept["user"].n_unique(), kept["item"].n_unique(), len(kept)
    return 0, log["user"].n_unique(), log["item"].n_unique(), len(log)


def sections(
    *,
    items: int,
    interactions: int,
    text: bool,
    images: bool,
    quick: bool = False,
) -> dict[str, Any]:
    """Returns the sections of a recipe for data of some size, all but `prepare`.

    Args:
        items: N, after filtering.
        interactions: in all.
        text: items have titles to read.
        images: items have images.
        quick: ends in minutes: one small model, few epochs, retrievers that are counted.
    """
    embed: dict[str, Any] = {"behaviour": {"dim": max(2, min(64, items // 8))}}
    if not text:
        embed["text"] = None
    if images:
        embed["image"] = {"kind": "descriptors"}
    # Four sets of SIDs where there are words to read: each set's views are known apart and together.
    sets: Any = 2
    if text:
        sets = [{}, {}, {"views": {"text": 1}}, {"views": {"behaviour": 1}}]
    batch = 8192 if interactions > _LARGE else 1024
    epoch = max(1, interactions * (4 if text else 2) * _TOKENS // batch)  # steps
    epochs = 8 if text else 12
    train: dict[str, Any] = {
        "model": {"kind": "scratch", "size": "auto", "sid_init": "items"},
        "epochs": epochs,
        "tokens_per_batch": batch,
        "lr": "auto",
        "scheduler": "one-cycle",
        "ema": 0.999 if epochs * epoch > _LONG else 0.99,
        "softmax": "codes",
        "eval_every": max(200, epoch),
    }
    retrievers = ["popular", "cooccurrence", "itemknn"]
    if items <= _DENSE:
        retrievers.append("ease")
    if items <= _COMPARED:
        retrievers.append("graph")
    if not quick:
        retrievers.append("sasrec")
    retrieve: list[dict[str, Any]] = [{"kind": kind} for kind in retrievers]
    if text and not quick:
        retrieve.append({"kind": "magnitude", "item_table": True})
    if quick:
        model = {"kind": "scratch", "hidden": 64, "layers": 2, "dropout": 0.3, "sid_init": "items"}
        train |= {"model": model, "epochs": 3, "lr": 2e-3, "ema": 0.99, "eval_every": 200}
        sets = 1
    beams = 30 if quick else 50
    recipe: dict[str, Any] = {
        "embed": embed,
        "quantize": {"kind": "rkmeans", "code_dim": None, **_codes(items), "sets": sets},
        "compose": {"tasks": {name: {"rate": 0} for name in _OF_WORDS}},
        "train": train,
        "retrieve": retrieve,
        "recommend": {"num_beams": beams, "k": beams},
    }
    if quick:
        recipe["probe"] = {"enabled": False}
    return recipe


# A small model without a language learns nothing from these, and they take most of the time.
_OF_WORDS = ("title_to_sid", "sid_to_title", "history_to_title", "titles_to_title", "titles_to_sid")


def _codes(items: int) -> dict[str, int]:
    """Two levels of about half as many codes as items; three where those would be too many."""
    if items > _TWO_LEVELS:
        return {"levels": 3, "codes": 4096 if items > 1_000_000 else 1024}
    return {"levels": 2, "codes": min(4096, max(8, 2 ** ((items // 3).bit_length())))}
