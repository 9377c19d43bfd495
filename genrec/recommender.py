"""A trained LLM, its tokenizer and the catalogue's SIDs as one thing: prompts in, ranked items out.

`lm` and `decode` do not know each other; this is where they meet. Validation during training, the
recommend stage and serving all go through here, so they cannot differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from genrec.decode import BeamEngine, MixtureEngine, VLLMServerEngine, fit_weights
from genrec.decode.mixture import LEAST
from genrec.decode.vllm_constraint import Catalogue
from genrec.lm.batch import code_token_ids, encode_prompts
from genrec.processes import ALONE, Processes
from genrec.progress import Progress, quiet, silent
from genrec.ranking import RankedLists, tied_ranks
from genrec.schema import Segment
from genrec.sid import SIDSets, SIDTrie

logger = logging.getLogger(__name__)

Prompt = tuple[Segment, ...]
# With several sets of SIDs a user has a prompt in each.
Prompts = Sequence[Prompt] | Sequence[tuple[Prompt, ...]]
Histories = Sequence[Sequence[int]]


@dataclass(frozen=True)
class RecommendedLists(RankedLists):
    """Ranked items of U users; a score is the log-probability of the item's SID.

    Attributes:
        items: int64 [U, K], best first; -1 where there is none.
        scores: float32 [U, K]; -inf where there is none.
        tied: bool [U, K - 1], the item on place i + 1 has the SID of the one on place i.
        exact: bool [U], the list is proven to be the top of the whole catalogue.
        bound: float64 [U], the most that an item that was not scored can have.
    """

    tied: npt.NDArray[np.bool_]
    exact: npt.NDArray[np.bool_]
    bound: npt.NDArray[np.float64]

    def proven(self, k: int) -> npt.NDArray[np.bool_]:
        """Says of each user whether the first k places are proven, however long the list is. [U]."""
        places: npt.NDArray[np.float32] = self.scores[:, :k]
        return np.asarray(places[:, -1] >= self.bound)

    @property
    def ranks(self) -> npt.NDArray[np.int32]:
        """Ranks from 1; items that share a SID share a rank (1, 2, 2, 4). int32 [U, K], 0 for none."""
        return tied_ranks(self.items, self.tied)


class Recommender:
    """Recommends by exact constrained beam search.

    Args:
        engine: what searches, such as `decode.BeamEngine`; it was made for the same SIDs. With
            several sets of them a `decode.MixtureEngine`.
        tokenizer: the one that the engine's model was trained with.
        sids: int [N, L], row i is the SID of item i; or several sets of them.
        max_length: longest prompt, tokens; longer ones lose their oldest items.
        batch_size: users decoded at once.
    """

    def __init__(
        self,
        engine: Any,
        tokenizer: Any,
        sids: np.ndarray | SIDSets,
        *,
        max_length: int,
        batch_size: int = 64,
    ) -> None:
        self.sets = SIDSets.of(sids)
        self.engine, self.tokenizer = engine, tokenizer
        self.max_length, self.batch_size = max_length, batch_size
        self.code_tokens = code_token_ids(tokenizer, self.sets.codes_per_level)
        self._whole = np.concatenate([*self.sets], axis=1)  # items tie that are alike in every set
        _, counts = np.unique(self._whole, axis=0, return_counts=True)
        self._largest_tie = int(counts.max())

    @property
    def sids(self) -> np.ndarray:
        """The SIDs of the first set, int32 [N, L]."""
        return self.sets[0]

    def of_set(self, number: int) -> Recommender:
        """Returns the same model with one set of SIDs alone; its prompts are those of this set."""
        if len(self.sets) == 1:
            return self
        options = {"max_length": self.max_length, "batch_size": self.batch_size}
        engine, own = self.engine.all_engines[number], self.sets.own(number)
        one = Recommender(engine, self.tokenizer, own, **options)
        one.code_tokens = self.code_tokens  # prompts have the codes of the model
        return one

    @classmethod
    def of_model(
        cls,
        model: Any,
        tokenizer: Any,
        sids: np.ndarray | SIDSets,
        *,
        max_length: int,
        batch_size: int = 64,
        weights: Sequence[float] | None = None,
        **options: Any,
    ) -> Recommender:
        """Decodes a model of transformers.

        Args:
            model: the model.
            tokenizer: as above.
            sids: as above.
            max_length: as above.
            batch_size: as above.
            weights: of the sets, M numbers; None: equal ones.
            options: those of `BeamEngine`.
        """
        sets = SIDSets.of(sids)
        engines = [BeamEngine(model, *own, **options) for own in catalogues(tokenizer, sets)]
        engine = _joined(engines, weights)
        return cls(engine, tokenizer, sets, max_length=max_length, batch_size=batch_size)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        sids: np.ndarray | SIDSets,
        *,
        max_length: int,
        batch_size: int = 64,
        engine: str = "hf",
        weights: Sequence[float] | None = None,
        **options: Any,
    ) -> Recommender:
        """Loads the `merged/` folder that the train stage wrote.

        Args:
            folder: with the model and its tokenizer.
            sids: as above.
            max_length: as above.
            batch_size: as above.
            engine: `hf`, `vllm` or `vllm-serve`.
            weights: of the sets of SIDs, M numbers; None: equal ones.
            options: those of `load_model`, `load_vllm` or `load_vllm_server`.

        Raises:
            ValueError: the model, its tokens and the SIDs do not fit each other.
            ImportError: the engine's library is not installed; names the command.
        """
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
        sets = SIDSets.of(sids)
        shared: dict[str, Any] = {"max_length": max_length, "batch_size": batch_size}
        if engine == "hf":
            model, options = load_model(folder, **options)
            return cls.of_model(model, tokenizer, sets, weights=weights, **shared, **options)
        engines = ENGINES[engine](folder, catalogues(tokenizer, sets), **options)
        return cls(_joined(engines, weights), tokenizer, sets, **shared)

    def recommend(
        self,
        prompts: Prompts,
        *,
        k: int,
        num_beams: int,
        exclude: Histories | None = None,
        allowed: Sequence[npt.ArrayLike] | npt.NDArray[np.bool_] | None = None,
        certify: bool = False,
        max_beams: int | None = None,
        keys: Sequence[Hashable] | None = None,
        processes: Processes = ALONE,
        progress: Progress = silent,
    ) -> RecommendedLists:
        """Returns the k best items of each user, and with them all that tie with the last one.

        Args:
            prompts: U prompts, as `lm.compose.prompt_for` makes them; with several sets of SIDs U
                tuples of one in each.
            k: items for each user.
            num_beams: W, prefixes kept at each level; at least as many as items come back.
            exclude: per user, items not to recommend (those of the history).
            allowed: per user, the only items to recommend, such as a retriever's candidates: lists, or
                a mask bool [U, N].
            certify: widen the beam of users whose list is not proven; not every engine can.
            max_beams: how far, or None for the engine's own limit.
            keys: per user, a name under which what is computed of the prompt is kept for the next
                that begins like it; only where the engine's `strategy` is `tree`.
            processes: those that share the work, each calling this with the same arguments; each
                gets all lists, the same as one process would make.
            progress: told how many users are done.

        Returns:
            Lists of width k or, where SIDs are shared, a little more; places beyond rank k are -1.
        """
        width = min(k + self._largest_tie - 1, self.sets.num_items)
        num_beams = max(num_beams, width)
        options: dict[str, Any] = {"num_beams": num_beams, "k": width}
        if certify:
            options |= {"certify": True, "max_beams": max_beams and max(max_beams, num_beams)}
        starts = range(0, len(prompts), self.batch_size)
        parts = []
        for number in processes.share(len(starts)):
            rows = slice(starts[number], starts[number] + self.batch_size)
            filters = {
                "exclude": None if exclude is None else exclude[rows],
                "allowed": None if allowed is None else allowed[rows],
            }
            known = {} if keys is None else {"keys": keys[rows]}
            parts.append(self._search(prompts[rows], filters, options | known))
            progress("decode users", min(rows.stop, len(prompts)), len(prompts))
        if processes.count > 1:
            parts = processes.merge(parts)
            progress("decode users", len(prompts), len(prompts))
        items, scores, exact, bound = (np.concatenate(part) for part in zip(*parts, strict=True))
        tied = (self._whole[items[:, 1:]] == self._whole[items[:, :-1]]).all(axis=-1)
        beyond = tied_ranks(items, tied) > k
        items[beyond], scores[beyond] = -1, -np.inf
        return RecommendedLists(items, scores.astype(np.float32), tied, exact, bound)

    def fit_weights(
        self,
        prompts: Prompts,
        targets: npt.ArrayLike,
        *,
        num_beams: int,
        exclude: Histories | None = None,
        progress: Progress = silent,
    ) -> dict[str, Any]:
        """Fits the weights of several sets of SIDs, and decodes with them from now on.

        Args:
            prompts: of U validation users.
            targets: int [U], what each chose next.
            num_beams: W; the lists are as long.
            exclude: per user, items not to recommend.
            progress: told how many users are done.

        Returns:
            `weights`, and the mean NDCG@10 of these users with equal and with fitted ones.
        """
        self.engine = MixtureEngine(self.engine.all_engines)
        items, by_set = [], []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            filters = {"exclude": None if exclude is None else exclude[rows]}
            out = self.engine.search(self._encoded(prompts[rows]), num_beams=num_beams, **filters)
            items.append(out.items)
            by_set.append(out.by_set)
            progress("fit the weights", min(rows.stop, len(prompts)), len(prompts))
        lists, scores = np.concatenate(items), np.concatenate(by_set, axis=1)
        fitted = fit_weights(lists, scores, np.asarray(targets))
        self.engine = MixtureEngine(self.engine.all_engines, fitted.weights)
        if fitted.users < LEAST:
            logger.warning(
                "the sets of SIDs keep equal weights: of %d validation users, %d have their item in the "
                "list, and fitting wants %d",
                *(len(lists), fitted.users, LEAST),
            )
        return {
            "weights": fitted.weights,
            "valid ndcg@10, equal": fitted.equal,
            "valid ndcg@10, fitted": fitted.fitted,
        }

    def _search(
        self, prompts: Sequence[Any], filters: Mapping[str, Any], options: Mapping[str, Any]
    ) -> list[np.ndarray]:
        if len(self.sets) > 1:
            out = self.engine.search(self._encoded(prompts), **filters, **options)
            return [out.items.astype(np.int64), out.scores, out.exact, out.bound]
        out = self.engine.search(*self._encode(prompts), **filters, **options)
        return [t.cpu().numpy() for t in (out.items, out.scores, out.exact, out.bound.double())]

    def _encoded(self, prompts: Sequence[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The prompts of the users in each set."""
        return [self._encode(part) for part in zip(*prompts, strict=True)]

    def _encode(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.code_tokens
        return encode_prompts(self.tokenizer, tokens, prompts, max_length=self.max_length)


def catalogues(tokenizer: Any, sids: np.ndarray | SIDSets) -> list[Catalogue]:
    """Returns of each set of SIDs its trie and, per level, the token of each code.

    Raises:
        ValueError: the tokenizer was made for other SIDs.
    """
    sets = SIDSets.of(sids)
    tokens = sets.tokens(code_token_ids(tokenizer, sets.codes_per_level))
    return [(SIDTrie(sets.own(number)), own) for number, own in enumerate(tokens)]


def _joined(engines: Sequence[Any], weights: Sequence[float] | None) -> Any:
    """Returns what searches all sets of SIDs."""
    return engines[0] if len(engines) == 1 else MixtureEngine(engines, weights)


def load_model(
    folder: str | Path, *, device: str = "cpu", dtype: str = "float32", **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Returns the model of a folder, and the options that are left for `BeamEngine`.

    Args:
        folder: with the model.
        device: where to decode.
        dtype: of the weights.
        options: those of `BeamEngine`.
    """
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device), options


def load_vllm(folder: str | Path, sets: Sequence[Catalogue], **options: Any) -> Sequence[Any]:
    """Starts vLLM with the model of a folder; `options` are those of `VLLMBeamEngine.load`."""
    from genrec.decode.vllm import VLLMBeamEngine

    return VLLMBeamEngine.load_sets(folder, sets, **options)


def load_vllm_server(
    folder: str | Path, sets: Sequence[Catalogue], *, base_url: str, **options: Any
) -> Sequence[Any]:
    """Asks a running vLLM server; `options` are `VLLMServerEngine`'s, the vocabulary is the folder's."""
    vocab_size = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    return [
        VLLMServerEngine(base_url, *own, vocab_size=vocab_size, sid_set=number, **options)
        for number, own in enumerate(sets)
    ]


# Of each: an engine for every set of SIDs.
ENGINES: Mapping[str, Callable[..., Sequence[Any]]] = {
    "vllm": load_vllm,
    "vllm-serve": load_vllm_server,
}
