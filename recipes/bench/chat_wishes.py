"""Wishes over the demo's known traits, and which items have them: the truth that chat is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS

# People in our words, none of which stand in the truth's wording or in the catalogue's hints.
PEOPLE: dict[str, str] = {
    "winter_camping": "a camper who sleeps out in the cold",
    "bike_commute": "somebody who rides a bicycle to the job",
    "small_flat": "a studio flat without much space",
    "exam_study": "a student before finals",
    "new_parent": "a mum with a baby on her arm",
    "grandparent_gift": "my grandmother's birthday",
    "minimalism": "a Scandinavian, pared-down home",
    "planet_first": "an eco-friendly, sustainable life",
    "carry_on": "air travel with cabin bags",
    "marathon": "a long-distance runner",
    "festival": "an open-air music festival",
    "office_desk": "my desk in the office",
    "journaling": "someone who keeps a diary",
    "dog_walks": "a dog owner's morning round",
    "houseplants": "a lover of indoor plants",
    "schoolchild": "a kid starting at school",
    "photography": "a photographer in the mountains",
    "reading_nook": "a bookworm's cosy corner",
    "dinner_host": "a dinner party",
    "angling": "a fisherman",
    "streetwear": "a fan of street fashion",
    "van_life": "a camper van",
    "yoga": "meditation and yoga",
    "stargazing": "an amateur astronomer",
}
# Other words for a trait: the truth's value, as people may say it. Each means that value alone.
SAID: dict[str, tuple[str, ...]] = {
    **{colour: (colour,) for colour in COLOURS},
    "navy": ("navy", "navy blue"),
    "mustard": ("mustard", "mustard yellow"),
    "stripes": ("striped", "stripy"),
    "dots": ("dotted", "polka dot"),
    "checks": ("checked", "plaid"),
    "zigzag": ("zigzag", "chevron"),
    "floral": ("floral", "flowery"),
    "solid": ("plain",),
}
NOUNS: dict[str, tuple[str, ...]] = {
    **{category: (category,) for category in CATEGORIES},
    "sneaker": ("sneakers", "pair of shoes"),
    "jacket": ("jacket", "coat"),
    "backpack": ("backpack", "rucksack"),
    "cushion": ("cushion", "pillow"),
    "umbrella": ("umbrella",),
    "planter": ("planter", "plant pot"),
}
FORMS = (
    "{looks} {noun}{people}",
    "I am looking for a {looks} {noun}{people}",
    "do you have a {noun} that is {looks}{people}?",
    "a {noun}{people}, {looks} please",
    "Show me {looks} {noun} options{people}.",
)
COMBINATIONS = (
    ("colour", "pattern", "interest"),
    ("colour", "pattern"),
    ("colour", "interest"),
    ("pattern", "interest"),
    ("interest",),
)


class Wish(NamedTuple):
    """A wish and its truth.

    Attributes:
        text: what is said.
        traits: the truth's values by column, category always.
        items: the numbers of those that have them all; one or more.
    """

    text: str
    traits: Mapping[str, str]
    items: frozenset[int]


def make_wishes(truth: pl.DataFrame, *, count: int, seed: int) -> list[Wish]:
    """Returns wishes that some item satisfies, every combination of traits equally often.

    Args:
        truth: the demo's true items, row i is item i.
        count: number of wishes.
        seed: draws items, words and forms.
    """
    rng = np.random.default_rng([seed, 6])
    rows = rng.choice(len(truth), size=count, replace=count > len(truth))
    wishes = []
    for number, row in enumerate(rows):
        named = COMBINATIONS[number % len(COMBINATIONS)]
        item = truth.row(int(row), named=True)
        traits = {"category": item["category"], **{n: item[n] for n in named if n != "interest"}}
        if "interest" in named:
            traits["interest"] = item["interests"][0]
        wishes.append(Wish(_text(traits, rng), traits, satisfying(truth, traits)))
    return wishes


def satisfying(truth: pl.DataFrame, traits: Mapping[str, str]) -> frozenset[int]:
    """Returns the items that have all traits."""
    holds = pl.lit(True)
    for name, value in traits.items():
        own = (
            pl.col("interests").list.contains(value)
            if name == "interest"
            else pl.col(name) == value
        )
        holds &= own
    found = truth.with_row_index("row").filter(holds)["row"]
    return frozenset(int(row) for row in found)


def _text(traits: Mapping[str, str], rng: np.random.Generator) -> str:
    looks = [_pick(SAID[traits[n]], rng) for n in ("colour", "pattern") if n in traits]
    people = f" for {PEOPLE[traits['interest']]}" if "interest" in traits else ""
    forms = FORMS if looks else ("{noun}{people}", "I need a {noun}{people}")
    form = _pick(forms, rng)
    noun = _pick(NOUNS[traits["category"]], rng)
    return " ".join(form.format(looks=" ".join(looks), noun=noun, people=people).split())


def _pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


assert set(PATTERNS) <= set(SAID)
