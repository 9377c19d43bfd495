"""Invalid SIDs counted by hand; a whole `probes.json` as the lines that people read."""

import numpy as np
import pytest

from genrec.evaluate.probes import METRIC, absences, invalid_rates, measures

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


PROBES = {
    "content": {
        "image": {"cosine": 0.7, "overlap": 0.3, "chance": 0.01, "k": 10},
        "text": {"absent": "0 items have it; needs two"},
        "whole": {"cosine": 0.8, "overlap": 0.4, "chance": 0.01, "k": 10},
    },
    "unconstrained": {"users": 4, "not_a_sid": {"1": 0.0}},
    "rows": [{"k": 1, "value": 0.5, "low": 0.2, "high": 0.9}],
    "sid_to_title": {"right": {"cosine": 0.9, "mrr": 0.6}, "shuffled": {"cosine": 0.2, "mrr": 0.1}},
    "sid_to_caption": {"absent": "the recipe makes no captions"},
    "judge": {
        "method": "question",
        "texts": {
            "true titles": {"right": 2.0, "shuffled": -1.0, "auc": 0.95, "pairs": 9},
            "written titles": {"absent": "no answer"},
        },
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
    ]
    assert (measures(PROBES)[4].low, measures(PROBES)[4].high) == (0.2, 0.9)


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
