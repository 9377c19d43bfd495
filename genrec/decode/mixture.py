"""Exact search over several sets of SIDs: an item's score is the weighted mean over its SIDs.

Each set has its own codes, and one model knows them all. What is searched is

    score(i) = sum over sets s of w_s * log p(SID of i in set s | prompt of set s),

with weights that sum to 1. The best items of each set are found by beams; the items that any set found
are scored under every set; and an item that no set found can have at most the mean of the sets' bounds,
the threshold of Fagin, Lotem and Naor (Optimal aggregation algorithms for middleware, 2003). So `exact`
stays a proof.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.memory import PromptCache
from genrec.ranking import RankedLists, top_k

LEAST = 100  # users that weights are fitted on
_TOGETHER = 16  # users whose lists are scored in one search
Prompts = tuple[torch.Tensor, torch.Tensor]  # input_ids and attention_mask, [B, T] each


@dataclass(frozen=True)
class MixtureResult(RankedLists):
    """The best items of each user by the mean over the sets, best first, equal ones by number.

    Attributes:
        items: item numbers, -1 where there is none. int32 [B, K].
        scores: weighted mean of the log-probabilities of the item's SIDs, in nats. float32 [B, K].
        exact: whether the list is proven to be the best K of all eligible items. bool [B].
        bound: the most that an item that no set found can score; a place whose score is not below it
            is proven. float64 [B].
        by_set: the log-probability of each item's SID in each set. float32 [M, B, K].
        scored: items that were scored under every set, the union of the sets' lists. int64 [B].
    """

    exact: npt.NDArray[np.bool_]
    bound: npt.NDArray[np.float64]
    by_set: npt.NDArray[np.float32]
    scored: npt.NDArray[np.int64]


class MixtureEngine:
    """Searches several sets of SIDs of one catalogue by one engine each.

    Attributes:
        engines: those whose weight is above 0.
        all_engines: all that were given.
        weights: float64 [M], they sum to 1.

    Args:
        engines: M engines over the same N items, such as `BeamEngine`; of one model or of several.
        weights: M numbers of 0 or more, not all 0; they are scaled to sum to 1. None: equal ones.

    Raises:
        ValueError: no engine, catalogues of different sizes, or weights that cannot be.
    """

    def __init__(self, engines: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        if not engines:
            raise ValueError("engines: none is given; expected one per set of SIDs")
        sizes = {engine.trie.num_items for engine in engines}
        if len(sizes) > 1:
            raise ValueError(
                f"engines: catalogues of {sorted(sizes)} items; expected the same items"
            )
        given = np.ones(len(engines)) if weights is None else np.asarray(weights, dtype=np.float64)
        if given.shape != (len(engines),) or not np.isfinite(given).all() or (given < 0).any():
            raise ValueError(
                f"weights: {weights}; expected {len(engines)} numbers of 0 or more, one per set"
            )
        if not given.any():
            raise ValueError(f"weights: {weights}; expected one above 0")
        self.engines = [engine for engine, weight in zip(engines, given, strict=True) if weight]
        self.all_engines = list(engines)
        self._used = np.flatnonzero(given).tolist()
        self._sets = len(engines)
        self.weights = given / given.sum()

    @property
    def strategy(self) -> str | None:
        """That of the engines, if they have the same."""
        strategies = {getattr(engine, "strategy", None) for engine in self.engines}
        return strategies.pop() if len(strategies) == 1 else None

    def search(
        self,
        prompts: Sequence[Prompts],
        *,
        num_beams: int,
        k: int | None = None,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
        certify: bool = False,
        max_beams: int | None = None,
        keys: Sequence[Hashable] | None = None,
    ) -> MixtureResult:
        """Finds the items with the highest mean of log-probabilities.

        Args:
            prompts: per set, the prompts of the same B users in its codes.
            num_beams: prefixes kept per level in each set, W.
            k: items per user, K; at most `num_beams`, which is also the default.
            allowed: as of `BeamEngine.search`.
            exclude: as of `BeamEngine.search`.
            certify: search again with twice the beams for users whose list is not proven.
            max_beams: where `certify` stops; 8 times `num_beams` by default.
            keys: as of `BeamEngine.search`; each set keeps its own prompts.

        Raises:
            ValueError: the wrong number of prompts; else as the engines.
        """
        if len(prompts) != self._sets:
            raise ValueError(f"prompts of {len(prompts)} sets; expected {self._sets}, one per set")
        k = num_beams if k is None else k
        users = len(prompts[0][0])
        limit = (8 * num_beams if max_beams is None else max_beams) if certify else num_beams
        filters = _Filters(self.engines[0].trie, allowed, exclude, users)
        pairs = zip(self.engines, self._used, strict=True)
        searches = [_Search(engine, prompts[at], keys) for engine, at in pairs]
        rows = np.arange(users)
        result = self._search(searches, rows, num_beams, k, filters)
        while num_beams < min(limit, filters.num_items) and not result.exact.all():
            num_beams = min(2 * num_beams, limit, filters.num_items)
            rows = np.flatnonzero(~result.exact)
            again = self._search(searches, rows, num_beams, k, filters)
            result = _replaced(result, rows, again)
        return result

    def _search(
        self,
        searches: Sequence[_Search],
        rows: npt.NDArray[np.int64],
        width: int,
        k: int,
        filters: _Filters,
    ) -> MixtureResult:
        width = min(width, filters.num_items)
        found = [s.best(rows, width, filters.of(rows)) for s in searches]
        # Per user, the items that any set found; a set scores those that it did not find itself.
        union = [
            np.unique(np.concatenate([lists[user][0] for lists, _ in found]))
            for user in range(len(rows))
        ]
        longest = max(1, max(map(len, union), default=1))
        items = np.full((len(rows), longest), -1, np.int32)
        for user, numbers in enumerate(union):
            items[user, : len(numbers)] = numbers
        scores = np.stack(
            [
                s.scores_of(rows, lists, union, longest)
                for s, (lists, _) in zip(searches, found, strict=True)
            ]
        )
        weights = self.weights[self._used]
        bound = (weights[:, None] * np.stack([bounds for _, bounds in found])).sum(0)
        mean = (weights[:, None, None] * scores).sum(0).astype(np.float32)
        mean[items < 0] = -np.inf
        best = top_k(mean, k)
        place = np.maximum(best.items, 0)
        missing = best.items < 0
        numbers = np.where(missing, -1, np.take_along_axis(items, place, 1)).astype(np.int32)
        by_set = np.full((self._sets, *numbers.shape), -np.inf, np.float32)
        for at, own_scores in zip(self._used, scores, strict=True):
            by_set[at] = np.where(missing, -np.inf, np.take_along_axis(own_scores, place, 1))
        return MixtureResult(
            *(numbers, np.where(missing, -np.inf, best.scores)),
            exact=best.scores[:, -1] >= bound,
            bound=bound,
            by_set=by_set,
            scored=np.array([len(numbers) for numbers in union], dtype=np.int64),
        )


class FittedWeights(NamedTuple):
    """Weights of sets, chosen on validation users.

    Attributes:
        weights: M numbers that sum to 1.
        equal: mean NDCG@k with equal ones.
        fitted: mean NDCG@k with these.
        users: whose target was in their list; with fewer than `LEAST` the weights stay equal.
    """

    weights: list[float]
    equal: float
    fitted: float
    users: int


def fit_weights(
    items: npt.NDArray[np.integer],
    by_set: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    *,
    k: int = 10,
    steps: int = 20,
    least: int = LEAST,
) -> FittedWeights:
    """Returns the weights under which validation users' targets rank highest, by NDCG@k.

    One set's weight after the other goes over a grid, starting from equal weights, until none improves
    the mean; few numbers, chosen on many users. They stay equal where too few targets are in the lists.

    Args:
        items: int [B, K], the lists of an engine with equal weights; -1 where there is none.
        by_set: float [M, B, K], their log-probabilities in each set; -inf where there is none.
        targets: int [B], what each user chose.
        k: rank up to which a target counts.
        steps: of the grid, from 0 to 1.
        least: users whose target must be in their list.

    Returns:
        The weights, and what they gain.
    """
    sets, hit = len(by_set), items == np.asarray(targets)[:, None]
    rows = hit.any(axis=1)
    equal = np.full(sets, 1 / sets)
    place = hit[rows].argmax(axis=1)
    listed = items[rows] >= 0
    scores = np.where(listed, by_set[:, rows], 0.0).astype(np.float64)

    def gain(weights: npt.NDArray[np.float64]) -> float:
        mean = np.where(listed, np.tensordot(weights, scores, 1), -np.inf)
        own = np.take_along_axis(mean, place[:, None], 1)
        better = (mean > own).sum(axis=1) + ((mean == own).sum(axis=1) - 1) / 2
        gains = np.where(better < k, 1 / np.log2(better + 2), 0.0)
        return float(gains.sum() / max(1, len(items)))

    before = best = gain(equal)
    chosen = equal
    if rows.sum() < least:
        return FittedWeights(equal.tolist(), before, before, int(rows.sum()))
    improved = True
    while improved:
        improved = False
        for number in range(sets):
            rest = np.delete(chosen, number)
            rest = rest / rest.sum() if rest.sum() else np.full(sets - 1, 1 / max(1, sets - 1))
            for share in np.linspace(0, 1, steps + 1):
                weights = np.insert((1 - share) * rest, number, share)
                if (measured := gain(weights)) > best + 1e-9:
                    best, chosen, improved = measured, weights, True
    return FittedWeights(chosen.tolist(), before, best, int(rows.sum()))


class _Filters:
    """`allowed` and `exclude` of all users, for some of them at a time."""

    def __init__(
        self, trie: Any, allowed: Allowed | None, exclude: ItemLists | None, users: int
    ) -> None:
        self.num_items: int = trie.num_items
        self._allowed, self._exclude = allowed, exclude
        if isinstance(allowed, Eligibility):
            raise ValueError(
                "allowed: a mask that was counted for one set of SIDs; give the mask itself"
            )
        shape = getattr(allowed, "shape", None)
        self._by_user = allowed is not None and not (shape is not None and len(shape) == 1)
        for name, given in (("allowed", allowed if self._by_user else None), ("exclude", exclude)):
            if given is not None and len(given) != users:
                raise ValueError(f"{name}: {len(given)} users; expected {users}")

    def of(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        allowed: Any = self._allowed
        if self._by_user:
            whole = hasattr(allowed, "shape")
            allowed = allowed[rows] if whole else [allowed[row] for row in rows]
        exclude = None if self._exclude is None else [self._exclude[row] for row in rows]
        return {"allowed": allowed, "exclude": exclude}


_Lists = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]  # per user: items, scores


class _Search:
    """One set's searches; each prompt is computed once where the engine can keep it."""

    def __init__(self, engine: Any, prompts: Prompts, keys: Sequence[Hashable] | None) -> None:
        self._engine = engine
        self._ids, self._mask = prompts
        self._keys, self._options = keys, dict[str, Any]()
        if keys is None and getattr(engine, "strategy", None) == "tree":
            self._keys = range(len(self._ids))
            self._options["prompts"] = PromptCache(engine.prompts.budget)

    def best(
        self, rows: npt.NDArray[np.int64], width: int, filters: dict[str, Any]
    ) -> tuple[_Lists, npt.NDArray[np.float64]]:
        """The set's own best items of some users, and the most that any other one can score. [B]."""
        out = self._found(rows, num_beams=width, k=width, **filters)
        items, scores = out.items.numpy(), out.scores.numpy()
        lists = [(own[own >= 0], score[own >= 0]) for own, score in zip(items, scores, strict=True)]
        return lists, out.bound.numpy().astype(np.float64)

    def scores_of(
        self,
        rows: npt.NDArray[np.int64],
        lists: _Lists,
        union: Sequence[npt.NDArray[np.int64]],
        width: int,
    ) -> npt.NDArray[np.float64]:
        """The scores of every user's union in this set, [B, width]; those not listed are computed."""
        scores = np.full((len(rows), width), -np.inf)
        missing = [
            np.setdiff1d(wanted, items, assume_unique=True)
            for wanted, (items, _) in zip(union, lists, strict=True)
        ]
        for user, (items, own) in enumerate(lists):
            scores[user, np.searchsorted(union[user], items)] = own
        users = np.array([user for user, items in enumerate(missing) if len(items)], dtype=np.int64)
        if not len(users):
            return scores
        # A search has as many beams as the longest of its lists: lists of like length go together.
        counts = np.array([len(missing[user]) for user in users])
        for part in np.array_split(users[np.argsort(-counts)], -(-len(users) // _TOGETHER)):
            most = len(missing[part[0]])
            allowed = [missing[user] for user in part]
            out = self._found(rows[part], num_beams=most, k=most, allowed=allowed)
            for user, items, own in zip(part, out.items.numpy(), out.scores.numpy(), strict=True):
                there = items >= 0
                scores[user, np.searchsorted(union[user], items[there])] = own[there]
        return scores

    def _found(self, rows: npt.NDArray[np.int64], **wanted: Any) -> Any:
        some = torch.from_numpy(rows)
        if self._keys is not None:
            wanted["keys"] = [self._keys[row] for row in rows.tolist()]
        return self._engine.search(self._ids[some], self._mask[some], **wanted, **self._options)


def _replaced(
    result: MixtureResult, rows: npt.NDArray[np.int64], other: MixtureResult
) -> MixtureResult:
    """Puts some users' lists in place of others."""
    items, scores, exact = result.items.copy(), result.scores.copy(), result.exact.copy()
    by_set, scored, bound = result.by_set.copy(), result.scored.copy(), result.bound.copy()
    items[rows], scores[rows], exact[rows] = other.items, other.scores, other.exact
    by_set[:, rows], scored[rows], bound[rows] = other.by_set, other.scored, other.bound
    return MixtureResult(items, scores, exact=exact, bound=bound, by_set=by_set, scored=scored)
