"""What every retriever is: settings in, sequences to learn from, lists out, and the way to disk.

The shape is scikit-learn's: settings, seed and device in the constructor, what was learned in
attributes that end in an underscore. Sequences are lists of int arrays, so that a retriever needs no
table. A new retriever is a settings class and a class with `fit`, `_scorer`, `_arrays` and `_restore`;
see `popular` for the smallest one.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec import registry
from genrec.progress import Progress, silent
from genrec.ranking import RankedLists, best_first, top_k
from genrec.retrieve.sequences import (
    Flat,
    FloatArray,
    Sequences,
    Validation,
    chunks,
    flatten,
)
from genrec.retrieve.settings import RetrieverSettings

S = TypeVar("S", bound=RetrieverSettings)
Arrays = dict[str, npt.NDArray[Any]]
Ranker = Callable[[slice, Flat], RankedLists]

_HEAD, _BODY = "retriever.json", "arrays.safetensors"


class Retriever(ABC, Generic[S]):
    """Learns from training sequences and ranks the catalogue for a history.

    A class names its settings as its parameter: `class EASE(Retriever[EASESettings])`. Its `fit` sets
    `num_items_` last of all.

    Args:
        settings: its settings; None takes the defaults.
        seed: of whatever is drawn at random.
        device: "auto", "cpu" or "cuda".
        options: single settings instead, or changes to them: `SASRec(dim=32)`.

    Raises:
        ValueError: an unknown option, or a value out of bounds.

    Attributes:
        kind: its name in recipes.
        num_items_: N; set by `fit`.
        log_: per epoch loss, and valid where it was measured; empty where nothing is trained by epochs.
    """

    kind: ClassVar[str]
    settings_class: ClassVar[type[RetrieverSettings]]
    settings: S
    num_items_: int
    log_: list[dict[str, float]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in vars(cls).get("__orig_bases__", ()):
            for part in get_args(base):
                if isinstance(part, type) and issubclass(part, RetrieverSettings):
                    cls.settings_class = part
                    cls.kind = part.model_fields["kind"].default

    def __init__(
        self, settings: S | None = None, *, seed: int = 0, device: str = "auto", **options: Any
    ) -> None:
        self.settings = self.settings_class.from_options(settings, **options)  # type: ignore[assignment]
        self.seed, self.device = seed, device
        self.log_ = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r}, seed={self.seed})"

    @abstractmethod
    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Learns from training interactions only.

        What its settings ask for comes as further keywords: `features`, float32 [N, D] by view, where
        they want views; `queries`, (vectors [n, D], items [n]) by name, where they want texts; `valid`,
        a `Validation`, where it learns by epochs.

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
    ) -> RankedLists:
        """Ranks the catalogue for each history; memory is bounded whatever the number of users.

        Args:
            histories: one int array per user, oldest first; may be empty.
            k: length of each list.
            exclude_seen: leave out the items of the user's own history.
            progress: told how many users are done.

        Returns:
            int32 items and float32 scores [U, k].

        Raises:
            ValueError: not fitted, k below 1, or an item outside 0..N-1.
        """
        self._check_fitted()
        return in_blocks(
            self._ranker(histories, k=k, exclude_seen=exclude_seen),
            histories,
            num_items=self.num_items_,
            k=k,
            step=f"{self.kind}: recommend",
            progress=progress,
        )

    def learned_views(
        self, features: Mapping[str, FloatArray]
    ) -> tuple[dict[str, FloatArray], dict[str, FloatArray]] | None:
        """Returns the items' views as they came and as they were learned, by name, to be compared.

        Args:
            features: as `fit` got them.

        Returns:
            float [N, D] each; None where a retriever learns no views.
        """
        return None

    def export(
        self,
        folder: Path,
        *,
        item_ids: Sequence[str],
        valid: Validation,
        popularity: npt.NDArray[np.integer],
    ) -> dict[str, Any]:
        """Writes what it has to give in addition to its lists, and returns what a report tells of it.

        Args:
            folder: where to.
            item_ids: the owner's ids, N.
            valid: validation users.
            popularity: int [N], training interactions of each item.

        Returns:
            JSON values by name.
        """
        return {}

    def save(self, folder: str | Path) -> None:
        """Writes kind, settings, seed and log (JSON) and what was learned (safetensors)."""
        self._check_fitted()
        settings = self.settings.model_dump(mode="json", exclude={"kind"})
        head: dict[str, Any] = {"kind": self.kind, "settings": settings, "seed": self.seed}
        if self.log_:
            head["log"] = self.log_
        write_fitted(folder, head, self._arrays())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: it was written by another retriever, or is damaged.
        """
        head, arrays = read_fitted(folder, cls.kind)
        try:
            settings = dict(head["settings"])
            seed: int = settings.pop("seed", 0)  # where it was before it had a place of its own
            seed = head.get("seed", seed)
            self = cls(seed=seed, device=device, **settings)
            self.log_ = head.get("log", [])
            self._restore(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{Path(folder) / _HEAD}: damaged ({error}); fit and save again"
            ) from error
        return self

    @abstractmethod
    def _arrays(self) -> Arrays:
        """What was learned, by name."""

    @abstractmethod
    def _restore(self, arrays: Arrays) -> None:
        """Takes over what `_arrays` gave, and sets `num_items_`."""

    def _scorer(self) -> Callable[[Sequences], Any]:
        """Returns what scores the whole catalogue for B histories: float32 [B, N], numpy or torch.

        It is called once per `recommend`; what it returns may be overwritten. Equal scores are
        ranked by item number.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither _scorer nor _ranker")

    def _ranker(self, histories: Sequences, *, k: int, exclude_seen: bool) -> Ranker:
        """Returns what ranks a block of the users; for those that need not score every item."""
        score = self._scorer()
        return by_scores(lambda part, _: score(histories[part]), k=k, exclude_seen=exclude_seen)

    def _check_fitted(self) -> None:
        if not hasattr(self, "num_items_"):
            raise ValueError(f"this {type(self).__name__} is not fitted; call fit() first")


def open_retriever(folder: str | Path) -> Retriever[Any]:
    """Loads a fitted retriever of whatever kind.

    Args:
        folder: what `save` wrote; the retrieve stage's `retriever/`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a kind that is not known.
    """
    kind = _read_head(Path(folder) / _HEAD)["kind"]
    known = registry.parts("retrievers")
    if kind not in known:
        raise ValueError(
            f"{Path(folder) / _HEAD}: damaged, or of another package: the kind {kind!r} is unknown; "
            f"expected one of {', '.join(known)}"
        )
    retriever: Retriever[Any] = registry.implementation(known[kind]).load(folder)
    return retriever


# --- users to lists, a block at a time --------------------------------------------------------


def in_blocks(
    rank: Ranker,
    histories: Sequences,
    *,
    num_items: int,
    k: int,
    step: str,
    progress: Progress = silent,
) -> RankedLists:
    """Ranks all users, a block of them at a time.

    Args:
        rank: the lists of a slice of the users, whose histories it also gets laid end to end.
        histories: one int array per user.
        num_items: N.
        k: length of each list.
        step: the name that `progress` is told.
        progress: told how many users are done.

    Raises:
        ValueError: k below 1, or an item outside 0..N-1.
        FloatingPointError: a score is NaN or infinite.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    lists = RankedLists.empty(len(histories), k)
    for part in chunks(len(histories), num_items):
        # Before the scores: it refuses unknown items, and names the user.
        seen = flatten(histories[part], num_items=num_items, first=part.start)
        try:
            lists.put(part, rank(part, seen))
        except FloatingPointError as error:
            raise FloatingPointError(f"{step}: {error}; fit again with a lower lr") from error
        progress(step, part.stop, len(histories))
    return lists


