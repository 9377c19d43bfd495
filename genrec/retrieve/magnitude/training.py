"""How `Magnitude` learns and what chooses its epoch.

It trains on pairs of (history, next item) and (text, item), one kind per batch; the epoch is chosen by
every kind of query, histories and texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec.ranking import RankedLists
from genrec.retrieve.learning import Floats, batches, taken
from genrec.retrieve.magnitude.loss import in_batch_loss
from genrec.retrieve.magnitude.settings import MagnitudeSettings
from genrec.retrieve.magnitude.towers import Towers, check_texts
from genrec.retrieve.sequences import Flat, FloatArray, IntArray

TextQueries = Mapping[str, tuple[FloatArray, IntArray]]
Ints = npt.NDArray[np.int64]
K = 10  # the epoch is chosen by NDCG at this cut-off


class Source(NamedTuple):
    """One kind of training pair. All arrays are on the device.

    Attributes:
        items: int64 [n], the positive items.
        begin: int64 [n], where in `items` the history of pair p begins; it ends before p. None: texts.
        texts: float32 [n, D]; None for histories.
        log_frequency: float32 [N], logarithm of each item's share of these pairs.
    """

    items: Tensor
    begin: Tensor | None
    texts: Tensor | None
    log_frequency: Tensor


class PairTrainer:
    """Trains towers on all pairs, an epoch at a time.

    Betas, weight decay and clipping are the paper's (arXiv 2602.09229).

    Args:
        net: trained in place, on its device.
        features: the items' views on that device, [N, D] by name.
        flat: the training sequences.
        texts: by name, vectors [n, D] and items [n]; see `check_queries`.
        settings: of the retriever.
        seed: of the order of pairs.
    """

    def __init__(
        self,
        net: Towers,
        features: Mapping[str, Tensor],
        flat: Flat,
        texts: Mapping[str, tuple[Floats, Ints]],
        settings: MagnitudeSettings,
        *,
        seed: int,
    ) -> None:
        self.net, self.features, self.settings, self.seed = net, features, settings, seed
        self.device, self.num_items = net.start.device, len(next(iter(features.values())))
        self.sources = [self._source(items, texts=vectors) for vectors, items in texts.values()]
        if len(flat.item):
            starts = np.searchsorted(flat.row, flat.row)
            self.sources.insert(0, self._source(flat.item, begin=starts))
        gamma = net.score.gamma_logits
        self.optimizer = torch.optim.AdamW(
            [p for p in net.parameters() if p is not gamma],
            lr=settings.lr,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        )
        if gamma is not None:
            own = {"params": [gamma], "lr": settings.gamma_lr, "weight_decay": 0.0}
            self.optimizer.add_param_group(own)

    def epoch(self, number: int) -> float:
        """Trains on every pair once, the kinds mixed batch by batch; returns the mean loss."""
        rng = np.random.default_rng([self.seed, number])
        plan = [
            (source, rows)
            for source in self.sources
            for rows in batches(len(source.items), self.settings.batch_size, rng)
        ]
        total = torch.zeros((), device=self.device)
        for place in rng.permutation(len(plan)):
            source, rows = plan[place]
            loss = self.loss(source, torch.from_numpy(rows).to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            total += loss.detach() * len(rows)
        return total.item() / sum(len(rows) for _, rows in plan)

    def loss(self, source: Source, rows: Tensor) -> Tensor:
        """Returns the loss of these pairs of a source, int64 [B], against each other's items."""
        settings, targets = self.settings, source.items[rows]
        if source.begin is None:
            assert source.texts is not None
            documents = rows_of(self.net, self.features, targets)
            queries = self.net.texts(source.texts[rows])
        else:
            near, there = window(source.items, source.begin[rows], rows, settings.recent)
            # Each item once, however often it comes: its vector costs far more than its place.
            needed, place = torch.unique(torch.cat([targets, near.flatten()]), return_inverse=True)
            vectors = rows_of(self.net, self.features, needed)
            documents = taken(vectors, place[: len(rows)])
            scored = taken(self.net.score.documents(vectors), place[len(rows) :])
            queries = self.net.histories(scored.view(*near.shape, -1), there, decay=settings.decay)
        return in_batch_loss(
            self.net.score(queries, documents),
            document_ids=targets,
            scale=settings.scale,
            log_frequency=settings.popularity_correction * source.log_frequency[targets],
        )

    def _source(
        self,
        items: Ints,
        *,
        begin: Ints | None = None,
        texts: Floats | None = None,
    ) -> Source:
        counts = np.bincount(items, minlength=self.num_items)
        shares = np.log(np.maximum(counts, 1) / len(items)).astype(np.float32)
        return Source(
            torch.from_numpy(items).to(self.device),
            None if begin is None else torch.from_numpy(begin).to(self.device),
            None if texts is None else torch.from_numpy(texts).to(self.device),
            torch.from_numpy(shares).to(self.device),
        )


