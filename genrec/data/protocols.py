"""Ways to split: which interactions are learned from, and what is asked of whom.

Each labels the rows of the log and gives every user at most one row per part. A row's history is what
lies before its target; a user of whom a part knows nothing to ask has no row there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import polars as pl

from genrec.schema import INTERACTIONS, SPLIT, check

Target = Literal["first", "last"]


@dataclass(frozen=True)
class Parts:
    """A split.

    Attributes:
        interactions: schema `INTERACTIONS`, by user and time. What a protocol takes out is not there.
        train: schema `SPLIT`; history and target are together what is learned from.
        valid: schema `SPLIT`; likewise `test`.
        hidden: items held out of training, which stand in no history; empty where there are none.
        dropped: interactions taken out, by reason.
        facts: where the cuts lie and how many are held out, ready for JSON.
    """

    interactions: pl.DataFrame
    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    hidden: pl.Series = field(default_factory=lambda: pl.Series("item", [], dtype=pl.Int32))
    dropped: dict[str, int] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)

    @property
    def trained(self) -> pl.Series:
        """The items that stand in a training sequence, each once. Int32."""
        return self.interactions.filter(pl.col("split") == "train")["item"].unique()


class SplitProtocol(Protocol):
    """A way to split.

    Attributes:
        kind: its name in recipes.
        min_length: users with fewer interactions are of no use to it.
        needs_time: whether timestamps of different users must be comparable.
    """

    kind: ClassVar[str]
    min_length: ClassVar[int]
    needs_time: ClassVar[bool]

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits a log.

        Args:
            log: user, item, timestamp; by user and time, in dense ids.

        Raises:
            ValueError: a part would be empty.
        """


