"""Our beam search behind `generate` of transformers: `generate(custom_generate=beam_search(...))`.

`generate` prepares the inputs as always, and copies the prompts once per beam; the copies are dropped
before anything is computed. A setting of `generate` that the search would not follow is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers.utils import ModelOutput

from genrec.decode.beam import BeamEngine
from genrec.decode.checks import check_tokens
from genrec.decode.filters import Allowed, Eligibility, ItemLists
from genrec.decode.result import BeamResult
from genrec.decode.strategies import Strategy
from genrec.sid.trie import SIDTrie


@dataclass
class SIDBeamOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: prompts and SIDs, best first; where a user has fewer SIDs than asked for, the last
            rows have pad tokens in place of the SID. int64 [B * R, T + L].
        sequences_scores: log-probability of each SID, in nats, divided by
            L ** `length_penalty` as `generate` does (its default is 1: the mean per token; set 0
            for the log-probability itself); -inf where there is no SID. float32 [B * R].
        sequences_items: the items of each SID that the user may be given, ascending; -1 behind the
            last, and throughout where there is no SID. int64 [B * R, most items of one SID].
        exact: whether a user's list is proven to be the best of all SIDs. bool [B].
    """

    sequences: torch.Tensor | None = None
    sequences_scores: torch.Tensor | None = None
    sequences_items: torch.Tensor | None = None
    exact: torch.Tensor | None = None


def beam_search(
    trie: SIDTrie,
    code_tokens: Sequence[ArrayLike],
    *,
    allowed: Allowed | None = None,
    exclude: ItemLists | None = None,
    strategy: Strategy | Literal["auto"] = "auto",
    head: Literal["full", "sid"] = "full",
    memory_budget: int | None = None,
) -> BeamSearch:
    """Makes `generate` search the catalogue's SIDs, with each prompt computed once.

        search = beam_search(trie, code_tokens)
        model.generate(input_ids, attention_mask=mask, num_beams=20, num_return_sequences=10,
                       max_new_tokens=trie.levels, do_sample=False, custom_generate=search)

    The first call with a model tries it out, later ones do not: keep what is returned. Make another
    after a change of the model's attention.

    Args:
        trie: the catalogue.
        code_tokens: per level, the token id of each code. L integer arrays [C_l].
        allowed: the only items to return in every call: bool [N], bool [B, N], a mask counted before
            (`Eligibility.of_mask`), or B lists of items. `generate(allowed=...)` sets it per call.
        exclude: B lists of items not to return. `generate(exclude=...)` sets it per call.
        strategy: see `BeamEngine`.
        head: see `BeamEngine`; with `sid`, scores are not those of `generate`.
        memory_budget: see `BeamEngine`.

    Returns:
        What to pass as `custom_generate`.

    Raises:
        ValueError: if the tokens do not fit the trie.
    """
    options = {"strategy": strategy, "head": head, "memory_budget": memory_budget}
    return BeamSearch(trie, code_tokens, {"allowed": allowed, "exclude": exclude}, options)


