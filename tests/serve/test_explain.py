"""The influence of a history's item is a difference of log-probabilities, each asked for alone."""

from dataclasses import replace

import numpy as np
import pytest

from genrec.bundle import Bundle
from genrec.serve.explain import MAX_HISTORY, influence


def log_probability(shop: Bundle, history: list[int], item: int) -> float:
    """Of one item, by a search that may write nothing else."""
    assert shop.llm is not None
    found = shop.llm.recommend([shop.prompt(history)], k=1, num_beams=60, allowed=[[item]])
    assert found.items[0, 0] == item
    return float(found.scores[0, 0])


def test_it_is_what_the_log_probability_loses(shop: Bundle) -> None:
    history, items = [3, 17, 29, 3], [40, 5, 11]
    found = influence(shop, history, items)
    assert found is not None
    for item, ratios in zip(items, found, strict=True):
        whole = log_probability(shop, history, item)
        assert list(ratios) == [3, 17, 29]  # a repeated item goes as one
        for other, ratio in ratios.items():
            without = log_probability(shop, [one for one in history if one != other], item)
            assert ratio == pytest.approx(whole - without, abs=1e-4)


def test_items_that_share_a_sid_share_their_influence(shop: Bundle) -> None:
    twin = np.array(shop.sids)
    assert shop.llm is not None
    _, first, counts = np.unique(twin, axis=0, return_index=True, return_counts=True)
    for item in first[counts > 1][:2]:
        twins = np.flatnonzero((twin == twin[item]).all(axis=1)).tolist()
        found = influence(shop, [1, 2], twins)
        assert found is not None
        for other in found[1:]:
            assert other == pytest.approx(found[0], abs=1e-6)


def test_the_newest_of_a_long_history(shop: Bundle) -> None:
    history = list(range(30))
    (found,) = influence(shop, history, [45]) or []
    assert list(found) == history[-MAX_HISTORY:]


def test_where_there_is_nothing_to_say(shop: Bundle) -> None:
    assert influence(shop, [], [1, 2]) == [{}, {}]
    assert influence(shop, [1], []) == []
    assert influence(replace(shop, llm=None), [1], [2]) is None