def by_scores(
    score: Callable[[slice, Flat], Any],
    *,
    k: int,
    exclude_seen: bool = True,
    popularity: npt.NDArray[np.int64] | None = None,
) -> Ranker:
    """Returns what ranks a block by the scores of the whole catalogue.

    Args:
        score: float [B, N] for a slice of the users and their histories end to end, numpy or torch;
            may be overwritten here.
        k: length of each list.
        exclude_seen: leave out the items of the user's own history.
        popularity: int64 [N], which orders equal scores; None leaves that to the item number.
    """
    order = None if popularity is None else best_first(popularity)

    def rank(part: slice, seen: Flat) -> RankedLists:
        block = score(part, seen)
        if exclude_seen:
            mask(block, seen)
        if order is None:
            return top_k(block, k)
        # In this order of columns the first of equal ones is the most popular.
        return top_k(block[:, order], k).renumbered(order)

    return rank


def mask(scores: Any, seen: Flat) -> None:
    """Sets the scores [B, N] of each user's own items to -inf, in place."""
    if isinstance(scores, np.ndarray):
        scores[seen.row, seen.item] = -np.inf
    else:
        import torch

        scores[torch.from_numpy(seen.row), torch.from_numpy(seen.item)] = -torch.inf


# --- what was fitted, on disk -----------------------------------------------------------------


def write_fitted(
    folder: str | Path, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Writes retriever.json and arrays.safetensors; the folder is made if need be.

    Args:
        folder: where to.
        head: kind and settings, JSON values.
        arrays: what was learned, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, folder / _BODY)
    (folder / _HEAD).write_text(json.dumps(head, indent=2, sort_keys=True) + "\n", "utf-8")


def read_fitted(folder: str | Path, kind: str) -> tuple[dict[str, Any], Arrays]:
    """Reads what `write_fitted` wrote.

    Raises:
        FileNotFoundError: `folder` holds no saved retriever.
        ValueError: it holds another kind of retriever, or a damaged file.
    """
    file, body = Path(folder) / _HEAD, Path(folder) / _BODY
    head = _read_head(file)
    if not body.is_file():
        raise FileNotFoundError(f"{body}: no such file; expected a folder written by save()")
    if head["kind"] != kind:
        raise ValueError(f"{file}: holds a '{head['kind']}' retriever, expected '{kind}'")
    try:
        return head, load_file(body)
    except SafetensorError as error:
        raise ValueError(f"{body}: damaged ({error}); fit and save again") from error


def _read_head(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected a folder written by save()")
    try:
        head: dict[str, Any] = json.loads(file.read_text("utf-8"))
        head["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged ({error!r}); fit and save again") from error
    return head
