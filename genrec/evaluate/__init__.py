"""Measures recommendations tables and shows the result: metrics, console table, HTML report."""

from genrec.evaluate.bootstrap import interval, resampled_means
from genrec.evaluate.examples import Card, UserExample, pick_users, user_examples
from genrec.evaluate.groups import evaluate_groups, group_targets
from genrec.evaluate.metrics import coverage, evaluate, per_user
from genrec.evaluate.report import write_report
from genrec.evaluate.summary import Summary, groups_table, metrics_table, verdict

__all__ = [
    "Card",
    "Summary",
    "UserExample",
    "coverage",
    "evaluate",
    "evaluate_groups",
    "group_targets",
    "groups_table",
    "interval",
    "metrics_table",
    "per_user",
    "pick_users",
    "resampled_means",
    "user_examples",
    "verdict",
    "write_report",
]
