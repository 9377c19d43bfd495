"""The demo's products: drawn traits, and texts that tell only part of them.

Colour, pattern and silhouette are always drawn in the image but mentioned in a known share of the
texts; interests are never named, only sometimes hinted at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from genrec.demo.interests import INTERESTS
from genrec.demo.vocabulary import (
    BRANDS,
    CATEGORIES,
    CLOSERS,
    COLOURS,
    LOOKS,
    MODELS,
    OPENERS,
    PATTERNS,
    SILHOUETTES,
    TIERS,
)

T = TypeVar("T")

INTEREST_COUNT = (0.45, 0.4, 0.15)  # share of products with one, two, three interests
HINTED = 0.6  # share of a product's interests that leave a hint in its text


@dataclass(frozen=True)
class Product:
    """One product with everything that is true of it.

    Attributes:
        item_id, brand, title, description, material, price: what the shop shows.
        category, colour, pattern, silhouette: keys of the word tables.
        tier: index into `TIERS`.
        interests: keys of `INTERESTS`, the strongest first.
        mentions: which of "colour", "pattern", "silhouette" stand in the text.
    """

    item_id: str
    brand: str
    title: str
    description: str
    material: str
    price: str
    category: str
    colour: str
    pattern: str
    silhouette: str
    tier: int
    interests: tuple[str, ...]
    mentions: frozenset[str]


def make_products(count: int, *, seed: int, mentioned: float = 0.35) -> list[Product]:
    """Draws a catalogue in which every trait is about equally frequent.

    Args:
        count: number of products N.
        seed: same seed, same products.
        mentioned: share of products whose text names the colour; likewise, and independently, the
            pattern and the silhouette.

    Returns:
        N products with ids p0001, p0002, ... and titles that are all different.
    """
    rng = np.random.default_rng([seed, 1])
    columns = zip(
        _even(list(CATEGORIES), count, rng),
        _even(list(COLOURS), count, rng),
        _even(list(PATTERNS), count, rng),
        _even(list(SILHOUETTES), count, rng),
        _even(list(range(len(TIERS))), count, rng),
        *(_share(mentioned, count, rng) for _ in range(3)),
        strict=True,
    )
    products: list[Product] = []
    titles: set[str] = set()
    for number, (category, colour, pattern, silhouette, tier, *named) in enumerate(columns, 1):
        traits = {"colour": colour, "pattern": pattern, "silhouette": silhouette}
        mentions = frozenset(t for t, is_named in zip(traits, named, strict=True) if is_named)
        product = _product(f"p{number:04d}", category, traits, tier, mentions, titles, rng)
        titles.add(product.title)
        products.append(product)
    return products


def _even(values: list[T], count: int, rng: np.random.Generator) -> list[T]:
    """Each value about count / len(values) times, shuffled."""
    order = rng.permutation(count) % len(values)
    return [values[i] for i in order]


def _share(share: float, count: int, rng: np.random.Generator) -> list[bool]:
    return [bool(i < round(share * count)) for i in rng.permutation(count)]


def _pick(values: tuple[T, ...], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]


def _product(
    item_id: str,
    category: str,
    traits: dict[str, str],
    tier: int,
    mentions: frozenset[str],
    taken: set[str],
    rng: np.random.Generator,
) -> Product:
    kind = CATEGORIES[category]
    brand = _brand(category, tier, rng)
    material = _pick(kind.materials, rng)
    interests = _interests(category, material, rng)
    words = _mention_words(category, traits, mentions)
    in_title = [word for word in words if rng.random() < 0.5]
    model, title = _title(category, brand, material, in_title, taken, rng)
    in_text = [word for word in words if word not in in_title]
    return Product(
        item_id,
        brand,
        title,
        _description(category, brand, model, material, in_text, interests, rng),
        material,
        _price(kind.price, tier, rng),
        category,
        traits["colour"],
        traits["pattern"],
        traits["silhouette"],
        tier,
        interests,
        mentions,
    )


def _brand(category: str, tier: int, rng: np.random.Generator) -> str:
    """One of the four brands of this tier that make this category."""
    parity = list(CATEGORIES).index(category) % 2
    return _pick(BRANDS[tier][parity::2], rng)


def _interests(category: str, material: str, rng: np.random.Generator) -> tuple[str, ...]:
    """One to three interests that fit; typical categories and materials are likelier."""
    fitting = [key for key, interest in INTERESTS.items() if category in interest.categories]
    weights = np.array(
        [
            (6 - INTERESTS[key].categories.index(category))
            * (2.0 if material in INTERESTS[key].materials else 1.0)
            for key in fitting
        ]
    )
    count = 1 + int(rng.choice(3, p=INTEREST_COUNT))
    chosen = rng.choice(len(fitting), size=count, replace=False, p=weights / weights.sum())
    return tuple(fitting[i] for i in chosen)


def _mention_words(category: str, traits: dict[str, str], mentions: frozenset[str]) -> list[str]:
    shape = CATEGORIES[category].shapes[SILHOUETTES.index(traits["silhouette"])]
    words = {
        "silhouette": shape,
        "pattern": PATTERNS[traits["pattern"]],
        "colour": traits["colour"],
    }
    return [word for trait, word in words.items() if trait in mentions]


def _title(
    category: str,
    brand: str,
    material: str,
    in_title: list[str],
    taken: set[str],
    rng: np.random.Generator,
) -> tuple[str, str]:
    """Returns a model name and a title that no other product has."""
    kind = CATEGORIES[category]
    looks = "".join(f"{word.capitalize()} " for word in in_title)
    while True:
        model = _pick(MODELS, rng)
        name = f"{brand} {model} {looks}{material} {_pick(kind.nouns, rng)}"
        title = f"{name}, {_pick(kind.sizes, rng)}"
        if title not in taken:
            return model, title


def _description(
    category: str,
    brand: str,
    model: str,
    material: str,
    in_text: list[str],
    interests: tuple[str, ...],
    rng: np.random.Generator,
) -> str:
    """An opening, then features, looks and hints in any order, then perhaps a closing."""
    kind = CATEGORIES[category]
    noun = "pair of shoes" if category == "sneaker" else kind.nouns[0].lower()
    names = {"brand": brand, "model": model, "material": material.lower(), "noun": noun}
    names["a_material"], names["a_noun"] = _article(names["material"]), _article(noun)
    names["A_material"] = names["a_material"].capitalize()
    middle = [_pick(kind.features, rng)]
    if in_text:
        middle.append(_pick(LOOKS, rng).format(look=_and(in_text)))
    for key in interests:
        if rng.random() < HINTED:
            middle.append(_pick(INTERESTS[key].hints, rng))
    rng.shuffle(middle)
    return " ".join(
        filter(None, [_pick(OPENERS, rng).format(**names), *middle, _pick(CLOSERS, rng)])
    )


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _price(price: tuple[int, int], tier: int, rng: np.random.Generator) -> str:
    low, high = price
    factor = (0.6, 1.0, 1.9)[tier]
    return f"{round(factor * rng.uniform(low, high)) - 0.05:.2f}"
