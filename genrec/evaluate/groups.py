"""The same metrics for groups of users: those whose held-out choice is known to be of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from genrec import schema
from genrec.evaluate.metrics import evaluate

METRICS = ("recall", "ndcg", "mrr")


def evaluate_groups(
    systems: Mapping[str, pl.DataFrame],
    targets: pl.DataFrame,
    groups: pl.DataFrame,
    *,
    split: str,
    num_items: int,
    ks: Sequence[int] = (5, 10, 20),
    samples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measures every system on every group of users, with intervals over the group's users.

    Args:
        systems: recommendations table by system name.
        targets: the users to evaluate, schema `SPLIT`.
        groups: schema `GROUPS`; a user is in the groups of their held-out item.
        split: "valid" or "test", written into every row.
        num_items: N, the size of the catalogue.
        ks: cut-offs.
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        {group, system, split, metric, k, value, low, high, users} for recall, ndcg and mrr; groups
        in alphabetical order, those without an evaluated user left out.
    """
    group_rows = []
    for group, members in group_targets(targets, groups):
        measured = evaluate(
            systems,
            members,
            split=split,
            num_items=num_items,
            ks=ks,
            baselines=(),
            seen_items="kept",  # checked with all users already
            samples=samples,
            seed=seed,
        )
        group_rows += [{"group": group} | r for r in measured["rows"] if r["metric"] in METRICS]
    return group_rows


def group_targets(
    targets: pl.DataFrame, groups: pl.DataFrame
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yields every group's name and its part of `targets`, by name; groups with users only."""
    schema.check(groups, schema.GROUPS, "groups")
    for name in groups["group"].unique().sort():
        chosen = groups.filter(pl.col("group") == name).rename({"item": "target"})
        members = targets.join(chosen, on=["user", "target"], how="semi", maintain_order="left")
        if len(members):
            yield name, members
