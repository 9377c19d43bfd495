"""The demo's users: reasons in known proportions, each reason doing what it says."""

from collections import Counter

import numpy as np
import pytest

from genrec.demo.catalogue import make_products
from genrec.demo.interests import INTERESTS
from genrec.demo.users import REASONS, Chooser, Taste, draw_taste, draw_trends, make_choices
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES

PRODUCTS = make_products(800, seed=7)
CHOOSER = Chooser(PRODUCTS, seed=7)


def a_taste() -> Taste:
    rng = np.random.default_rng(0)
    return draw_taste(draw_trends(rng), rng)


def test_reasons_come_in_the_asked_proportions() -> None:
    choices = list(make_choices(PRODUCTS, users=300, seed=1))
    counts = Counter(reason for *_, reason in choices)
    for reason, share in REASONS.items():
        assert counts[reason] / len(choices) == pytest.approx(share, abs=0.03)
    only = make_choices(PRODUCTS, users=5, seed=1, reasons={"visual": 1.0})
    assert {reason for *_, reason in only} == {"visual"}


@pytest.mark.parametrize("reason", REASONS)
def test_probabilities_sum_to_one_and_skip_what_is_taken(reason: str) -> None:
    p = CHOOSER.probabilities(reason, a_taste(), [3, 5])
    assert p.shape == (800,)
    assert p.sum() == pytest.approx(1.0)
    assert p[3] == p[5] == 0
    assert (p >= 0).all()


def test_when_nothing_that_fits_is_left_popularity_decides() -> None:
    taste = a_taste()
    fits = np.flatnonzero(CHOOSER.probabilities("interest", taste, []))
    p = CHOOSER.probabilities("interest", taste, fits)
    assert p.sum() == pytest.approx(1.0)
    assert not p[fits].any()


def test_the_visual_reason_follows_the_current_look() -> None:
    taste = a_taste()
    colour, pattern, silhouette = taste.styles[0]
    look = (list(COLOURS)[colour], list(PATTERNS)[pattern], SILHOUETTES[silhouette])
    p = CHOOSER.probabilities("visual", taste, [])
    matched = [(x.colour, x.pattern) == look[:2] for x in PRODUCTS]
    assert p[matched].sum() > 0.6
    taste.style = 1
    assert CHOOSER.probabilities("visual", taste, [])[matched].sum() < 0.2


def test_the_interest_reason_takes_only_products_with_it() -> None:
    taste = a_taste()
    key = list(INTERESTS)[taste.interests[0]]
    p = CHOOSER.probabilities("interest", taste, [])
    assert ((p > 0) == [key in x.interests for x in PRODUCTS]).all()


def test_the_category_reason_follows_the_last_category_and_the_price_tier() -> None:
    taste = a_taste()
    taste.last = list(CATEGORIES).index("tent")
    p = CHOOSER.probabilities("category", taste, [])
    usual, other = CATEGORIES["tent"].leads_to
    share = {c: p[[x.category == c for x in PRODUCTS]].sum() for c in CATEGORIES}
    assert share[usual] > 0.5
    assert share[usual] > share[other]
    assert p[[x.tier == taste.tier for x in PRODUCTS]].sum() > 0.8


def test_trends_are_distinct_looks() -> None:
    trends = draw_trends(np.random.default_rng(1))
    assert len({(c, p) for c, p, _ in trends.tolist()}) == len(trends)
    taste = draw_taste(trends, np.random.default_rng(1))
    assert taste.styles[0].tolist() != taste.styles[1].tolist()
