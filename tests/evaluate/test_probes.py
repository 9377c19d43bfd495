"""Invalid SIDs counted by hand; a whole `probes.json` as the lines that people read."""

import numpy as np
import pytest

from genrec.evaluate.probes import METRIC, absences, invalid_rates, measures, of_other_sets

SIDS = np.array([[0, 0], [0, 1], [1, 1]])


def test_invalid_and_broken_sequences_by_hand() -> None:
    greedy = np.array([[[0, 0]], [[1, 0]], [[1, -1]], [[1, 1]]])  # good, nobody's, broken, good
    beams = np.array([[[0, 0], [0, 1]], [[1, 0], [1, 1]], [[-1, 0], [1, 0]], [[1, 1], [0, 0]]])
    rows, broken = invalid_rates({1: greedy, 2: beams}, SIDS, samples=500, seed=0)
    assert [(row["k"], row["value"]) for row in rows] == [(1, 0.5), (2, 3 / 8)]
    assert broken == {"1": 1 / 4, "2": 1 / 8}
    for row in rows:
        assert {row[key] for key in ("system", "split", "metric")} == {"generative", "test", METRIC}
        assert 0 <= row["low"] < row["value"] < row["high"] <= 1
        assert row["users"] == 4
    assert rows == invalid_rates({1: greedy, 2: beams}, SIDS, samples=500, seed=0)[0]


def test_a_sid_of_another_set_is_told_by_hand() -> None:
    """Codes of the second set follow those of the first; rows are named by the set of the prompts."""
    second = np.add(SIDS, [2, 2])
    greedy = np.array(
        [[[2, 2]], [[0, 0]], [[-1, 0]], [[3, 2]]]
    )  # good, other set, broken, nobody's
    rows, broken = invalid_rates({1: greedy}, second, number=1)
    assert [(row["metric"], row["value"]) for row in rows] == [(f"{METRIC}@2", 3 / 4)]
    assert broken == {"1": 1 / 4}
    assert of_other_sets({1: greedy}, [SIDS]) == {"1": 1 / 4}
    assert of_other_sets({1: greedy}, [second]) == {"1": 1 / 2}


PROBES = {
    "content": {
        "image": {"cosine": 0.7, "overlap": 0.3, "chance": 0.01, "k": 10},
        "text": {"absent": "0 items have it; needs two"},
        "whole": {"cosine": 0.8, "overlap": 0.4, "chance": 0.01, "k": 10},
    },
    "unconstrained": {"users": 4, "not_a_sid": {"1": 0.0}},
    "rows": [{"metric": METRIC, "k": 1, "value": 0.5, "low": 0.2, "high": 0.9}],
    "sid_to_title": {"right": {"cosine": 0.9, "mrr": 0.6}, "shuffled": {"cosine": 0.2, "mrr": 0.1}},
    "sid_to_caption": {"absent": "the recipe makes no captions"},
    "judge": {
        "method": "question",
        "texts": {
            "true titles": {"right": 2.0, "shuffled": -1.0, "auc": 0.95, "pairs": 9},
            "written titles": {"absent": "no answer"},
        },
    },
    "language": {
        **{"texts": 9, "instructions": 4},
        **{"perplexity": {"after": 50.0, "before": 30.0}, "followed": {"after": 0.25, "before": 1}},
    },
}


def test_lines_in_reading_order() -> None:
    found = [(m.part, m.name, m.value, m.chance) for m in measures(PROBES)]
    assert found == [
        ("whole embedding", "cosine with its reconstruction", 0.8, None),
        ("whole embedding", "10 nearest items kept", 0.4, 0.01),
        ("image view", "cosine with its reconstruction", 0.7, None),
        ("image view", "10 nearest items kept", 0.3, 0.01),
        ("SIDs without the trie", "no item's, greedy", 0.5, None),
        ("SID to title", "MRR", 0.6, 0.1),
        ("SID to title", "cosine with the truth", 0.9, 0.2),
        ("judge: true titles", "log-odds of yes", 2.0, -1.0),
        ("judge: true titles", "right above shuffled (AUC)", 0.95, 0.5),
        ("language", "perplexity of 9 texts, before training", 30.0, None),
        ("language", "perplexity of 9 texts, after training", 50.0, None),
        ("language", "share of 4 instructions followed, before training", 1, None),
        ("language", "share of 4 instructions followed, after training", 0.25, None),
    ]
    assert (measures(PROBES)[4].low, measures(PROBES)[4].high) == (0.2, 0.9)


def test_lines_of_a_further_set_say_so() -> None:
    further = {
        "content@2": {"text": {"cosine": 0.5, "overlap": 0.2, "chance": 0.01, "k": 10}},
        "unconstrained@2": {"users": 4, "not_a_sid": {"1": 0.0}, "of_other_sets": {"1": 0.1}},
        "title_to_sid@2": {"right": {"recall@1": 0.4}, "shuffled": {"recall@1": 0.1}},
    }
    rows = [*PROBES["rows"], {"metric": f"{METRIC}@2", "k": 1, "value": 0.7, "low": 0, "high": 1}]
    first, both = measures(PROBES), measures(PROBES | further | {"rows": rows})
    assert [m for m in both if m in first] == first
    assert [(m.part, m.name, m.value) for m in both if m not in first] == [
        ("text view, set 2", "cosine with its reconstruction", 0.5),
        ("text view, set 2", "10 nearest items kept", 0.2),
        ("SIDs without the trie, set 2", "no item's, greedy", 0.7),
        ("SIDs without the trie, set 2", "of another set, greedy", 0.1),
        ("title to SID, set 2", "recall@1", 0.4),
    ]
    gone = PROBES | {"content@2": {"image": {"absent": "0 items have it"}}}
    assert absences(gone)["content, set 2: image"] == "0 items have it"


def test_what_is_absent_is_named() -> None:
    assert absences(PROBES) == {
        "content: text": "0 items have it; needs two",
        "SID to caption": "the recipe makes no captions",
        "judge: written titles": "no answer",
    }
    assert measures({"content": {"absent": "published"}, "judge": {"absent": "none"}}) == []


@pytest.mark.parametrize("probes", [{}, {"rows": []}])
def test_nothing_at_all(probes: dict) -> None:
    assert measures(probes) == []
    assert absences(probes) == {}
