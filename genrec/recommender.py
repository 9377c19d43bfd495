"""A trained LLM, its tokenizer and the catalogue's SIDs as one thing: prompts in, ranked items out.

`lm` and `decode` do not know each other; this is where they meet. Validation during training, the
recommend stage and, later, serving all go through here, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec import schema
from genrec.decode import BeamEngine
from genrec.lm.batch import code_token_ids, encode_prompts
from genrec.lm.model import quiet
from genrec.progress import Progress, silent
from genrec.schema import Segment
from genrec.sid import SIDTrie

Prompts = Sequence[tuple[Segment, ...]]
Histories = Sequence[Sequence[int]]


class Lists(NamedTuple):
    """Ranked items of U users.

    Attributes:
        items: int64 [U, k], best first; -1 where there is none.
        scores: float32 [U, k], log-probability of the item's SID; -inf where there is none.
        ranks: int32 [U, k], from 1; items that share a SID share a rank (1, 2, 2, 4).
        exact: bool [U], the list is proven to be the top of the whole catalogue.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    ranks: npt.NDArray[np.int32]
    exact: npt.NDArray[np.bool_]


class Recommender:
    """Recommends by exact constrained beam search.

    Args:
        model: a causal LM whose vocabulary has the SID tokens.
        tokenizer: the one it was trained with.
        sids: int [N, L]; row i is the SID of item i.
        max_length: longest prompt, tokens; longer ones lose their oldest items.
        batch_size: users decoded at once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sids: np.ndarray,
        *,
        max_length: int,
        batch_size: int = 64,
    ) -> None:
        self.tokenizer, self.sids = tokenizer, np.asarray(sids)
        self.max_length, self.batch_size = max_length, batch_size
        self.code_tokens = code_token_ids(tokenizer, (self.sids.max(axis=0) + 1).tolist())
        self.engine = BeamEngine(model, SIDTrie(self.sids), self.code_tokens)
        self._device = next(model.parameters()).device
        _, counts = np.unique(self.sids, axis=0, return_counts=True)
        self._largest_tie = int(counts.max())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        sids: np.ndarray,
        *,
        max_length: int,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> Recommender:
        """Loads the `merged/` folder that the train stage wrote."""
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder).to(device)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(model, tokenizer, sids, max_length=max_length, batch_size=batch_size)

    def recommend(
        self,
        prompts: Prompts,
        *,
        k: int,
        num_beams: int,
        exclude: Histories | None = None,
        progress: Progress = silent,
    ) -> Lists:
        """Returns the k best items of each user, and with them all that tie with the last one.

        Args:
            prompts: U prompts, as `lm.compose.prompt_for` makes them.
            k: items for each user.
            num_beams: W, prefixes kept at each level; at least as many as items come back.
            exclude: per user, items not to recommend (those of the history).
            progress: told how many users are done.

        Returns:
            Lists of width k or, where SIDs are shared, a little more; places beyond rank k are -1.
        """
        width = min(k + self._largest_tie - 1, len(self.sids))
        parts = []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            beams = max(num_beams, width)
            out = self._search(prompts[rows], width, beams, exclude and exclude[rows])
            parts.append([t.cpu().numpy() for t in (out.items, out.scores, out.exact)])
            progress("decode users", min(rows.stop, len(prompts)), len(prompts))
        items, scores, exact = (np.concatenate(part) for part in zip(*parts, strict=True))
        ranks = tied_ranks(items, self.sids)
        beyond = ranks > k
        items[beyond], scores[beyond], ranks[beyond] = -1, -np.inf, 0
        return Lists(items, scores.astype(np.float32), ranks, exact)

    def _search(self, prompts: Prompts, k: int, num_beams: int, exclude: Histories | None) -> Any:
        input_ids, mask = encode_prompts(
            self.tokenizer, self.code_tokens, prompts, max_length=self.max_length
        )
        return self.engine.search(
            input_ids.to(self._device),
            mask.to(self._device),
            num_beams=num_beams,
            k=k,
            exclude=exclude,
        )


def tied_ranks(items: np.ndarray, sids: np.ndarray) -> npt.NDArray[np.int32]:
    """Returns ranks from 1 in which items that share a SID share a rank.

    Args:
        items: int [U, k], best first, -1 where there is none; items of one SID stand together.
        sids: int [N, L].

    Returns:
        int32 [U, k]; 0 where there is no item.
    """
    place = np.broadcast_to(np.arange(1, items.shape[1] + 1), items.shape).copy()
    if items.shape[1] > 1:
        same = (sids[items[:, 1:]] == sids[items[:, :-1]]).all(axis=-1) & (items[:, 1:] >= 0)
        place[:, 1:][same] = 0
        place = np.maximum.accumulate(place, axis=1)
    return np.where(items >= 0, place, 0).astype(np.int32)


def to_table(users: Sequence[int], lists: Lists) -> pl.DataFrame:
    """Returns lists as a table of schema `RECOMMENDATIONS`, sorted by user, rank, item."""
    rows, places = np.nonzero(lists.items >= 0)
    return pl.DataFrame(
        {
            "user": np.asarray(users, dtype=np.int32)[rows],
            "item": lists.items[rows, places].astype(np.int32),
            "score": lists.scores[rows, places],
            "rank": lists.ranks[rows, places],
        },
        schema=dict(schema.RECOMMENDATIONS),
    ).sort("user", "rank", "item")
