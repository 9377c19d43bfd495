"""Whatever generate is told and our loop does not do is refused by name."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import ConfidenceCriteria, MaxTimeCriteria, TopKLogitsWarper

from genrec.decode.generate import beam_search
from genrec.decode.generate_settings import check_settings
from genrec.sid.trie import SIDTrie

PROMPTS = [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46, 26, 43, 38]]
LENGTH = 7


@pytest.fixture(scope="module")
def model(make):
    return make.model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_sample": True}, "not obey do_sample of"),
        ({"do_sample": True, "num_beams": 3}, "not obey do_sample of"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"bad_words_ids": [[3]]}, "bad_words_ids"),
        ({"suppress_tokens": [3]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [3]}, "begin_suppress_tokens"),
        ({"sequence_bias": [[[3], 2.0]]}, "sequence_bias"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"renormalize_logits": True, "num_beams": 2}, "renormalize_logits"),
        ({"remove_invalid_values": True}, "remove_invalid_values"),
        ({"forced_bos_token_id": 3, "forced_eos_token_id": 4}, "bos_token_id, forced_eos_token_id"),
        (
            {"exponential_decay_length_penalty": (1, 1.1), "eos_token_id": 1},
            "exponential_decay_len",
        ),
        ({"encoder_repetition_penalty": 1.2}, "encoder_repetition_penalty"),
        ({"encoder_no_repeat_ngram_size": 2}, "encoder_no_repeat_ngram_size"),
        ({"prefix_allowed_tokens_fn": lambda _, ids: [1]}, "prefix_allowed_tokens_fn"),
        (
            {"logits_processor": LogitsProcessorList([TopKLogitsWarper(3)])},
            r"logits_processor=\[TopKLogitsWarper\]",
        ),
        ({"max_time": 5.0}, "max_time"),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(5.0)])}, "max_time"),
        (
            {"stopping_criteria": StoppingCriteriaList([ConfidenceCriteria(0.5)])},
            r"stopping_criteria=\[ConfidenceCriteria\]",
        ),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"dola_layers": "high"}, "dola_layers"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, "num_beam_groups"),
        ({"num_beams": 4, "force_words_ids": [[3]]}, "force_words_ids"),
        ({"output_logits": True}, "output_logits"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"past_key_values": DynamicCache()}, "past_key_values"),
        ({"inputs_embeds": torch.zeros(3, LENGTH, 32)}, "inputs_embeds"),
        ({"position_ids": torch.arange(LENGTH).expand(3, -1)}, "leave position_ids out"),
        ({"max_new_tokens": 4}, "write 4 tokens, and a SID has 3: set max_new_tokens=3"),
        ({"allowed": np.ones(59, dtype=bool)}, "expected bool"),
        ({"exclude": [[1]]}, "exclude has 1 entries"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_would_be_passed_over_is_refused(model, make, change, message):
    ids, mask = make.pad_left(PROMPTS)
    with pytest.raises(ValueError, match=message):
        model.generate(
            **{"input_ids": ids, "attention_mask": mask, "max_new_tokens": 3, **change},
            custom_generate=beam_search(SIDTrie(make.codes()), make.tokens(), strategy="tree"),
        )


def test_a_cache_that_holds_something_is_refused(model):
    """Also where generate does not mark a caller's cache, as before transformers 5.19."""
    cache = DynamicCache()
    check_settings(model.generation_config, [], [], {"past_key_values": cache})
    cache.update(torch.zeros(3, 2, 4, 8), torch.zeros(3, 2, 4, 8), 0)
    with pytest.raises(ValueError, match="not obey past_key_values of"):
        check_settings(model.generation_config, [], [], {"past_key_values": cache})
