"""Trees that rank the union of all lists, fitted to NDCG by LightGBM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from genrec.extras import install
from genrec.retrieve.base import read_fitted, write_fitted
from genrec.retrieve.fusion.candidates import (
    Candidates,
    Tables,
    candidates,
    check_labels,
    ranked,
    with_targets,
)
from genrec.retrieve.fusion.features import VOTE, Facts, Views, blocks, counts_of, feature_names
from genrec.retrieve.fusion.settings import Fuse

if TYPE_CHECKING:
    import lightgbm


class LambdaRank:
    """Ranks candidates by boosted trees, each of which raises NDCG (LambdaMART; Burges 2010).

    A candidate's features are those of `features.blocks`: what each source says of it, and how it fits
    the user's history. The trees rank what stands among the first `pool` of some list; what is further
    down follows by its best place. Unlike weights, which are a vote, trees can trust one source alone
    where it has been right. There are few positives, one for each validation user whose target is in the
    pool; so the trees are small and few, each of a sample of candidates and features, with many
    candidates in a leaf. One thread and a seed: the same lists give the same trees.

    Args:
        settings: `trees`, `leaves` and `pool`; None takes the defaults.
        seed: of the samples.
        options: single settings instead, or changes to them.

    Raises:
        ImportError: lightgbm is not installed.

    Attributes:
        names_: the sources, ascending; set by `fit`.
        popularity_: int64 [N]; set by `fit`.
        facts_: what else is known of the items; set by `fit`.
        booster_: LightGBM's trees; set by `fit`.
    """

    kind, learned = "lambdarank", "importances"
    names_: tuple[str, ...]
    popularity_: npt.NDArray[np.int64]
    facts_: Facts
    booster_: lightgbm.Booster

    def __init__(self, settings: Fuse | None = None, *, seed: int = 0, **options: Any) -> None:
        self.settings, self.seed = Fuse.from_options(settings, **options), seed
        _lightgbm()

    def fit(
        self,
        tables: Tables,
        targets: pl.DataFrame,
        *,
        popularity: npt.ArrayLike,
        facts: Facts | None = None,
    ) -> Self:
        """Learns from validation users whose target is in the pool; it is to come first.

        Args:
            tables: validation users' recommendations table by source name.
            targets: the same users, schema `SPLIT`. Never test users.
            popularity: int [N], training interactions of each item, 0 or more.
            facts: what else is known of the items; None: nothing.

        Raises:
            ValueError: as `candidates` and `with_targets`; popularity that is no counts, a user without
                a history row, or a candidate outside 0..N-1.
            NothingToFitError: no target in the pool, or nothing but targets.
        """
        lightgbm, counts, known = _lightgbm(), counts_of(popularity), facts or Facts()
        labelled = with_targets(candidates(tables), targets)
        rows, label = labelled.rows, labelled.labels()
        learned = self._pool(rows)
        learned &= learned[labelled.target][labelled.owner]  # only users whose target is among them
        check_labels(label[learned])
        group = np.bincount(labelled.owner[learned])
        parts = [found[learned[part]] for part, found in blocks(rows, targets, counts, known)]
        data = lightgbm.Dataset(
            np.concatenate(parts),
            label[learned].astype(np.float32),
            group=group[group > 0],
            params=_DATA,
        )
        params = _DATA | _TREES | {"num_leaves": self.settings.leaves, "seed": self.seed}
        self.booster_ = lightgbm.train(params, data, num_boost_round=self.settings.trees)
        self.names_, self.popularity_, self.facts_ = rows.names, counts, known
        return self

    def fuse(self, tables: Tables, users: pl.DataFrame, *, k: int) -> pl.DataFrame:
        """Ranks each user's candidates; see `Gate.fuse`.

        Raises:
            ValueError: not fitted, other sources than at `fit`, or as `fit`.
        """
        names, rows = self._fitted(), candidates(tables)
        if rows.names != names:
            raise ValueError(
                f"lambdarank: fitted on sources {list(names)}, given {list(rows.names)}"
            )
        pool, vote = self._pool(rows), feature_names(names, self.facts_).index(VOTE)
        score = self.booster_.lower_bound() - np.nanmin(rows.rank, axis=1)  # below all of the pool
        for part, found in blocks(rows, users, self.popularity_, self.facts_):
            if (inside := pool[part]).any():
                score[part][inside] = (
                    self.booster_.predict(found[inside], num_threads=1)
                    + _TIES * found[inside, vote]
                )
        return ranked(rows.user, rows.item, score, k=k)

    def weights(self) -> dict[str, float]:
        """Returns the share of each feature in what all splits gained, for people to read."""
        names = feature_names(self._fitted(), self.facts_)
        gain = self.booster_.feature_importance("gain")
        return dict(zip(names, (gain / max(gain.sum(), 1e-12)).tolist(), strict=True))

    def save(self, folder: str | Path) -> None:
        """Writes settings (JSON), the trees (LightGBM's text) and facts of the items (safetensors).

        The views are not among them: `load` is given those of the embedding.
        """
        names, facts = self._fitted(), self.facts_
        head = {
            "kind": self.kind,
            "settings": self.settings.model_dump(include={"trees", "leaves", "pool"}),
            "seed": self.seed,
            "names": list(names),
            "views": sorted(facts.views),
        }
        arrays: dict[str, npt.NDArray[Any]] = {"popularity": self.popularity_}
        if facts.follows is not None:
            arrays |= {name: getattr(facts.follows, name) for name in _SPARSE}
        if facts.seen is not None:
            arrays["seen"] = facts.seen
        write_fitted(folder, head, arrays)
        self.booster_.save_model(Path(folder) / _TREES_FILE)

    @classmethod
    def load(cls, folder: str | Path, *, views: Views | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            folder: where it lies.
            views: of the items, at least those that it was fitted with.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: one is damaged, or views are missing.
        """
        head, arrays = read_fitted(folder, cls.kind)
        self = cls(seed=head["seed"], **head["settings"])
        file, given = Path(folder) / _TREES_FILE, views or {}
        if missing := [name for name in head["views"] if name not in given]:
            raise ValueError(
                f"{folder}: fitted with the views {head['views']} of the items, and {missing} are not "
                f"given; give those of the embedding"
            )
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; expected a folder written by save()")
        lightgbm = _lightgbm()
        try:
            self.booster_ = lightgbm.Booster(model_file=file)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"{file}: damaged ({error}); fit and save again") from error
        self.names_ = tuple(head["names"])
        self.popularity_, follows = arrays["popularity"], None
        if "indptr" in arrays:
            size = len(self.popularity_)
            parts = tuple(arrays[name] for name in _SPARSE)
            follows = sparse.csr_array(parts, shape=(size, size))
        self.facts_ = Facts(follows, arrays.get("seen"), {n: given[n] for n in head["views"]})
        return self

    def _pool(self, rows: Candidates) -> npt.NDArray[np.bool_]:
        """Which candidates are ranked by the trees, bool [C]: those near the top of some list."""
        return np.nanmin(rows.rank, axis=1) <= self.settings.pool

    def _fitted(self) -> tuple[str, ...]:
        names: tuple[str, ...] | None = getattr(self, "names_", None)
        if names is None:
            raise ValueError("this LambdaRank is not fitted; call fit() first")
        return names


_TREES_FILE = "trees.txt"
_TIES = 1e-3  # what the equal vote counts: it orders what the trees find alike
_SPARSE = ("data", "indices", "indptr")
_DATA: dict[str, Any] = {
    "max_bin": 63,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
# Chosen on validation users of Amazon Scientific, out of fold.
_TREES: dict[str, Any] = {
    "objective": "lambdarank",
    "label_gain": [0, 1],
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.05,
    "min_data_in_leaf": 200,
    "lambda_l2": 10.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
}


def _lightgbm() -> Any:
    """The package, or what installs it."""
    try:
        import lightgbm
    except ImportError:
        raise ImportError(
            f"fuse.method=lambdarank needs lightgbm; run: {install('fuse')}"
        ) from None
    return lightgbm
