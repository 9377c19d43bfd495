"""vLLM's own beam search and sampling with the processor, against BeamEngine and brute force."""

import numpy as np
import pytest
import torch

from genrec.decode.vllm_constraint import IMPOSSIBLE

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("width", [1, 4, 15])
def test_stock_beam_search_is_exact(engine, shop, width):
    from vllm.sampling_params import BeamSearchParams

    prompts = [{"prompt_token_ids": prompt} for prompt in shop.prompts]
    outputs = engine.llm.beam_search(prompts, BeamSearchParams(beam_width=width, max_tokens=3))
    theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width)
    for user, (prompt, output) in enumerate(zip(shop.prompts, outputs, strict=True)):
        found = [(tuple(s.tokens[len(prompt) :]), s.cum_logprob) for s in output.sequences]
        assert len(found) == width
        shop.assert_lists(found, theirs, user)


def test_stock_beam_search_at_full_width_is_brute_force(engine, shop):
    from vllm.sampling_params import BeamSearchParams

    sids, item = np.unique(shop.codes, axis=0, return_index=True)
    names = np.stack([t[sids[:, i]] for i, t in enumerate(shop.tokens)], axis=1)
    prompts = [{"prompt_token_ids": prompt} for prompt in shop.prompts]
    params = BeamSearchParams(beam_width=len(sids) + 5, max_tokens=3)  # 5 more than there are
    for user, output in enumerate(engine.llm.beam_search(prompts, params)):
        found = {
            tuple(s.tokens[-3:]): s.cum_logprob for s in output.sequences if s.cum_logprob > -1e9
        }
        scores = shop.scores[user][item].tolist()
        expected = dict(zip(map(tuple, names.tolist()), scores, strict=True))
        assert found == pytest.approx(expected, abs=1e-4)


def sample(engine, prompt, **options):
    from vllm import SamplingParams

    params = SamplingParams(detokenize=False, **options)
    return engine.llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs


def test_sampling_writes_items_one_after_another(engine, shop):
    whole = {tuple(int(t[c]) for t, c in zip(shop.tokens, sid, strict=True)) for sid in shop.codes}
    outputs = sample(engine, shop.prompts[4], n=20, max_tokens=6, temperature=2.0, seed=0)
    written = [tuple(out.token_ids[i : i + 3]) for out in outputs for i in (0, 3)]
    assert set(written) <= whole
    assert len(set(written)) > 5


def test_a_prompt_that_ends_within_a_sid_is_continued(engine, shop):
    prompt = [*shop.prompts[2], int(shop.tokens[0][shop.codes[0, 0]])]
    log_probs = shop.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).detach()
    below = shop.tokens[1][shop.trie.children(shop.codes[0, :1])]
    out = sample(engine, prompt, max_tokens=1, temperature=0, logprobs=len(below))[0]
    found = {token: entry.logprob for token, entry in out.logprobs[0].items()}
    assert found == pytest.approx({int(t): float(log_probs[t]) for t in below}, abs=1e-4)


def test_a_prefix_of_no_item_is_ended(engine, shop):
    prompt = [*shop.prompts[2], int(shop.tokens[1][0])]  # the middle of a SID
    for temperature in (0, 1):
        out = sample(engine, prompt, max_tokens=3, temperature=temperature, logprobs=1)[0]
        assert out.finish_reason == "stop"
        assert list(out.token_ids) == [shop.model.config.eos_token_id]
        assert out.logprobs[0][out.token_ids[0]].logprob == pytest.approx(IMPOSSIBLE)


def test_a_free_request_beside_constrained_ones(engine, shop):
    from vllm import SamplingParams

    options = {"max_tokens": 1, "temperature": 0, "logprobs": 3, "detokenize": False}
    prompt = {"prompt_token_ids": shop.prompts[2]}
    params = [
        SamplingParams(**options),
        SamplingParams(**options, extra_args={"sid": False}),
        SamplingParams(**options),
    ]
    outputs = engine.llm.generate([prompt] * 3, params, use_tqdm=False)
    log_probs = shop.model(torch.tensor([shop.prompts[2]])).logits[0, -1].log_softmax(-1).detach()
    best = log_probs.topk(3)
    free = outputs[1].outputs[0].logprobs[0]
    expected = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    assert {token: entry.logprob for token, entry in free.items()} == pytest.approx(
        expected, abs=1e-4
    )
    for output in (outputs[0], outputs[2]):
        assert set(output.outputs[0].logprobs[0]) <= set(shop.tokens[0].tolist())


def test_bad_extra_args_are_refused(engine, shop):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="max_tokens=2"):
        sample(engine, shop.prompts[2], max_tokens=2, extra_args={"sid_level": 0, "sid_node": 0})
