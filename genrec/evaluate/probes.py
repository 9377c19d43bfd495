"""`probes.json`: the share of invalid SIDs without the trie, and the whole file as rows to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.evaluate.bootstrap import interval, resampled_means
from genrec.sid.sets import in_set, set_of

METRIC = "unconstrained_invalid_rate"  # `invalid_rate` is that of the lists, which the trie holds
ABSENT = "absent"

_DECIMALS = 6
# What is measured of no single task.
_OTHERS = ("content", "unconstrained", "rows", "judge", "language")
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
    number: int = 0,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Measures how much of what a model writes without the trie is no item's SID.

    Args:
        written: by number of beams W, int [U, W, L]: the code of each level, -1 where another token
            stands.
        sids: int [N, L], the SIDs of the set that the prompts were in.
        number: of this set, from 0; its rows are named by it.
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
    head = {"system": "generative", "split": "test", "metric": in_set(METRIC, number)}
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


def of_other_sets(
    written: Mapping[int, NDArray[np.integer[Any]]], others: Iterable[NDArray[np.integer[Any]]]
) -> dict[str, float]:
    """Measures how much of what a model writes in one set of SIDs begins as a SID of another set.

    Args:
        written: as of `invalid_rates`, in codes that tell the sets.
        others: the SIDs of the other sets, int [N, L].

    Returns:
        The share of the sequences, by W.
    """
    begins = np.unique(np.concatenate([sids[:, 0] for sids in others]))
    return {str(w): float(np.isin(codes[:, :, 0], begins).mean()) for w, codes in written.items()}


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
    parts = (_content, _unconstrained, _tasks, _judge, _language)
    return [measure for part in parts for measure in part(probes)]


def absences(probes: Mapping[str, Any]) -> dict[str, str]:
    """Returns what was not measured, and why, by part."""
    texts = _present(probes, "judge").get("texts", {})
    contents = _named(probes, "content")
    parts = {_label(name): probes.get(name, {}) for name in contents}
    parts |= {_label(name): probes[name] for name in _of_tasks(probes)}
    parts |= {name: probes.get(name, {}) for name in ("judge", "language")}
    for content in contents:
        views = sorted(_present(probes, content).items())
        parts |= {f"{_label(content)}: {name}": view for name, view in views}
    parts |= {f"judge: {_label(kind)}": scores for kind, scores in texts.items()}
    return {name: part[ABSENT] for name, part in parts.items() if ABSENT in part}


def _content(probes: Mapping[str, Any]) -> Iterator[Measure]:
    for content in _named(probes, "content"):
        views, in_set = _present(probes, content), _label(content).removeprefix("content")
        for name in sorted(views, key=lambda name: (name != "whole", name)):
            view = views[name]
            if ABSENT in view:
                continue
            part = ("whole embedding" if name == "whole" else f"{name} view") + in_set
            yield Measure(part, "cosine with its reconstruction", view["cosine"])
            kept = f"{view['k']} nearest items kept"
            yield Measure(part, kept, view["overlap"], view["chance"])


def _unconstrained(probes: Mapping[str, Any]) -> Iterator[Measure]:
    rows = probes.get("rows", ())
    for number in sorted({set_of(row["metric"]) for row in rows}):
        part = _label(in_set("SIDs without the trie", number))
        for row in rows:
            if set_of(row["metric"]) == number:
                ends = (row["low"], row["high"])
                yield Measure(part, f"no item's, {_search(row['k'])}", row["value"], None, *ends)
        others = _present(probes, in_set("unconstrained", number)).get("of_other_sets", {})
        for beams, value in others.items():
            yield Measure(part, f"of another set, {_search(int(beams))}", value)


def _search(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def _tasks(probes: Mapping[str, Any]) -> Iterator[Measure]:
    for task in _of_tasks(probes):
        measured = _present(probes, task)
        for name, label in _MEASURES.items():
            if name in measured.get("right", {}):
                right, shuffled = measured["right"][name], measured["shuffled"][name]
                yield Measure(_label(task), label, right, shuffled)


def _of_tasks(probes: Mapping[str, Any]) -> list[str]:
    return [name for name in probes if name.partition("@")[0] not in _OTHERS]


def _named(probes: Mapping[str, Any], name: str) -> list[str]:
    """Returns a name, and what it is in the further sets of SIDs that were probed."""
    further = (in_set(name, number) for number in range(1, len(probes)))
    return [name, *takewhile(probes.__contains__, further)]


def _label(name: str) -> str:
    """`sid_to_title@2` as people read it: SID to title, set 2."""
    name, _, number = name.partition("@")
    return name.replace("_", " ").replace("sid", "SID") + (f", set {number}" if number else "")


def _judge(probes: Mapping[str, Any]) -> Iterator[Measure]:
    judged = _present(probes, "judge")
    name = {"question": "log-odds of yes", "likelihood": "log-likelihood gained"}
    for kind, scores in judged.get("texts", {}).items():
        if ABSENT in scores:
            continue
        part = f"judge: {_label(kind)}"
        yield Measure(part, name[judged["method"]], scores["right"], scores["shuffled"])
        yield Measure(part, "right above shuffled (AUC)", scores["auc"], 0.5)


def _language(probes: Mapping[str, Any]) -> Iterator[Measure]:
    measured = _present(probes, "language")
    names = {
        "perplexity": f"perplexity of {measured.get('texts')} texts",
        "followed": f"share of {measured.get('instructions')} instructions followed",
    }
    for name, label in names.items():
        for when, value in sorted(measured.get(name, {}).items(), reverse=True):
            yield Measure("language", f"{label}, {when} training", value)


def _present(probes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = probes.get(name, {})
    return {} if ABSENT in part else part
