"""Every retriever on next to no data: it works, or its error says whose it is and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genrec import registry
from genrec.retrieve import Validation

KINDS = list(registry.BUILT_IN["retrievers"])

LEARNED = ("sasrec", "anchorrec", "magnitude", "norm_concat")
ONE_USER = ([[0, 1, 2]], 4)
ALL_SEEN = ([[0, 1, 2], [2, 1, 0]], 3)  # every user has every item
CASES: dict[str, tuple[list[list[int]], int]] = {
    "one user": ONE_USER,
    "one user with all items": ([[0, 1, 2, 3]], 4),
    "one item": ([[0, 0], [0]], 1),
    "one user and one item": ([[0]], 1),
    "all items seen": ALL_SEEN,
}


def fitted(kind: str, sequences: list[list[int]], num_items: int, **beside: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 2, "dim": 4, "device": "cpu"} if kind in LEARNED else {}
    if kind in ("anchorrec", "magnitude", "norm_concat"):
        text = np.random.default_rng(0).normal(size=(num_items, 6)).astype(np.float32)
        beside["features"] = {"text": text}
    return registry.implementation(registry.parts("retrievers")[kind])(**settings).fit(
        sequences, num_items=num_items, **beside
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("kind", "validated"),
    [(k, v) for k in KINDS if k != "anchorrec" for v in (False, True) if k in LEARNED or not v],
)
def test_next_to_no_data(kind: str, validated: bool, case: str) -> None:
    sequences, num_items = CASES[case]
    beside = {"valid": Validation([[0]], np.array([0]))} if validated else {}
    retriever = fitted(kind, sequences, num_items, **beside)
    lists = retriever.recommend([[], [0], list(range(num_items))], k=3)
    items, scores = lists.items, lists.scores
    assert not np.isnan(scores).any()
    assert (items[0] >= 0).sum() == min(3, num_items)  # nothing seen: all of them
    assert 0 not in items[1]
    assert (items[2] == -1).all()  # all seen: nothing is left


@pytest.mark.parametrize("case", CASES)
def test_anchorrec_needs_an_item_that_a_user_left_out(case: str) -> None:
    with pytest.raises(ValueError, match=r"^anchorrec: .*bring more users, lower prepare\.core"):
        fitted("anchorrec", *CASES[case])


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("popular", "cooccurrence", "itemknn", "graph")]
)
@pytest.mark.parametrize("sequences", [[], [[], []]])
def test_what_needs_an_interaction_says_who_it_is(kind: str, sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=rf"^{kind}: "):
        fitted(kind, sequences, 3)


@pytest.mark.parametrize("kind", LEARNED)
def test_no_validation_users_say_what_to_give(kind: str) -> None:
    nobody = Validation([], np.zeros(0, dtype=np.int64))
    with pytest.raises(ValueError, match=r"0 targets; .*valid=None: the last epoch is kept"):
        fitted(kind, [[0], [1]], 2, valid=nobody)


@pytest.mark.parametrize("kind", KINDS)
def test_no_items_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="num_items is 0; expected 1 or more"):
        fitted(kind, [], 0)
