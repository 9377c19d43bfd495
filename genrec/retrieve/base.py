"""What every retriever can do, and the way from its arrays to the recommendations table.

The shape is scikit-learn's: settings (a seed too) in the constructor, what was learned in attributes
that end in an underscore. Sequences are lists of int arrays, so that a retriever needs no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.progress import Progress, silent

IntArray = npt.NDArray[np.integer]
FloatArray = npt.NDArray[np.floating]
Sequences = Sequence[npt.ArrayLike]


class Ranked(NamedTuple):
    """The lists of U users, best first.

    Attributes:
        items: int32 [U, k]; -1 where a user has fewer than k items left to recommend.
        scores: float32 [U, k]; higher is better within one user; -inf where `items` is -1.
    """

    items: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


class Retriever(Protocol):
    """Learns from training sequences and ranks the catalogue for a history.

    A retriever that needs more than sequences (item embeddings, say) takes it as a further keyword
    of `fit`.
    """

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Learns from training interactions only.

        Args:
            sequences: one int array per user, oldest item first; see `training_sequences`.
            num_items: N; items are 0..N-1, whether or not a sequence holds them.
            progress: told how far the fit is.

        Raises:
            ValueError: an item lies outside 0..N-1.
        """

    def recommend(
        self,
        histories: Sequences,
        *,
        k: int,
        exclude_seen: bool = True,
        progress: Progress = silent,
    ) -> Ranked:
        """Ranks items for each history; memory is bounded whatever the number of users.

        Args:
            histories: one int array per user, oldest first; may be empty.
            k: length of each list.
            exclude_seen: leave out the items of the user's own history.
            progress: told how many users are done.

        Raises:
            ValueError: not fitted, k below 1, or an item outside 0..N-1.
        """

    def save(self, folder: str | Path) -> None:
        """Writes settings and what was learned under `folder`: JSON and safetensors."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it was written by another retriever, or is damaged.
        """


def training_sequences(train: pl.DataFrame) -> list[npt.NDArray[np.int32]]:
    """Returns each user's whole training sequence, history and target, oldest first.

    Args:
        train: the train table of schema `SPLIT`.
    """
    schema.check(train, schema.SPLIT, "training_sequences")
    whole = train.select(pl.concat_list("history", pl.col("target"))).to_series()
    return [row.to_numpy() for row in whole]


def histories_of(split: pl.DataFrame) -> list[npt.NDArray[np.int32]]:
    """Returns the `history` column of a table of schema `SPLIT` as arrays, in row order."""
    schema.check(split, schema.SPLIT, "histories_of")
    return [row.to_numpy() for row in split["history"]]


def to_recommendations(users: npt.ArrayLike, items: IntArray, scores: FloatArray) -> pl.DataFrame:
    """Turns ranked arrays into the recommendations table, with unique ranks.

    Args:
        users: int [U], each user once.
        items: int [U, k], best first; -1 only after a user's last item.
        scores: float [U, k].

    Returns:
        A table of schema `RECOMMENDATIONS`, sorted by user, rank, item.

    Raises:
        ValueError: the shapes do not fit, a user repeats, or an item follows a -1.
    """
    users, items, scores = np.asarray(users), np.asarray(items), np.asarray(scores)
    if items.ndim != 2 or items.shape != scores.shape or users.shape != items.shape[:1]:
        raise ValueError(
            f"users {users.shape}, items {items.shape}, scores {scores.shape}: expected [U], "
            "[U, k] and [U, k]"
        )
    if len(np.unique(users)) != len(users):
        raise ValueError("a user appears twice: each user has one list")
    valid = items >= 0
    if (valid[:, 1:] & ~valid[:, :-1]).any():
        raise ValueError("an item follows a -1: put a user's items first, the -1s last")
    row, place = np.nonzero(valid)
    table = pl.DataFrame(
        {
            "user": users[row],
            "item": items[row, place],
            "score": scores[row, place],
            "rank": place + 1,
        }
    )
    return table.cast(dict(schema.RECOMMENDATIONS)).sort("user", "rank", "item")  # type: ignore[arg-type]