class BeamSearch:
    """The decoding loop that `beam_search` returns."""

    def __init__(
        self,
        trie: SIDTrie,
        code_tokens: Sequence[ArrayLike],
        filters: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        """Takes the arguments of `beam_search`; the last two by name."""
        self._trie = trie
        self._tokens = check_tokens(code_tokens, trie, vocab_size=2**31)  # the model checks its own
        self._filters, self._options = filters, options
        # generate returns sequences, so items that share a SID are one: each SID is an item here.
        last, sids = trie.levels - 1, len(trie.node_codes[-1])
        own = {f"first_child.{last}": np.arange(sids + 1, dtype=np.int32)}
        own["row_items"] = np.arange(sids, dtype=np.int32)
        self._sids = SIDTrie.from_arrays({**trie.arrays(), **own})

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        generation_config: Any = None,
        allowed: Allowed | None = None,
        exclude: ItemLists | None = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | SIDBeamOutput:
        """Searches; `generate` calls this.

        `generate` passes `streamer` and `assistant_model` on to no callable, so that these two have
        no effect here. Nor have settings of the cache: the search has its own.

        Args:
            model: the causal LM.
            input_ids: each prompt max(num_beams, num_return_sequences) times. int64 [B * n, T].
            logits_processor: what `generate` made of the settings; none is obeyed.
            stopping_criteria: likewise; only the length and the end-of-text token are expected.
            generation_config: the settings.
            allowed: see `beam_search`.
            exclude: see `beam_search`.
            **model_kwargs: inputs of the model; `attention_mask` is read.

        Returns:
            int64 [B * R, T + L], or a `SIDBeamOutput`.

        Raises:
            ValueError: if a setting or input would not be obeyed, or the engine refuses.
        """
        config = generation_config
        check_settings(config, logits_processor, stopping_criteria, model_kwargs)
        self._check_length(config, input_ids)
        mask = model_kwargs.get("attention_mask")
        mask = torch.ones_like(input_ids) if mask is None else mask
        check_positions(model_kwargs.get("position_ids"), mask)
        copies = max(config.num_beams, config.num_return_sequences)
        ids, mask = input_ids[::copies], mask[::copies]
        filters = self._filters_of(allowed=allowed, exclude=exclude)
        eligible = Eligibility.build(self._trie, **filters, users=len(ids), device="cpu")
        result = self._engine(model).search(
            ids,
            mask,
            num_beams=config.num_beams,
            k=config.num_return_sequences,
            **_sid_filters(self._trie, self._sids, eligible, len(ids)),
        )
        return self._output(config, ids, result, eligible)

    def _engine(self, model: Any) -> BeamEngine:
        """Returns the engine of a model. The model holds it, so that neither outlives its users."""
        engines = vars(model).get(_ATTRIBUTE)
        if not isinstance(engines, _Engines):
            engines = _Engines()
            setattr(model, _ATTRIBUTE, engines)
        if self not in engines:
            engines[self] = BeamEngine(model, self._sids, self._tokens, **self._options)
        return engines[self]

    def _check_length(self, config: Any, input_ids: torch.Tensor) -> None:
        levels, wanted = self._trie.levels, config.max_length - input_ids.shape[1]
        if wanted != levels:
            raise ValueError(
                f"generate is to write {wanted} tokens, and a SID has {levels}: set "
                f"max_new_tokens={levels}"
            )

    def _filters_of(self, **given: Any) -> dict[str, Any]:
        for name, value in given.items():
            if value is not None and self._filters[name] is not None:
                raise ValueError(
                    f"{name} was given to beam_search and to generate; give it to one of them, as "
                    "the one would undo the other"
                )
        return {name: self._filters[name] if v is None else v for name, v in given.items()}

    def _output(
        self, config: Any, ids: torch.Tensor, result: BeamResult, eligible: Eligibility | None
    ) -> torch.Tensor | SIDBeamOutput:
        levels, device = self._trie.levels, ids.device
        tokens = [
            torch.from_numpy(tokens)[result.sids[..., level].clamp(min=0)]
            for level, tokens in enumerate(self._tokens)
        ]
        written = torch.stack(tokens, dim=-1).masked_fill_(
            ~result.valid.unsqueeze(-1), _pad(config)
        )
        prompts = ids.repeat_interleave(result.valid.shape[1], dim=0)
        sequences = torch.cat([prompts, written.flatten(0, 1).to(device)], dim=1)
        if not config.return_dict_in_generate:
            return sequences
        items = _items(self._trie, result.items, eligible)
        return SIDBeamOutput(
            sequences=sequences,
            sequences_scores=(result.scores.flatten() / levels**config.length_penalty).to(device),
            sequences_items=items.flatten(0, 1).to(device),
            exact=result.exact.to(device),
        )


_ATTRIBUTE = "_genrec_beam_engines"


class _Engines(WeakKeyDictionary[BeamSearch, BeamEngine]):
    """Engines of one model. A copy of the model, or its pickle, starts without any."""

    def __deepcopy__(self, memo: Any) -> _Engines:
        return _Engines()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()


def _pad(config: Any) -> int:
    """Returns what fills rows without a SID, as `generate` does: pad, else end of text, else -1."""
    for token in (config.pad_token_id, config.eos_token_id):
        if token is not None:
            return int(token[0] if isinstance(token, list | tuple) else token)
    return -1


def _sid_filters(
    trie: SIDTrie, sids: SIDTrie, eligible: Eligibility | None, users: int
) -> dict[str, Any]:
    """Turns filters of items into filters of SIDs, which are numbered as they are sorted.

    A SID is eligible if one of its items is.
    """
    if eligible is None:
        return {}
    filters: dict[str, Any] = {}
    first = torch.from_numpy(trie.first_child[-1])
    count = first.diff().unsqueeze(0)  # eligible items of each SID, [1 or B, SIDs]
    if eligible.before is not None:
        count = eligible.before[:, first].diff(dim=1)
        filters["allowed"] = Eligibility.of_mask(sids, count > 0)
    if eligible.keys is None:
        return filters
    user, row = eligible.keys // (trie.num_items + 1), eligible.keys % (trie.num_items + 1)
    sid = torch.searchsorted(first[1:].contiguous(), row.to(first.dtype), right=True)
    if not eligible.listed:  # an excluded SID has lost all its eligible items
        pairs, lost = torch.unique(user * sids.num_items + sid, return_counts=True)
        user, sid = pairs // sids.num_items, pairs % sids.num_items
        gone = lost == count[user if len(count) > 1 else 0, sid]
        user, sid = user[gone], sid[gone]
    bounds = torch.searchsorted(user, torch.arange(1, users))
    name = "allowed" if eligible.listed else "exclude"
    filters[name] = [part.numpy() for part in sid.tensor_split(bounds)]
    return filters


def _items(trie: SIDTrie, sids: torch.Tensor, eligible: Eligibility | None) -> torch.Tensor:
    """Returns the eligible items of SIDs given by number [B, R] (-1 for none): [B, R, S]."""
    first, known = torch.from_numpy(trie.first_child[-1]), sids >= 0
    start, end = first[sids.clamp(min=0)].long(), first[sids.clamp(min=0) + 1].long()
    most = int(((end - start) * known).max().clamp(min=1))
    row = start.unsqueeze(-1) + torch.arange(most)
    live = (row < end.unsqueeze(-1)) & known.unsqueeze(-1)
    row = row.clamp(max=trie.num_items - 1)
    if eligible is not None:
        live &= eligible.contains(torch.arange(len(sids)).view(-1, 1, 1), row)
    items = torch.from_numpy(trie.row_items)[row].long().masked_fill_(~live, -1)
    order = live.int().sort(dim=-1, descending=True, stable=True).indices
    return items.gather(-1, order)[..., : max(1, int(live.sum(-1).max()))]


# What generate makes a processor or criterion of, by the names of their classes.
_SETTINGS = {
    "EncoderNoRepeatNGramLogitsProcessor": "encoder_no_repeat_ngram_size",
    "EncoderRepetitionPenaltyLogitsProcessor": "encoder_repetition_penalty",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "ForcedBOSTokenLogitsProcessor": "forced_bos_token_id",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "LogitNormalization": "renormalize_logits",
    "MaxTimeCriteria": "max_time",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "PrefixConstrainedLogitsProcessor": "prefix_allowed_tokens_fn",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "StopStringCriteria": "stop_strings",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
}
# Settings that leave no such trace.
_MODES = (
    "do_sample",
    "use_mtp",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
    "low_memory",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
# The length is checked, and the end-of-text token, which is in no SID, neither ends one nor needs a ban.
_HARMLESS = {
    "EosTokenCriteria",
    "MaxLengthCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
}
_CACHES = ("past_key_values", "cache_params")
_INPUTS = {
    "attention_mask",
    "position_ids",
    *_CACHES,
    "logits_to_keep",
    "use_cache",
    *_MODES,
}


def check_settings(
    config: Any, processors: Iterable[Any], criteria: Iterable[Any], inputs: Mapping[str, Any]
) -> None:
    """Checks that nothing was asked of `generate` that the search would pass over.

    Args:
        config: the settings, as `generate` completed them.
        processors: the logits processors that `generate` made of them, and those it was given.
        criteria: likewise the stopping criteria.
        inputs: the model's inputs.

    Raises:
        ValueError: naming every such setting and input.
    """
    names = [name for name in _MODES if getattr(config, name, None)]
    if (getattr(config, "num_beam_groups", None) or 1) > 1:
        names.append("num_beam_groups")
    for group, kind in ((processors, "logits_processor"), (criteria, "stopping_criteria")):
        for name in (type(entry).__name__ for entry in group):
            if name not in _HARMLESS and not (config.do_sample and name.endswith("LogitsWarper")):
                names.append(_SETTINGS.get(name, f"{kind}=[{name}]"))
    names += [name for name, value in inputs.items() if value is not None and name not in _INPUTS]
    names += [name for name in _CACHES if _is_callers(inputs.get(name))]
    if names:
        raise ValueError(
            f"beam_search does not obey {', '.join(names)} of generate, and would return something "
            "else than was asked for: leave it out (do_sample=False, where the model's "
            "generation_config samples), or use SIDLogitsProcessor instead of beam_search"
        )


def _is_callers(cache: Any) -> bool:
    """Tells a cache that was passed to `generate` from the empty one that it makes."""
    layers = [layer for layer in getattr(cache, "layers", ()) if hasattr(layer, "get_seq_length")]
    # The mark is new in transformers 5.19; before, only what is in a cache tells.
    filled = any(layer.get_seq_length() > 0 for layer in layers)
    return filled or getattr(cache, "_is_user_defined", False)


def check_positions(positions: torch.Tensor | None, mask: torch.Tensor) -> None:
    """Checks that positions are those that the engine counts: from 0, without the padding.

    Args:
        positions: of the prompts, int64 [..., rows, T]; None is right.
        mask: their attention mask, [rows, T].

    Raises:
        ValueError: if a token has another position.
    """
    if positions is None:
        return
    expected = mask.long().cumsum(1) - 1
    if ((positions != expected) & (mask != 0)).any():
        raise ValueError(
            "position_ids are not those of the attention mask (0, 1, ... from the first token), "
            "which are what beam_search uses: leave position_ids out"
        )
