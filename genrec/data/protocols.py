"""Ways to split: which interactions are learned from, and what is asked of whom.

Each labels the rows of the log and gives every user at most one row per part. A row's history is what
the user did before its target. A user without a target in a part has no row there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
import polars as pl

from genrec.data.settings import (
    ColdItemsSettings,
    ColdUsersSettings,
    GivenSettings,
    LastOutSettings,
    RandomOutSettings,
    SplitSettings,
    TemporalSettings,
)
from genrec.schema import INTERACTIONS, SPLIT, check

Target = Literal["first", "last"]


@dataclass(frozen=True)
class Parts:
    """A split.

    Attributes:
        interactions: schema `INTERACTIONS`, by user and time, without what the protocol takes out.
        train: schema `SPLIT`; history and target are together what is learned from.
        valid: schema `SPLIT`; likewise `test`.
        hidden: items held out of training; they are in no history. Empty where there are none.
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
        """The items of the training sequences, each once. Int32."""
        return self.interactions.filter(pl.col("split") == "train")["item"].unique()


S = TypeVar("S", bound=SplitSettings)


class SplitProtocol(ABC, Generic[S]):
    """A way to split. A class names its settings as its parameter: `Temporal(SplitProtocol[...])`.

    Args:
        settings: its settings; None takes the defaults.
        options: single settings instead, or changes to them: `Temporal(test=0.2)`.

    Raises:
        ValueError: an unknown option, or a value out of bounds.

    Attributes:
        kind: its name in recipes.
        min_length: users with fewer interactions are of no use to it.
        needs_time: whether timestamps of different users must be comparable.
    """

    kind: ClassVar[str]
    settings_class: ClassVar[type[SplitSettings]]
    min_length: ClassVar[int] = 3
    needs_time: ClassVar[bool] = False
    settings: S

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in vars(cls).get("__orig_bases__", ()):
            for part in get_args(base):
                if isinstance(part, type) and issubclass(part, SplitSettings):
                    cls.settings_class = part
                    cls.kind = part.model_fields["kind"].default

    def __init__(self, settings: S | None = None, **options: Any) -> None:
        self.settings = self.settings_class.from_options(settings, **options)  # type: ignore[assignment]

    @abstractmethod
    def split(self, log: pl.DataFrame) -> Parts:
        """Splits a log.

        Args:
            log: user, item, timestamp and any context; by user and time, in dense ids.

        Raises:
            ValueError: a part would be empty.
        """


class LastOut(SplitProtocol[LastOutSettings]):
    """Each user's last interaction is the test target, the last but one the validation target."""

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`; every user is in all three parts."""
        labelled = _labelled(log, _last_two())
        return _parts(labelled, valid="first", test="first")


class RandomOut(SplitProtocol[RandomOutSettings]):
    """Random leave-one-out: of each user one interaction drawn at random tests, another validates.

    For logs without times, whose order says nothing. The user's other interactions are for training;
    they are the history of the validation target. The history of the test target also has the validation
    target. Where there are times, training interactions may be later than the targets, as in every
    random hold-out.
    """

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`; of each user, interactions come part by part."""
        drawn = pl.Series(np.random.default_rng(self.settings.seed).permutation(len(log)))
        place = log.with_columns(drawn=drawn).select(pl.col("drawn").rank("ordinal").over("user"))
        part = place.to_series().clip(upper_bound=3)  # 1 tests, 2 validates
        label = pl.lit(part).replace_strict([1, 2, 3], ["test", "valid", "train"])
        labelled = _labelled(log, label).with_columns(part=part)
        labelled = labelled.sort("user", "part", descending=[False, True], maintain_order=True)
        labelled = labelled.drop("part")
        return _parts(labelled, valid="first", test="first")


class Temporal(SplitProtocol[TemporalSettings]):
    """One cut in time for everybody: nothing after it is known when anything is learned.

    By default the target is a user's *next* item after the cut; the history is all before the target
    (for test that includes the validation period). Users without an event in a part, or without
    any before it, have no row there. Interactions of one time fall on the same side, the later one.
    The cuts are those of the `timestamp` benchmark of Amazon Reviews 2023, 8:1:1. There every
    interaction after a cut is a target, here one of each user. Which one matters: "Time to Split" (Gusak
    et al., RecSys 2025, arXiv 2507.16289) compares first, last and others; the pause before the first
    one after a cut is longer than most.
    """

    min_length: ClassVar[int] = 2
    needs_time: ClassVar[bool] = True

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        times = np.sort(log["timestamp"].to_numpy())
        at = [
            int(len(times) * (1 - share))
            for share in (self.settings.valid + self.settings.test, self.settings.test)
        ]
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
        return _parts(
            _labelled(log, label),
            valid=self.settings.target,
            test=self.settings.target,
            facts=facts,
        )


class ColdItems(SplitProtocol[ColdItemsSettings]):
    """Leave-last-out, with the newest items held out of training: they are targets only.

    An item's age is its first interaction. Held-out items are in no training sequence and in no
    history; before a user's last two interactions they are taken out and counted. A user with only
    such items before a target has no row there. TIGER (arXiv 2305.05065, section 4.3) and LIGER
    (arXiv 2411.18814) hold random items out; we hold out the newest, since a shop has to sell its new
    items.
    """

    needs_time: ClassVar[bool] = True

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        ages = log.group_by("item").agg(pl.col("timestamp").min()).sort("timestamp", "item")
        hidden = ages["item"].tail(max(1, round(self.settings.share * len(ages)))).sort()
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


class ColdUsers(SplitProtocol[ColdUsersSettings]):
    """Cold-start users: nothing is learned of them, but their history is known at test time.

    Validation and test users are drawn at random, and differ; the last item of each is the target, all
    before it the history. All other users are for training only. This is "strong
    generalisation" (Marlin 2004; Liang et al., WWW 2018, arXiv 1802.05814).
    """

    min_length: ClassVar[int] = 2

    def split(self, log: pl.DataFrame) -> Parts:
        """Splits as `SplitProtocol.split`."""
        users = log["user"].unique().sort()
        counts = [
            max(1, round(share * len(users))) for share in (self.settings.valid, self.settings.test)
        ]
        order = np.random.default_rng(self.settings.seed).permutation(len(users))[: sum(counts)]
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


class Given(SplitProtocol[GivenSettings]):
    """The split that comes with the data: `split.prepare` takes it whole, and splits nothing."""

    def split(self, log: pl.DataFrame) -> Parts:
        """Refuses: the split is in `RawData.given`.

        Raises:
            ValueError: always.
        """
        raise ValueError("prepare.split.kind=given: nothing is split; the split is RawData.given")


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
    own = ("user", "item", "timestamp")
    labelled = log.select(*own, label.alias("split"), pl.exclude(*own))
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