def rows_of(net: Towers, features: Mapping[str, Tensor], items: Tensor) -> Tensor:
    """Returns the document vectors of these items before normalisation. [B] -> [B, d]."""
    return net.documents({name: table[items] for name, table in features.items()}, items)


def window(flat: Tensor, begin: Tensor, end: Tensor, recent: int) -> tuple[Tensor, Tensor]:
    """Cuts the newest items of histories that lie end to end, without a loop.

    Args:
        flat: int64 [n], the items.
        begin: int64 [B], the place of each history's oldest item.
        end: int64 [B], the place after its newest.
        recent: R, at most so many are taken.

    Returns:
        int64 [B, R] items, newest first (any item where there is none), and bool [B, R].
    """
    places = end[:, None] - 1 - torch.arange(recent, device=flat.device)
    there = places >= begin[:, None]
    if not len(flat):
        return torch.zeros_like(places), there
    return flat[torch.where(there, places, 0)], there


def ends(flat: Flat) -> tuple[Ints, Ints]:
    """Returns where each sequence begins in `flat.item`, and the place after its end; int64 [B]."""
    end = np.cumsum(np.bincount(flat.row, minlength=flat.num_rows)).astype(np.int64)
    return np.append(0, end)[:-1], end


def check_queries(
    queries: TextQueries, *, dims: Mapping[str, int], num_items: int
) -> dict[str, tuple[Floats, Ints]]:
    """Returns text queries as float32 vectors and int64 items; empty ones are left out.

    Raises:
        ValueError: vectors that do not fit the text view, or items that do not fit (names them).
    """
    checked = {}
    for name, (vectors, items) in sorted(queries.items()):
        texts = check_texts(vectors, dims=dims, name=f"queries['{name}']")
        about = np.asarray(items)
        if about.shape != (len(texts),) or not (about.dtype.kind in "iu" or not len(about)):
            raise ValueError(
                f"queries['{name}']: items are {about.dtype} {about.shape}; expected one whole "
                f"number for each of {len(texts)} texts"
            )
        outside = (about < 0) | (about >= num_items)
        if outside.any():
            at = int(np.argmax(outside))
            raise ValueError(
                f"queries['{name}'], row {at}: item {about[at]}; expected 0..{num_items - 1}"
            )
        if len(texts):
            checked[name] = (texts, about.astype(np.int64))
    return checked


# --- what chooses the epoch -------------------------------------------------------------------


def text_measure(
    search: Callable[[FloatArray], RankedLists], texts: FloatArray, items: IntArray
) -> Callable[[], float]:
    """Returns what measures NDCG@10 of texts and the one item that each is about.

    Args:
        search: texts [n, D] to their lists, 10 items long.
        texts: float [n, D].
        items: int [n].
    """

    def measure() -> float:
        hits = search(texts).items == np.asarray(items)[:, None]
        ndcg = float((hits / np.log2(2 + np.arange(K))).sum(axis=1).mean())
        return max(ndcg, 1 / len(items))  # a kind that finds nothing does not outvote the others

    return measure


def together(measures: Sequence[Callable[[], float]]) -> float:
    """Returns the geometric mean: one per cent more of one kind counts as much as of another.

    A plain mean would listen to the easiest kind alone: titles find their items nine times of ten.
    """
    values: npt.NDArray[np.float64] = np.array([measure() for measure in measures])
    return float(values.prod() ** (1 / len(values)))


def hold_out(
    queries: Mapping[str, tuple[Floats, Ints]], share: float, *, seed: int
) -> tuple[dict[str, tuple[Floats, Ints]], dict[str, tuple[Floats, Ints]]]:
    """Splits the texts of each kind at random into those to train on and those to choose by.

    Args:
        queries: by name, vectors [n, D] and items [n].
        share: of the texts that are to choose by, 0 to 1; a kind with none of them is left out there.
        seed: of the choice.
    """
    train: dict[str, tuple[Floats, Ints]] = {}
    held: dict[str, tuple[Floats, Ints]] = {}
    for name, (texts, items) in queries.items():
        away = np.zeros(len(items), dtype=bool)
        away[np.random.default_rng(seed).permutation(len(items))[: round(share * len(items))]] = (
            True
        )
        for part, chosen in ((train, ~away), (held, away)):
            if chosen.any():
                part[name] = (texts[chosen], items[chosen])
    return train, held
