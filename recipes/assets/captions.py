"""What the small vision model learns to say, in the demo's own words, and how it is asked.

A caption names category, colour, pattern and silhouette, nothing else: all that a picture shows.
"""

from __future__ import annotations

import numpy as np

from genrec.demo.catalogue import Product
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES

CAPTIONS = (
    "{A_colour} {pattern} {noun} with {a_shape} shape.",
    "{A_pattern} {noun} in {colour} with {a_shape} outline.",
    "The picture shows {a_colour} {noun}. It is {pattern} and its shape is {shape}.",
    "{A_shape} {noun} in {colour}, {pattern} all over.",
)
SYSTEMS = (
    "You describe product pictures.",
    "You write captions for a shop's catalogue. Say only what can be seen.",
    "You look at product photos and describe what is visible, in plain English.",
    "Describe only visible evidence: what it is, its colour, its pattern and its shape.",
    "You are a helpful assistant.",
    "",
)
USERS = (
    "Describe this product.",
    "Write one plain sentence about the product in the picture.",
    "What is in this picture? Name the kind of product, its colour, pattern and shape.",
    "Describe what can be seen, and nothing else.",
    "Caption this image.",
    "What does the picture show? Mention colour, pattern and silhouette. Do not guess the brand.",
    "Tell me what you see.",
    "Give a short caption for this photo.",
    "Which product is this, and what does it look like?",
    "Say what the item is and how it looks.",
    "Please describe the image for somebody who cannot see it.",
)
ENDINGS = ("", "", " Be brief.", " Use one sentence.", " Answer with the caption alone.")


def pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of `values`, each equally likely."""
    return values[int(rng.integers(len(values)))]


def words(product: Product) -> dict[str, str]:
    """The words that a caption must hold: noun, colour, pattern, shape."""
    kind = CATEGORIES[product.category]
    return {
        "noun": "pair of sneakers" if product.category == "sneaker" else kind.nouns[0].lower(),
        "colour": product.colour,
        "pattern": PATTERNS[product.pattern],
        "shape": kind.shapes[SILHOUETTES.index(product.silhouette)],
    }


def prompt(rng: np.random.Generator) -> tuple[str, str]:
    """A system text (may be empty) and a question, in many wordings."""
    return pick(SYSTEMS, rng), pick(USERS, rng) + pick(ENDINGS, rng)


def caption(product: Product, rng: np.random.Generator) -> str:
    """One wording of what the picture shows; the first is the most frequent."""
    found = words(product)
    for name in ("colour", "pattern", "shape"):
        found[f"a_{name}"] = f"{'an' if found[name][0] in 'aeiou' else 'a'} {found[name]}"
        found[f"A_{name}"] = found[f"a_{name}"].capitalize()
    wording = CAPTIONS[0] if rng.random() < 0.4 else pick(CAPTIONS[1:], rng)
    return wording.format(**found)


def named(text: str, product: Product) -> dict[str, bool]:
    """Whether a caption names each trait rightly: its word is there and no other's."""
    low = f" {text.lower().replace('.', ' ').replace(',', ' ')} "
    kind = CATEGORIES[product.category]
    truth = words(product)
    tables = {
        "colour": tuple(COLOURS),
        "pattern": tuple(PATTERNS.values()),
        "shape": tuple(s for k in CATEGORIES.values() for s in k.shapes),
    }
    right = {"noun": f" {truth['noun']} " in low or f" {kind.nouns[0].lower()} " in low}
    for trait, table in tables.items():
        right[trait] = [word for word in table if f" {word} " in low] == [truth[trait]]
    return right
