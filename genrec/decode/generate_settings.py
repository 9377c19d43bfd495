"""What `generate` of transformers may be told that our beam search does not do.

`generate` hands its loop processors and criteria that are ready made; the setting behind each is
named after its class, so that the error is about what the caller wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

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