@dataclass(frozen=True)
class LastOut:
    """Each user's last interaction is the test target, the last but one the validation target."""

    kind: ClassVar[str] = "last_out"
    min_length: ClassVar[int] = 3
    needs_time: ClassVar[bool] = False

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`; every user stands in all three parts."""
        labelled = _labelled(log, _last_two())
        return _parts(labelled, valid="first", test="first")


@dataclass(frozen=True)
class RandomOut:
    """Random leave-one-out: of each user one interaction drawn at random tests, another validates.

    For logs without times, whose order says nothing. All others are learned from; they are the history
    of the validation target, and with that one the history of the test target. Where there are times,
    what is learned from may come after what is asked for, as in every random hold-out.

    Args:
        seed: of the draw.
    """

    seed: int = 0
    kind: ClassVar[str] = "random"
    min_length: ClassVar[int] = 3
    needs_time: ClassVar[bool] = False

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`; of each user, interactions come part by part."""
        drawn = pl.Series(np.random.default_rng(self.seed).permutation(len(log)))
        place = log.with_columns(drawn=drawn).select(pl.col("drawn").rank("ordinal").over("user"))
        part = place.to_series().clip(upper_bound=3)  # 1 tests, 2 validates
        label = pl.lit(part).replace_strict([1, 2, 3], ["test", "valid", "train"])
        labelled = _labelled(log, label).with_columns(part=part)
        labelled = labelled.sort("user", "part", descending=[False, True], maintain_order=True)
        labelled = labelled.drop("part")
        return _parts(labelled, valid="first", test="first")


@dataclass(frozen=True)
class Temporal:
    """One cut in time for everybody: nothing after it is known when anything is learned.

    By default the target is a user's *next* item after the cut; the history is all before the target
    (for test that includes the validation period). Users without an event in a part, or without
    any before it, have no row there. Interactions of one time fall on the same side, the later one.
    The cuts are those of the `timestamp` benchmark of Amazon Reviews 2023, 8:1:1; that asks for every
    interaction after a cut, we for one of each user. Which one matters: "Time to Split" (Gusak et
    al., RecSys 2025, arXiv 2507.16289) compares first, last and others; the first after a cut comes
    after longer pauses than most.

    Args:
        valid: share of the interactions in the validation period.
        test: share in the test period.
        target: a user's first or last interaction in a period.
    """

    valid: float = 0.1
    test: float = 0.1
    target: Target = "first"
    kind: ClassVar[str] = "temporal"
    min_length: ClassVar[int] = 2
    needs_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_shares(self.kind, self.valid, self.test)

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        times = np.sort(log["timestamp"].to_numpy())
        at = [int(len(times) * (1 - share)) for share in (self.valid + self.test, self.test)]
        valid_from, test_from = (int(times[min(i, len(times) - 1)]) for i in at)
        time = pl.col("timestamp")
        label = (
            pl.when(time >= test_from)
            .then(pl.lit("test"))
            .when(time >= valid_from)
            .then(pl.lit("valid"))
            .otherwise(pl.lit("train"))
        )
        facts = {"valid_from": valid_from, "test_from": test_from}
        return _parts(_labelled(log, label), valid=self.target, test=self.target, facts=facts)


@dataclass(frozen=True)
class ColdItems:
    """Leave-last-out, with the newest items held out of training: they are targets only.

    An item's age is its first interaction. Held-out items stand in no training sequence and in no
    history; before a user's last two interactions they are taken out and counted. A user with none
    but such items before a target has no row there. TIGER (arXiv 2305.05065, section 4.3) and LIGER
    (arXiv 2411.18814) hold items out likewise; the newest, instead of random ones, is ours: it is
    new items that a shop has to sell.

    Args:
        share: share of the items that have interactions.
    """

    share: float = 0.05
    kind: ClassVar[str] = "cold_items"
    min_length: ClassVar[int] = 3
    needs_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_shares(self.kind, self.share)

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        ages = log.group_by("item").agg(pl.col("timestamp").min()).sort("timestamp", "item")
        hidden = ages["item"].tail(max(1, round(self.share * len(ages)))).sort()
        labelled = _labelled(log, _last_two())
        cold = pl.col("item").is_in(hidden.implode())
        kept = labelled.filter(~(cold & (pl.col("split") == "train")))
        gone = len(labelled) - len(kept)
        return _parts(
            kept,
            valid="first",
            test="first",
            hidden=hidden,
            dropped={"interaction_with_held_out_item": gone} if gone else {},
            facts={"held_out_items": len(hidden)},
        )


@dataclass(frozen=True)
class ColdUsers:
    """Strangers: users of whom nothing is learned, but whose history is known when they ask.

    Validation and test users are drawn at random, apart from each other; the last item of each is the
    target, all before it the history. All other users are learned from whole. This is "strong
    generalisation" (Marlin 2004; Liang et al., WWW 2018, arXiv 1802.05814).

    Args:
        valid: share of the users to validate on.
        test: share of the users to test on.
        seed: of the draw.
    """

    valid: float = 0.1
    test: float = 0.1
    seed: int = 0
    kind: ClassVar[str] = "cold_users"
    min_length: ClassVar[int] = 2
    needs_time: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_shares(self.kind, self.valid, self.test)

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        users = log["user"].unique().sort()
        counts = [max(1, round(share * len(users))) for share in (self.valid, self.test)]
        order = np.random.default_rng(self.seed).permutation(len(users))[: sum(counts)]
        valid, test = (users[np.sort(part)] for part in np.split(order, counts[:1]))
        label = (
            pl.when(pl.col("user").is_in(test.implode()))
            .then(pl.lit("test"))
            .when(pl.col("user").is_in(valid.implode()))
            .then(pl.lit("valid"))
            .otherwise(pl.lit("train"))
        )
        facts = {"held_out_valid_users": len(valid), "held_out_test_users": len(test)}
        return _parts(_labelled(log, label), valid="last", test="last", facts=facts)


PROTOCOLS: dict[str, type[SplitProtocol]] = {
    kind.kind: kind for kind in (LastOut, RandomOut, Temporal, ColdItems, ColdUsers)
}


def order_only(log: pl.DataFrame) -> bool:
    """Says whether a log has order but no time: every user's timestamps count 0, 1, 2, ..., or from 1.

    Args:
        log: one column `user` or `user_id`, and timestamp; rows in any order.
    """
    user = "user" if "user" in log.columns else "user_id"
    first = log["timestamp"].min()
    if first not in (0, 1):
        return False
    place = pl.col("timestamp").rank("ordinal").over(user).cast(pl.Int64) - 1 + first
    return bool(log.select((pl.col("timestamp") == place).all()).item())


def _check_shares(kind: str, *shares: float) -> None:
    if min(shares) <= 0 or sum(shares) >= 1:
        raise ValueError(
            f"prepare.split ({kind}): shares {list(shares)}; expected each above 0, and less than 1 "
            "together"
        )


def _last_two() -> pl.Expr:
    from_end = pl.len().over("user") - pl.int_range(pl.len()).over("user")  # 1 is the last
    return (
        pl.when(from_end == 1)
        .then(pl.lit("test"))
        .when(from_end == 2)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("train"))
    )


def _labelled(log: pl.DataFrame, label: pl.Expr) -> pl.DataFrame:
    labelled = log.select("user", "item", "timestamp", split=label)
    return check(labelled, INTERACTIONS, "prepare: interactions")


def _parts(
    log: pl.DataFrame,
    *,
    valid: Target,
    test: Target,
    hidden: pl.Series | None = None,
    dropped: dict[str, int] | None = None,
    facts: dict[str, int] | None = None,
) -> Parts:
    """Builds the tables from a labelled log."""
    hidden = pl.Series("item", [], dtype=pl.Int32) if hidden is None else hidden
    placed = log.with_columns(at=pl.int_range(pl.len()).over("user"))
    tables = {
        "train": _training(log),
        "valid": _asked(placed, "valid", valid, hidden),
        "test": _asked(placed, "test", test, hidden),
    }
    for name, table in tables.items():
        if table.is_empty():
            raise ValueError(
                f"prepare.split: no user is left to {'learn from' if name == 'train' else name}; found "
                f"{log['split'].value_counts().sort('split').rows()} interactions by part, of "
                f"{log['user'].n_unique()} users. Choose other shares, another kind of split, or "
                "bring more data."
            )
    return Parts(log, **tables, hidden=hidden, dropped=dropped or {}, facts=facts or {})


def _training(log: pl.DataFrame) -> pl.DataFrame:
    rows = log.filter(pl.col("split") == "train")
    item = pl.col("item")
    table = (
        rows.group_by("user", maintain_order=True)
        .agg("item")
        .select("user", history=item.list.head(item.list.len() - 1), target=item.list.get(-1))
    )
    return check(table, SPLIT, "prepare: split")


def _asked(log: pl.DataFrame, part: str, which: Target, hidden: pl.Series) -> pl.DataFrame:
    """Returns one row per user: the first or last interaction of a part, and all before it."""
    chosen = log.filter(pl.col("split") == part).group_by("user", maintain_order=True)
    picked = (pl.col(c).first() if which == "first" else pl.col(c).last() for c in ("item", "at"))
    targets = chosen.agg(picked).rename({"item": "target", "at": "target_at"})
    known = log.join(targets, on="user", how="inner", maintain_order="left").filter(
        (pl.col("at") < pl.col("target_at")) & ~pl.col("item").is_in(hidden.implode())
    )
    table = known.group_by("user", maintain_order=True).agg(
        history=pl.col("item"), target=pl.col("target").first()
    )
    return check(table, SPLIT, "prepare: split")
