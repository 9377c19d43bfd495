"""Collapse: brute force for both measures, and the extremes that name it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.analysis.collapse import collapse


def nearest(x: np.ndarray, i: int, k: int) -> set[int]:
    cosine = [x[i] @ y / np.linalg.norm(x[i]) / np.linalg.norm(y) for y in x]
    return set(sorted((j for j in range(len(x)) if j != i), key=lambda j: -cosine[j])[:k])


def distance(x: np.ndarray, y: np.ndarray) -> float:
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def test_brute_force() -> None:
    rng = np.random.default_rng(0)
    raw = {"text": rng.normal(size=(12, 6)), "image": rng.normal(size=(12, 4))}
    learned = {name: rng.normal(size=(12, 3)) for name in ("id", "text", "image")}
    found = collapse(raw, learned, k=4)
    for name in raw:
        shares = [
            len(nearest(raw[name], i, 4) & nearest(learned[name], i, 4)) / 4 for i in range(12)
        ]
        assert found["kept"][name]["overlap"] == pytest.approx(np.mean(shares))
        assert found["kept"][name]["chance"] == pytest.approx(4 / 11)
    assert [(p["a"], p["b"]) for p in found["pairs"]] == [
        *(("id", "text"), ("id", "image")),
        ("text", "image"),
    ]
    pair, (a, b) = found["pairs"][2], (learned["text"], learned["image"])
    shares = [len(nearest(a, i, 4) & nearest(b, i, 4)) / 4 for i in range(12)]
    assert pair["overlap"] == pytest.approx(np.mean(shares))
    shares = [len(nearest(raw["text"], i, 4) & nearest(raw["image"], i, 4)) / 4 for i in range(12)]
    assert pair["raw_overlap"] == pytest.approx(np.mean(shares))
    assert "raw_overlap" not in found["pairs"][0]
    other = [(i, j) for i in range(12) for j in range(12) if i != j]
    same = np.mean([distance(a[i], b[i]) for i in range(12)])
    inter = np.mean([[distance(x[i], x[j]) for i, j in other] for x in (a, b)])
    assert pair["distance"] == pytest.approx(same)
    assert pair["shuffled"] == pytest.approx(np.mean([distance(a[i], b[j]) for i, j in other]))
    assert pair["inter_item"] == pytest.approx(inter)
    assert pair["ratio"] == pytest.approx(same / inter)
    json.dumps(found)


def test_collapsed_and_kept_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    raw = {"text": rng.normal(size=(60, 8)), "image": rng.normal(size=(60, 8))}
    one = rng.normal(size=(60, 8))
    collapsed = collapse(raw, {"text": one, "image": one + 1e-4 * rng.normal(size=(60, 8))})
    faithful = collapse(raw, {name: 2 * x for name, x in raw.items()})
    assert collapsed["pairs"][0]["ratio"] < 1e-6
    assert collapsed["pairs"][0]["overlap"] > 0.99
    assert collapsed["kept"]["text"]["overlap"] < 0.3
    assert faithful["pairs"][0]["ratio"] == pytest.approx(1, abs=0.1)
    assert faithful["kept"]["text"]["overlap"] == pytest.approx(1)
    assert faithful["pairs"][0]["overlap"] < 0.3


def test_items_without_a_view_do_not_count() -> None:
    rng = np.random.default_rng(2)
    raw, learned = rng.normal(size=(10, 3)), rng.normal(size=(10, 3))
    raw[[2, 7]] = 0
    left = [i for i in range(10) if i not in (2, 7)]
    found = collapse({"text": raw}, {"text": learned}, k=3)["kept"]["text"]
    assert found == collapse({"text": raw[left]}, {"text": learned[left]}, k=3)["kept"]["text"]
    assert found["items"] == 8
    none = collapse({}, {"a": np.zeros((4, 2)), "b": np.ones((4, 2))})["pairs"][0]
    assert none == {"a": "a", "b": "b", "absent": "0 items have both; needs two"}


def test_other_widths_few_items_and_one_ray() -> None:
    x, y = np.eye(3), np.ones((3, 5))
    pair = collapse({}, {"a": x, "b": y})["pairs"][0]
    assert "distance" not in pair
    assert pair["overlap"] == pair["chance"] == 1  # two neighbours of three items: all of them
    assert collapse({}, {"a": y, "b": y})["pairs"][0]["ratio"] is None


def test_queries_are_drawn_by_the_seed() -> None:
    rng = np.random.default_rng(3)
    views = {"a": rng.normal(size=(50, 3)), "b": rng.normal(size=(50, 3))}
    one, same, other = (collapse({}, views, queries=5, seed=s)["pairs"][0] for s in (0, 0, 1))
    assert one == same != other
    assert one["queries"] == 5


@pytest.mark.parametrize(
    ("raw", "learned", "message"),
    [
        ({"a": np.ones((3, 2))}, {"a": np.ones((4, 2))}, "one row per item"),
        ({"a": np.ones(3)}, {"a": np.ones((3, 2))}, "one row per item"),
        ({}, {"a": np.array([[1.0], [np.nan]])}, r"learned\['a'\]: item 1 holds NaN"),
    ],
)
def test_bad_input(raw: dict, learned: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collapse(raw, learned)


def test_k_of_none() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        collapse({}, {"a": np.ones((2, 2))}, k=0)
