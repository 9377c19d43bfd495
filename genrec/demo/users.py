"""The demo's users: every choice has one drawn reason, in known proportions.

Tastes persist and categories lead to one another, so the next choice can be learned; which reason
was drawn is kept aside, so it can be measured which part of the pipeline recovers which signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrec.demo.catalogue import Product
from genrec.demo.interests import INTERESTS
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES, TIERS
from genrec.progress import Progress, silent

# Why a product is chosen: what follows from the last one's category and the user's price tier; its
# look; whom it suits; only how popular it is.
REASONS: dict[str, float] = {"category": 0.3, "visual": 0.3, "interest": 0.3, "popular": 0.1}
LENGTHS = (6, 20)  # shortest and longest history

# Tuned so that there is something to learn: with 800 products, 2,000 users and seed 7, recall@10
# on test is 0.05 by popularity, 0.13 to 0.15 by co-occurrence, 0.31 by one that knows every taste.
_FOLLOWS = 0.85  # the next category follows from the last one (else it is a favourite one)
_USUAL = 0.85  # ... and is the usual of the two that follow
_STAYS = 0.97  # the current look, or the current interest, is still that of the choice before
_LOOK = (60.0, 60.0, 8.0)  # how much likelier a match in colour, in pattern, in silhouette is
_TIER = 30.0  # how much likelier the user's own price tier is
_STRENGTH = (1.0, 0.25, 0.1)  # of a product's first, second and third interest
_POPULARITY = 0.7  # standard deviation of log popularity
_LENGTH = 0.45  # where between shortest and longest the mean history lies
_TRENDS = 16  # looks that are in fashion; every user likes two of them
_START, _DAY = 1_672_531_200, 86_400  # 2023-01-01 in seconds; choices span about two years


@dataclass
class Taste:
    """What one user likes; `style` and `interest` say which of the two holds now.

    Attributes:
        styles: two looks, each the index of a colour, a pattern and a silhouette.
        interests: two indices into the interests.
        favourites: two indices into the categories.
        tier: index into `TIERS`.
        last: index of the last choice's category.
    """

    styles: np.ndarray
    interests: np.ndarray
    favourites: np.ndarray
    tier: int
    last: int
    style: int = 0
    interest: int = 0


class Chooser:
    """The probability of every product, given a reason and a taste.

    Args:
        products: the N products.
        seed: decides their popularity.
    """

    def __init__(self, products: Sequence[Product], *, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        n = len(products)
        self.category = _codes([p.category for p in products], CATEGORIES)
        self.tier = np.array([p.tier for p in products])
        self.look = np.stack(  # [N, 3]
            [
                _codes([p.colour for p in products], COLOURS),
                _codes([p.pattern for p in products], PATTERNS),
                _codes([p.silhouette for p in products], dict.fromkeys(SILHOUETTES)),
            ],
            axis=1,
        )
        self.strength = np.zeros((n, len(INTERESTS)))
        for row, product in enumerate(products):
            for interest, strength in zip(product.interests, _STRENGTH, strict=False):
                self.strength[row, list(INTERESTS).index(interest)] = strength
        self.popularity = np.exp(rng.normal(0, _POPULARITY, size=n))
        self.leads_to = np.zeros((len(CATEGORIES), len(CATEGORIES)))
        for row, category in enumerate(CATEGORIES.values()):
            for follower, share in zip(category.leads_to, (_USUAL, 1 - _USUAL), strict=True):
                self.leads_to[row, list(CATEGORIES).index(follower)] = share

    def probabilities(self, reason: str, taste: Taste, taken: Sequence[int]) -> np.ndarray:
        """Returns float64 [N], which sums to 1 and is 0 for what is `taken`."""
        weights = self.popularity * self._fit(reason, taste)
        weights[list(taken)] = 0.0
        if not weights.any():  # everything that fits is taken
            weights = self.popularity.copy()
            weights[list(taken)] = 0.0
        return weights / weights.sum()

    def _fit(self, reason: str, taste: Taste) -> np.ndarray:
        if reason == "category":
            share = _FOLLOWS * self.leads_to[taste.last]
            share[taste.favourites] += (1 - _FOLLOWS) / 2
            return share[self.category] * np.where(self.tier == taste.tier, _TIER, 1.0)
        if reason == "visual":
            match = self.look == taste.styles[taste.style]  # [N, 3]
            return np.where(match, _LOOK, 1.0).prod(axis=1)
        if reason == "interest":
            return self.strength[:, taste.interests[taste.interest]]
        return np.ones(len(self.popularity))


def _codes(values: Sequence[str], table: Mapping[str, object]) -> np.ndarray:
    index = {name: code for code, name in enumerate(table)}
    return np.array([index[value] for value in values])


def make_choices(
    products: Sequence[Product],
    *,
    users: int,
    seed: int,
    reasons: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[str, str, int, str]]:
    """Draws every user's choices; nobody chooses the same product twice.

    Args:
        products: the catalogue, more than the longest history.
        users: number of users U.
        seed: same seed, same choices.
        reasons: share of each reason; `REASONS` where None.
        progress: told "make choices".

    Yields:
        user_id, item_id, timestamp (seconds, increasing per user), reason; user after user.
    """
    reasons = REASONS if reasons is None else reasons
    rng = np.random.default_rng([seed, 4])
    chooser = Chooser(products, seed=seed)
    shares = np.array(list(reasons.values())) / sum(reasons.values())
    trends = draw_trends(rng)
    for user in range(1, users + 1):
        taste = draw_taste(trends, rng)
        taken: list[int] = []
        time = _START + int(rng.integers(0, 540 * _DAY))
        for _ in range(LENGTHS[0] + int(rng.binomial(LENGTHS[1] - LENGTHS[0], _LENGTH))):
            _move_on(taste, rng)
            reason = list(reasons)[int(rng.choice(len(shares), p=shares))]
            p = chooser.probabilities(reason, taste, taken)
            item = int(rng.choice(len(products), p=p))
            yield f"u{user:05d}", products[item].item_id, time, reason
            taken.append(item)
            taste.last = int(chooser.category[item])
            time += 3600 + int(rng.exponential(16 * _DAY))
        progress("make choices", user, users)


def draw_trends(rng: np.random.Generator) -> np.ndarray:
    """Draws the looks in fashion, [trends, 3]; no two share both colour and pattern."""
    pairs = rng.choice(len(COLOURS) * len(PATTERNS), size=_TRENDS, replace=False)
    silhouettes = rng.integers(len(SILHOUETTES), size=_TRENDS)
    return np.stack([pairs // len(PATTERNS), pairs % len(PATTERNS), silhouettes], axis=1)


def draw_taste(trends: np.ndarray, rng: np.random.Generator) -> Taste:
    """Draws what one user likes."""
    return Taste(
        styles=rng.choice(trends, size=2, replace=False),
        interests=rng.choice(len(INTERESTS), size=2, replace=False),
        favourites=rng.choice(len(CATEGORIES), size=2, replace=False),
        tier=int(rng.integers(len(TIERS))),
        last=int(rng.integers(len(CATEGORIES))),
    )


def _move_on(taste: Taste, rng: np.random.Generator) -> None:
    """Now and then the other look, or the other interest, takes over."""
    taste.style ^= int(rng.random() > _STAYS)
    taste.interest ^= int(rng.random() > _STAYS)
