"""Items a few steps on in the graph of transitions, ranked by likeness: nothing is trained.

After TGH (arXiv 2605.07125), which asks how far a benchmark can be solved without a model. The paper
was not at hand: this follows what its authors say of their code and what the code does, and says below
where it differs. No line is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.progress import Progress, silent
from genrec.ranking import RankedLists, best_first, best_of_rows, top_k
from genrec.retrieve.base import Arrays, Ranker, Retriever, mask
from genrec.retrieve.linear import csr_of_arrays, csr_to_arrays, pairs
from genrec.retrieve.sequences import Flat, FloatArray, Sequences, flatten, popularity
from genrec.retrieve.settings import GraphSettings
from genrec.retrieve.views import check_view, unit_rows

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Graph(Retriever[GraphSettings]):
    """Lists what is 1, 2, ... steps from a history's last items, a fixed number of each.

    An item leads to those that came right after it in training. What can be reached from an item in h
    steps and no fewer is its ring h; the item itself is in none. A ring is ordered by the cosine with
    the item that it surrounds; ring 1 adds `count_weight` * log(1 + count) / the largest of the row.

    Row r of `budgets` belongs to the r-th newest item of the history. A list is made of blocks with as
    many places as the budgets sum up to, ten as published, and each ring has its places in every block,
    in the order of the budgets. An item of two rings takes the earlier of its places. Where a ring has
    too few items, the next places move up, those of the next block too. Items of no ring follow by their
    cosine with the newest item. Equal ones are ordered by popularity, then by item number; an empty
    history gets the most popular items. A score is 1 / place in the blocks, and cosine - 1 after them.

    Without views all cosines are 0: ring 1 goes by counts, everything else by popularity.

    Ours, and not the authors': lists of more than one block; blocks that go on where a ring has too few
    items (theirs fills up from the other rings too, then at random or by similarity); two rings may
    count the same item (theirs: the second anchor passes over what the first one placed); an item never
    leads to itself. For lists of ten that is a difference of at most .0005 in NDCG@10 on `scientific`,
    `movielens-posters` and the demo (validation). They encode texts with flan-t5-xl.

    Attributes:
        popularity_: int64 [N], training interactions per item; set by `fit`.
        transitions_: sparse float64 [N, N], how often j came right after i, zero diagonal; set by `fit`.
        vectors_: float32 [N, D] of length 1, the views side by side, zeros where an item has none;
            D is 0 without views; set by `fit`.
    """

    popularity_: Ints
    transitions_: sparse.csr_array
    vectors_: Floats

    def fit(
        self,
        sequences: Sequences,
        *,
        num_items: int,
        features: Mapping[str, FloatArray] | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Counts transitions; see `Retriever.fit`.

        Args:
            sequences: as in `Retriever.fit`.
            num_items: N.
            features: item views by name, float [N, F]; rows of zeros where an item has none. Without
                any, counts and popularity order the items.
            progress: told when it is done.

        Raises:
            ValueError: an item lies outside 0..N-1, or a view has another shape or numbers that are not
                finite.
        """
        flat = flatten(sequences, num_items=num_items)
        views = [
            unit_rows(check_view(name, view, num_items=num_items))
            for name, view in sorted((features or {}).items())
        ]
        nothing = np.zeros((num_items, 0), dtype=np.float32)
        self.vectors_ = unit_rows(np.concatenate([nothing, *views], axis=1))
        self.transitions_ = pairs(flat, 1, num_items=num_items)
        self.popularity_ = popularity(flat, num_items=num_items)
        self.num_items_ = num_items
        progress("graph: fit", 1, 1)
        return self

    def _ranker(self, histories: Sequences, *, k: int, exclude_seen: bool) -> Ranker:
        order = best_first(self.popularity_)  # inside, items are numbered so: numbers break ties
        number = np.argsort(order)
        weights = _log_shares(self.transitions_)[order][:, order]

        def cosine(anchors: Ints) -> Floats:
            # Rounded, so that items with the same vector tie however many users there are.
            return (self.vectors_[order[anchors]] @ self.vectors_.T)[:, order].round(6)

        def rank(part: slice, seen: Flat) -> RankedLists:
            own = seen._replace(item=number[seen.item])
            scores = self._scores(own, weights, cosine, k=k, exclude_seen=exclude_seen)
            return top_k(scores, k).renumbered(order)

        return rank

    def _scores(
        self,
        seen: Flat,
        weights: sparse.csr_array,
        cosine_of: Callable[[Ints], Floats],
        *,
        k: int,
        exclude_seen: bool,
    ) -> Floats:
        """Scores [B, N] for a block of users, right for the k best; -inf leaves an item out."""
        budgets = self.settings.budgets
        block, start = sum(map(sum, budgets)), 0
        scores = np.full((seen.num_rows, self.num_items_), -1, dtype=np.float32)
        banned = np.zeros(scores.shape, dtype=bool)
        if exclude_seen:
            banned[seen.row, seen.item] = True
        for back, budget in enumerate(budgets):
            user, anchor = seen.row[seen.back == back], seen.item[seen.back == back]
            cosine = cosine_of(anchor)
            if back == 0:
                scores[user] += cosine
            for step, (row, item, weight) in enumerate(_rings(weights, anchor, len(budget))):
                likeness = cosine[row, item]
                if step == 0:
                    likeness += np.float32(self.settings.count_weight) * weight
                row = user[row]
                free = ~banned[row, item]
                row, item = row[free], item[free]
                best, place = best_of_rows(row, likeness[free], k)
                row, item = row[best], item[best]
                place = place // budget[step] * block + start + place % budget[step]
                score = (1 / (1 + place)).astype(np.float32)
                scores[row, item] = np.maximum(scores[row, item], score)
                start += budget[step]
        if exclude_seen:
            mask(scores, seen)
        return scores

    def _arrays(self) -> Arrays:
        transitions = csr_to_arrays("transitions", self.transitions_)
        return {"popularity": self.popularity_, "vectors": self.vectors_, **transitions}

    def _restore(self, arrays: Arrays) -> None:
        self.popularity_, self.vectors_ = arrays["popularity"], arrays["vectors"]
        self.num_items_ = len(self.popularity_)
        self.transitions_ = csr_of_arrays("transitions", arrays, self.num_items_)


