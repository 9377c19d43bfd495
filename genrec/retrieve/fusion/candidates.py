"""The lists of several sources side by side: values, order, NDCG, and the items to decode from.

A tie of m items (one SID) at rank r has the mean rank r + (m - 1) / 2. Fused scores are compared
as the float32 that the table holds, equal ones by item number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.ranking import best_of_rows

Tables = Mapping[str, pl.DataFrame]
Method = Literal["reciprocal_rank", "minmax", "zscore"]
Floats = npt.NDArray[np.float64]


class NothingToFitError(ValueError):
    """Nothing to fit a fusion to: the validation lists hold no target, or nothing but targets."""


class Candidates(NamedTuple):
    """Every (user, item) that a source lists, sorted by user, item: C rows, S sources.

    Attributes:
        names: the sources, ascending.
        user: int32 [C].
        item: int32 [C].
        score: float64 [C, S], NaN where the source does not list the item.
        rank: float64 [C, S], mean rank in the source's list, NaN likewise.
    """

    names: tuple[str, ...]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    score: Floats
    rank: Floats

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which source lists which item, bool [C, S]."""
        return ~np.isnan(self.rank)

    def taken(self, rows: slice | npt.NDArray[np.bool_]) -> Candidates:
        """Returns some of the rows."""
        arrays = (self.user[rows], self.item[rows], self.score[rows], self.rank[rows])
        return Candidates(self.names, *arrays)


def candidates(tables: Tables) -> Candidates:
    """Joins the sources' lists.

    Args:
        tables: recommendations table by source name; a user may be missing in some.

    Raises:
        ValueError: no tables, or as `schema.check_lists`.
    """
    if not tables:
        raise ValueError("fusion: no sources; expected one recommendations table or more")
    names = tuple(sorted(tables))
    keys = ["user", "item"]
    lists = {
        name: _with_mean_rank(schema.check_lists(tables[name], name, invalid=False))
        for name in names
    }
    wide = pl.concat([table.select(keys) for table in lists.values()]).unique().sort(keys)
    for column, table in enumerate(lists.values()):
        renamed = table.rename({"score": f"score{column}", "rank": f"rank{column}"})
        wide = wide.join(renamed, on=keys, how="left", maintain_order="left")
    score, rank = (
        wide.select(pl.col(f"{what}{s}").fill_null(np.nan) for s in range(len(names))).to_numpy()
        for what in ("score", "rank")
    )
    return Candidates(names, wide["user"].to_numpy(), wide["item"].to_numpy(), score, rank)


def contributions(rows: Candidates, method: Method, *, rrf_k: float = 60.0) -> Floats:
    """Returns what each source gives each candidate at weight 1, float64 [C, S]; 0 where absent.

    Raises:
        ValueError: an unknown method, or rrf_k is negative or not finite.
    """
    if method not in get_args(Method) or not 0 <= rrf_k < np.inf:
        raise ValueError(
            f"method={method!r}, rrf_k={rrf_k}: expected one of {get_args(Method)} and an rrf_k of "
            "0 or more"
        )
    if method == "reciprocal_rank":
        return np.nan_to_num(1 / (rrf_k + rows.rank))
    columns = [str(source) for source in range(len(rows.names))]
    frame = pl.DataFrame(rows.score, schema=columns, nan_to_null=True)
    values = [_normalised(pl.col(name), method) for name in columns]
    return frame.with_columns(user=rows.user).select(values).to_numpy()


def _normalised(score: pl.Expr, method: Method) -> pl.Expr:
    worst, best = score.min().over("user"), score.max().over("user")
    above = score - worst
    spread = score.std(ddof=0).over("user")
    value = above / (best - worst) if method == "minmax" else above / spread + 1
    all_equal = pl.when(score.is_not_null()).then(1.0)
    return pl.when(best > worst).then(value).otherwise(all_equal).fill_null(0.0)


def ranked(
    user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], score: Floats, *, k: int
) -> pl.DataFrame:
    """Returns each user's k best candidates with unique ranks, schema `RECOMMENDATIONS`.

    Args:
        user: int [C], ascending.
        item: int [C], ascending within a user.
        score: float [C]; compared as float32; -inf leaves a candidate out.
        k: length of the lists.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected 1 or more")
    listed = np.flatnonzero(score > -np.inf)
    kept_score = score[listed].astype(np.float32)
    best, place = best_of_rows(user[listed], kept_score, k)
    rows = listed[best]
    columns = {"user": user[rows], "item": item[rows], "score": kept_score[best], "rank": place + 1}
    return pl.DataFrame(columns).cast(dict(schema.RECOMMENDATIONS))  # type: ignore[arg-type]


class WithTargets(NamedTuple):
    """The candidates of users whose target is among them.

    Attributes:
        rows: their candidates, H users.
        owner: int64 [C], user of each row, counted 0..H-1.
        target: int64 [H], the row that holds each user's target.
        earlier: bool [C], whether the row's item number comes before the target's.
        users: how many users there were, those without a hit included.
    """

    rows: Candidates
    owner: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    earlier: npt.NDArray[np.bool_]
    users: int

    def labels(self) -> npt.NDArray[np.bool_]:
        """Returns which candidates are their user's target, bool [C]."""
        label = np.zeros(len(self.owner), dtype=bool)
        label[self.target] = True
        return label


