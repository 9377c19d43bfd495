"""`probes.json`: the share of invalid SIDs without the trie, and the whole file as rows to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.evaluate.bootstrap import interval, resampled_means

METRIC = "unconstrained_invalid_rate"  # `invalid_rate` is that of the lists, which the trie holds
ABSENT = "absent"

_DECIMALS = 6
_OTHERS = ("content", "unconstrained", "rows", "judge")  # what is measured of no single task
_MEASURES = {
    "mrr": "MRR",
    "recall@1": "recall@1",
    "recall@10": "recall@10",
    "cosine": "cosine with the truth",
    "exact": "exact match",
    "token_f1": "token F1",
}


def invalid_rates(
    written: Mapping[int, NDArray[np.integer[Any]]],
    sids: NDArray[np.integer[Any]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Measures how much of what a model writes without the trie is no item's SID.

    Args:
        written: by number of beams W, int [U, W, L]: the code of each level, -1 where another token
            stands.
        sids: int [N, L].
        samples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        Rows for `metrics.json`, one per W (its `k`): the mean share of a user's W sequences that no
        item has, with the 95 % interval over users. And by W the share that is not even a SID: some
        token of it is no code of its level.
    """
    known = set(map(tuple, sids.tolist()))
    invalid = {
        beams: np.array([[tuple(sid) not in known for sid in user] for user in codes.tolist()])
        for beams, codes in written.items()
    }
    each = np.stack([wrong.mean(axis=1) for wrong in invalid.values()], axis=1)  # [U, sizes]
    lows, highs = interval(resampled_means(each, samples=samples, seed=seed))
    head = {"system": "generative", "split": "test", "metric": METRIC}
    rows = [
        {
            **head,
            "k": beams,
            "value": round(float(value), _DECIMALS),
            "low": round(float(low), _DECIMALS),
            "high": round(float(high), _DECIMALS),
            "users": len(each),
        }
        for beams, value, low, high in zip(written, each.mean(axis=0), lows, highs, strict=True)
    ]
    broken = {str(w): float((codes < 0).any(axis=2).mean()) for w, codes in written.items()}
    return rows, broken


@dataclass(frozen=True)
class Measure:
    """One line for people.

    Attributes:
        part: what was looked into.
        name: the measure.
        value: what was found.
        chance: the same for one who knows nothing: random neighbours, shuffled pairs; or None.
        low: lower end of the 95 % interval, or None.
        high: upper end.
    """

    part: str
    name: str
    value: float
    chance: float | None = None
    low: float | None = None
    high: float | None = None


def measures(probes: Mapping[str, Any]) -> list[Measure]:
    """Returns all that `probes.json` measured, in the order to read it in."""
    return [*_content(probes), *_unconstrained(probes), *_tasks(probes), *_judge(probes)]


def absences(probes: Mapping[str, Any]) -> dict[str, str]:
    """Returns what was not measured, and why, by part."""
    views, texts = (_present(probes, "content"), _present(probes, "judge").get("texts", {}))
    parts = {"content": probes.get("content", {})}
    parts |= {_label(name): probes[name] for name in _of_tasks(probes)}
    parts["judge"] = probes.get("judge", {})
    parts |= {f"content: {name}": view for name, view in sorted(views.items())}
    parts |= {f"judge: {kind}": scores for kind, scores in texts.items()}
    return {name: part[ABSENT] for name, part in parts.items() if ABSENT in part}


def _content(probes: Mapping[str, Any]) -> Iterator[Measure]:
    views = _present(probes, "content")
    for name in sorted(views, key=lambda name: (name != "whole", name)):
        view = views[name]
        if ABSENT in view:
            continue
        part = "whole embedding" if name == "whole" else f"{name} view"
        yield Measure(part, "cosine with its reconstruction", view["cosine"])
        kept = f"{view['k']} nearest items kept"
        yield Measure(part, kept, view["overlap"], view["chance"])


def _unconstrained(probes: Mapping[str, Any]) -> Iterator[Measure]:
    for row in probes.get("rows", ()):
        name = "greedy" if row["k"] == 1 else f"{row['k']} beams"
        ends = (row["low"], row["high"])
        yield Measure("SIDs without the trie", f"no item's, {name}", row["value"], None, *ends)


def _tasks(probes: Mapping[str, Any]) -> Iterator[Measure]:
    for task in _of_tasks(probes):
        measured = _present(probes, task)
        for name, label in _MEASURES.items():
            if name in measured.get("right", {}):
                right, shuffled = measured["right"][name], measured["shuffled"][name]
                yield Measure(_label(task), label, right, shuffled)


def _of_tasks(probes: Mapping[str, Any]) -> list[str]:
    return [name for name in probes if name not in _OTHERS]


def _label(task: str) -> str:
    """`sid_to_title` as people read it: SID to title."""
    return task.replace("_", " ").replace("sid", "SID")


def _judge(probes: Mapping[str, Any]) -> Iterator[Measure]:
    judged = _present(probes, "judge")
    name = {"question": "log-odds of yes", "likelihood": "log-likelihood gained"}
    for kind, scores in judged.get("texts", {}).items():
        if ABSENT in scores:
            continue
        part = f"judge: {kind}"
        yield Measure(part, name[judged["method"]], scores["right"], scores["shuffled"])
        yield Measure(part, "right above shuffled (AUC)", scores["auc"], 0.5)


def _present(probes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = probes.get(name, {})
    return {} if ABSENT in part else part