def _log_shares(counts: sparse.csr_array) -> sparse.csr_array:
    """log(1 + count) over the largest of its row, float32 [N, N]."""
    logs = counts.log1p().astype(np.float32)
    largest = logs.max(axis=1).toarray().ravel()
    row = np.repeat(np.arange(logs.shape[0]), np.diff(logs.indptr))
    return sparse.csr_array((logs.data / largest[row], logs.indices, logs.indptr), logs.shape)


def _rings(
    weights: sparse.csr_array, anchors: Ints, depth: int
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Yields for 1, 2, ... steps what is so far from each of B anchors, and no nearer.

    Args:
        weights: [N, N], above 0 where an item leads to another.
        anchors: [B], items.
        depth: steps.

    Yields:
        The anchor's place in B, the item, and for 1 step the weight of the transition, [n] each, by
        place and item.
    """
    reached = np.zeros((len(anchors), weights.shape[1]), dtype=bool)
    reached[np.arange(len(anchors)), anchors] = True
    ring = weights[anchors]
    for step in range(depth):
        if step:
            ring = ring @ weights
        ring.sort_indices()
        found = ring.tocoo()
        row, item = found.row.astype(np.int64), found.col.astype(np.int64)
        new = ~reached[row, item]
        row, item, weight = row[new], item[new], found.data[new]
        reached[row, item] = True
        yield row, item, weight
        ring = sparse.csr_array((np.ones_like(weight), (row, item)), shape=ring.shape)
