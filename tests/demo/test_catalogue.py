"""The demo's texts: what they tell, and what they must not."""

import re
from collections import Counter

import pytest

from genrec.demo.catalogue import Product, make_products
from genrec.demo.interests import INTERESTS
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES

PRODUCTS = make_products(800, seed=7)


def words(product: Product) -> set[str]:
    text = f"{product.title} {product.description}".lower()
    return set(re.findall(r"[\w-]+", text)) | set(re.findall(r"\w+", text))


def word(product: Product, trait: str) -> str:
    """The word that stands in a text where the trait is mentioned."""
    if trait == "silhouette":
        return CATEGORIES[product.category].shapes[SILHOUETTES.index(product.silhouette)]
    return PATTERNS[product.pattern] if trait == "pattern" else product.colour


@pytest.mark.parametrize("trait", ["colour", "pattern", "silhouette"])
def test_traits_stand_in_the_text_exactly_where_mentioned(trait: str) -> None:
    vocabulary = {
        "colour": set(COLOURS),
        "pattern": set(PATTERNS.values()),
    }
    for product in PRODUCTS:
        known = vocabulary.get(trait, set(CATEGORIES[product.category].shapes))
        told = words(product) & known
        assert told == ({word(product, trait)} if trait in product.mentions else set()), product
    assert sum(trait in p.mentions for p in PRODUCTS) == round(0.35 * 800)


def test_the_share_of_mentions_is_free() -> None:
    assert not any(p.mentions for p in make_products(50, seed=1, mentioned=0.0))
    assert all(len(p.mentions) == 3 for p in make_products(50, seed=1, mentioned=1.0))


STOP = {"with", "that", "this", "from", "their", "what", "when", "over", "into", "first", "made"}


def content(text: str) -> set[str]:
    """Word stems of four letters or more, roughly."""
    return {w[:5] for w in re.findall(r"[a-z]{4,}", text.lower()) if w not in STOP}


@pytest.mark.parametrize("key", INTERESTS)
def test_no_hint_uses_its_interest_s_wording(key: str) -> None:
    interest = INTERESTS[key]
    for hint in interest.hints:
        assert not content(interest.wording) & content(hint), (interest.wording, hint)


def test_hints_stand_only_in_texts_of_products_with_the_interest_and_not_in_all() -> None:
    owner = {hint: key for key, interest in INTERESTS.items() for hint in interest.hints}
    assert len(owner) == 72
    hinted = 0
    for product in PRODUCTS:
        found = [key for hint, key in owner.items() if hint in product.description]
        assert set(found) <= set(product.interests)
        hinted += len(found)
        assert all(product.category in INTERESTS[key].categories for key in product.interests)
        assert 1 <= len(set(product.interests)) == len(product.interests) <= 3
    total = sum(len(p.interests) for p in PRODUCTS)
    assert hinted / total == pytest.approx(0.6, abs=0.05)


def test_catalogue_is_balanced_and_titles_differ() -> None:
    assert len({p.title for p in PRODUCTS}) == 800
    assert [p.item_id for p in PRODUCTS[:2]] == ["p0001", "p0002"]
    for trait, values in (
        ("category", CATEGORIES),
        ("colour", COLOURS),
        ("pattern", PATTERNS),
        ("silhouette", SILHOUETTES),
    ):
        counts = Counter(getattr(p, trait) for p in PRODUCTS)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1
    interests = Counter(i for p in PRODUCTS for i in p.interests)
    assert set(interests) == set(INTERESTS)
    assert min(interests.values()) >= 20


def test_texts_are_finished() -> None:
    for product in PRODUCTS:
        text = product.description
        assert text.endswith((".", "!"))
        assert not re.search(r"[{}]|  | an? [aeiou]?\b,|\ba [aeiou]", text), text
        assert 40 < len(text) < 600
        assert float(product.price) > 1