def check_labels(label: npt.NDArray[np.bool_]) -> None:
    """Checks that there is something to tell apart.

    Raises:
        NothingToFitError: no candidate is a target, or every one.
    """
    if label.all() or not label.any():
        raise NothingToFitError(
            f"fusion: {'every' if len(label) else 'no'} candidate to learn from is its user's target; "
            "nothing to tell apart. Give longer lists"
        )


def with_targets(rows: Candidates, targets: pl.DataFrame) -> WithTargets:
    """Keeps the users that can teach something about order: their target is a candidate.

    Raises:
        ValueError: `targets` does not fit, or a user has two targets.
        NothingToFitError: no user is left.
    """
    wanted = targets_of(targets)
    keys = pl.DataFrame({"user": rows.user, "item": rows.item})
    is_target = pl.col("item") == pl.col("target")
    joined = keys.join(wanted, on="user", how="left", maintain_order="left")
    hit = joined.select(is_target.fill_null(False), any=is_target.any().over("user"))
    keep = hit["any"].fill_null(False).to_numpy()
    if not keep.any():
        raise NothingToFitError(
            f"fusion: no source lists the target of any of {len(wanted)} users; nothing to fit. "
            "Give the lists of the same (validation) users, and longer ones"
        )
    kept_rows = rows.taken(keep)
    owner = np.unique(kept_rows.user, return_inverse=True)[1]
    target = np.flatnonzero(hit["item"].to_numpy()[keep])
    earlier = kept_rows.item < kept_rows.item[target][owner]
    return WithTargets(kept_rows, owner, target, earlier, len(wanted))


def ndcg(hits: WithTargets, score: Floats, *, k: int) -> float:
    """Mean NDCG@k over all users if candidates were ranked by `score` [C] as `ranked` does it."""
    score = score.astype(np.float32)
    own = score[hits.target][hits.owner]
    better = (score > own) | ((score == own) & hits.earlier)
    rank = 1 + np.bincount(hits.owner[better], minlength=len(hits.target))
    counts = (rank <= k) & (score[hits.target] > -np.inf)
    return float((1 / np.log2(1 + rank))[counts].sum()) / hits.users


def _with_mean_rank(table: pl.DataFrame) -> pl.DataFrame:
    """user, item, score and mean rank of one source, float64."""
    tied = pl.len().over("user", "rank")
    rank = pl.col("rank").cast(pl.Float64) + (tied.cast(pl.Float64) - 1) / 2
    return table.select("user", "item", pl.col("score").cast(pl.Float64), rank=rank)


def targets_of(targets: pl.DataFrame) -> pl.DataFrame:
    """Returns user and target of a table of schema `SPLIT`, each user once."""
    schema.check(targets, schema.SPLIT, "targets")
    if targets["user"].is_duplicated().any():
        raise ValueError("targets: a user stands twice; expected one target per user")
    return targets.select("user", "target")


def pooled(tables: Tables, users: Sequence[int], *, size: int) -> list[npt.NDArray[np.int64]]:
    """Returns for each user the first `size` different items of all lists, by their best rank.

    Args:
        tables: recommendations table by source name; of equal ranks the earlier source's comes first.
        users: U users; one whom no source lists anything for gets none.
        size: at most so many for each.

    Returns:
        U arrays int64 [n <= size].

    Raises:
        ValueError: no tables, one that is malformed (see `schema.check_lists`), or size below 1.
    """
    if not tables or size < 1:
        raise ValueError(f"{len(tables)} sources, size {size}; expected 1 of each or more")
    order = ["user", "rank", "source", "item"]
    lists = [
        schema.check_lists(table, name, invalid=False).select(
            "user", "item", "rank", source=pl.lit(number, pl.Int32)
        )
        for number, (name, table) in enumerate(tables.items())
    ]
    first = (
        pl.concat(lists)
        .sort(order)
        .unique(["user", "item"], keep="first", maintain_order=True)
        .group_by("user", maintain_order=True)
        .agg(pl.col("item").head(size))
    )
    wanted = pl.DataFrame({"user": users}, schema={"user": pl.Int32})
    lists_of = wanted.join(first, on="user", how="left", maintain_order="left")["item"]
    return [
        np.zeros(0, np.int64) if row is None else row.to_numpy().astype(np.int64)
        for row in lists_of
    ]
