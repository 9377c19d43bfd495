"""VLLMServerEngine against BeamEngine, over a server that answers as vLLM's completions API does.

The stand-in runs the model by transformers and masks by `Constraint`, as SIDProcessor does; a real
`vllm serve` is in vllm/test_server.py.
"""

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec.decode import BeamEngine, MixtureEngine, vllm_server
from genrec.decode.head import set_softmax
from genrec.decode.vllm_constraint import Constraint
from genrec.decode.vllm_server import ServerUnreachable, VLLMServerEngine
from genrec.sid.trie import SIDTrie

FLOOR = -9999.0


class Completions(BaseHTTPRequestHandler):
    """vLLM's two routes; `server.state` says what it runs and how it fails."""

    def log_message(self, *_):
        """Says nothing."""

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        state = self.server.state
        card = {"id": state.model_name, "object": "model", "created": 0, "owned_by": "vllm"}
        self.answer(200, {"object": "list", "data": [{**card, "max_model_len": state.max_length}]})

    def do_POST(self):
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        state.asked.append(body)
        state.keys.append(self.headers["authorization"])
        if state.failures:
            return self.answer(state.failures.pop(), {"error": {"message": "out of order"}})
        assert (body["max_tokens"], body["temperature"]) == (1, 0)
        assert body["return_tokens_as_token_ids"]
        choices = [
            {
                "index": row,
                "text": "",
                "finish_reason": "length",
                "logprobs": {"top_logprobs": [top], "tokens": [], "token_logprobs": []},
            }
            for row, top in enumerate(self.tops(state, body))
        ]
        body = {"id": "cmpl", "object": "text_completion", "created": 0, "model": "shop"}
        self.answer(200, {**body, "choices": choices[::-1]})

    @torch.no_grad()
    def tops(self, state, body):
        for prompt in body["prompt"]:
            logits = state.model(input_ids=torch.tensor([prompt])).logits[:, -1].float()
            if state.constraint is not None:
                place = body["vllm_xargs"]
                number = place.get("sid_set", 0)
                if "sid_level" not in place:
                    places = state.constraint.walk(np.array([prompt[-2:]]), np.array([number]))
                elif state.constraint.known_codes(number, place["sid_level"], 0, None) == []:
                    places = np.array([[0, 0, -1]])
                else:
                    places = np.array([[number, place["sid_level"], place["sid_node"]]])
                state.constraint.apply(logits, np.array([0]), places, [None])
            values, tokens = logits[0].topk(body["logprobs"])
            pairs = zip(tokens.tolist(), values.tolist(), strict=True)
            yield {f"token_id:{token}": max(value, FLOOR) for token, value in pairs}


@pytest.fixture(scope="module")
def shop(make):
    """A model with its catalogue, and the prompts of five users, one of which ends with a SID."""
    model, codes, tokens = make.model(), make.codes(), make.tokens()
    sid = [int(t[c]) for t, c in zip(tokens, codes[3], strict=True)]
    prompts = [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46], [28], [7, *sid]]
    ids, mask = make.pad_left(prompts)
    trie = SIDTrie(codes)
    options = {"vocab_size": make.vocab, "end": None, "device": "cpu"}
    return SimpleNamespace(
        model=model,
        trie=trie,
        codes=codes,
        tokens=tokens,
        ids=ids,
        mask=mask,
        constraint=Constraint([(trie, tokens)], **options),
        options=options,
        vocab=make.vocab,
        hf=BeamEngine(model, trie, tokens),
    )


@pytest.fixture
def served(shop):
    """The server's state, its address, and what connects to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Completions)
    server.state = SimpleNamespace(
        model=shop.model,
        constraint=shop.constraint,
        model_name="genrec-abc",
        max_length=40,
        failures=[],
        asked=[],
        keys=[],
    )
    url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    connect = partial(
        VLLMServerEngine,
        url,
        trie=shop.trie,
        code_tokens=shop.tokens,
        model="genrec-abc",
        vocab_size=shop.vocab,
        max_retries=0,
    )
    yield SimpleNamespace(state=server.state, url=url, connect=connect, server=server)
    server.shutdown()
    server.server_close()
    thread.join()


def assert_same(ours, theirs):
    assert ours.items.tolist() == theirs.items.tolist()
    assert ours.exact.tolist() == theirs.exact.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 20])
def test_the_lists_are_the_other_engines(served, shop, width):
    rng = np.random.default_rng(5)
    some = [rng.choice(60, n, replace=False).tolist() for n in (0, 3, 20, 40, 60)]
    for filters in ({}, {"exclude": some}, {"allowed": some}, {"allowed": rng.random(60) < 0.2}):
        theirs = shop.hf.search(shop.ids, shop.mask, num_beams=width, **filters)
        engine = served.connect()
        assert_same(engine.search(shop.ids, shop.mask, num_beams=width, **filters), theirs)
        engine.close()


@pytest.fixture
def second(shop, make):
    """A second set of SIDs of the same items, of two levels, with the tokens that are left."""
    left = np.setdiff1d(np.arange(shop.vocab), np.concatenate(shop.tokens))
    tokens = [left[8:16], left[:8][::-1]]
    return SIDTrie(make.codes(sizes=(8, 8), seed=3)), tokens


@pytest.mark.parametrize("among", ["vocabulary", "codes"])
def test_several_sets_are_the_mixture_of_the_other_engine(served, shop, second, among):
    sets = [(shop.trie, shop.tokens), second]
    served.state.constraint = Constraint(sets, among_codes=among == "codes", **shop.options)
    ours = MixtureEngine(
        [served.connect(), served.connect(trie=second[0], code_tokens=second[1], sid_set=1)],
        [2, 1],
    )
    set_softmax(shop.model, among)
    try:
        theirs = MixtureEngine([BeamEngine(shop.model, *own) for own in sets], [2, 1])
    finally:
        set_softmax(shop.model, "vocabulary")
    backward = shop.ids.flip(0), shop.mask.flip(0)  # a prompt of the same users in each set
    prompts = [(shop.ids, shop.mask), backward]
    exclude = [[user, 20 + user] for user in range(5)]
    for options in ({"num_beams": 4}, {"num_beams": 20, "k": 7, "certify": True}):
        found = ours.search(prompts, exclude=exclude, **options)
        expected = theirs.search(prompts, exclude=exclude, **options)
        assert found.items.tolist() == expected.items.tolist()
        assert found.exact.tolist() == expected.exact.tolist()
        assert found.scored.tolist() == expected.scored.tolist()
        np.testing.assert_allclose(found.by_set, expected.by_set, atol=1e-4)
    assert found.exact.all()


def test_a_server_without_the_set_is_refused(served, second):
    with pytest.raises(ValueError, match="no set 1 of SIDs"):
        served.connect(trie=second[0], code_tokens=second[1], sid_set=1)


def test_a_level_is_one_request_or_two_where_filters_cut(served, shop):
    engine = served.connect()
    served.state.asked.clear()
    engine.search(shop.ids, shop.mask, num_beams=4)
    assert [len(body["prompt"]) for body in served.state.asked] == [5, 20, 20]
    assert len(served.state.asked) == shop.trie.levels
    # One user may have the items of one first code only: of five children that is a cut list.
    one = np.flatnonzero(shop.codes[:, 0] == shop.codes[0, 0]).tolist()
    served.state.asked.clear()
    engine.search(shop.ids, shop.mask, num_beams=1, allowed=[one, *[list(range(60))] * 4])
    first = [(len(body["prompt"]), body["logprobs"]) for body in served.state.asked[:2]]
    assert sorted(first) == [(1, 5), (4, 2)]


def test_no_request_has_more_prompts_than_vllm_takes(served, shop, monkeypatch):
    monkeypatch.setattr(vllm_server, "PROMPTS", 7)
    engine = served.connect()
    served.state.asked.clear()
    theirs = shop.hf.search(shop.ids, shop.mask, num_beams=4)
    assert_same(engine.search(shop.ids, shop.mask, num_beams=4), theirs)
    sizes = [len(body["prompt"]) for body in served.state.asked]
    assert sorted(sizes) == [5, *[6] * 2, *[7] * 4], "5 users, then 4 beams of each twice"


def test_nobody_may_have_anything(served, shop):
    found = served.connect().search(shop.ids, shop.mask, num_beams=2, allowed=[[]] * 5)
    assert not found.valid.any()


def test_the_key_is_sent(served, shop, monkeypatch):
    monkeypatch.setenv("VLLM_KEY", "open sesame")
    served.connect(key="VLLM_KEY")
    assert served.state.keys == ["Bearer open sesame"] * shop.trie.levels
    monkeypatch.delenv("VLLM_KEY")
    with pytest.raises(ValueError, match="VLLM_KEY is not set"):
        served.connect(key="VLLM_KEY")


def test_another_model_is_refused_by_its_name(served):
    served.state.model_name = "genrec-xyz"
    with pytest.raises(ValueError, match=r"serves \['genrec-xyz'\], not genrec-abc.*serve.py"):
        served.connect()


def test_a_server_without_the_processor_is_refused(served):
    served.state.constraint = None
    with pytest.raises(ValueError, match=r"no code of level 0.*without SIDProcessor"):
        served.connect()


def test_failures_are_tried_again_and_then_named(served, shop):
    engine = served.connect(max_retries=1)
    served.state.failures = [500]
    assert engine.search(shop.ids, shop.mask, num_beams=2).valid.all()
    served.state.failures = [503, 503]
    with pytest.raises(ServerUnreachable, match=r"HTTP 503: .*out of order"):
        engine.search(shop.ids, shop.mask, num_beams=2)
    served.state.failures = [400]
    with pytest.raises(ValueError, match=r"HTTP 400: .*out of order"):
        engine.search(shop.ids, shop.mask, num_beams=2)
    assert engine.search(shop.ids, shop.mask, num_beams=2).valid.all()


def test_nobody_is_there(served):
    served.server.shutdown()
    served.server.server_close()
    with pytest.raises(ServerUnreachable, match=r"cannot be reached.*recipes/vllm/serve\.py"):
        served.connect()


def test_the_prompts_length_is_the_servers(served, shop):
    engine = served.connect()
    ids = torch.ones(1, 38, dtype=torch.int64)
    with pytest.raises(ValueError, match="the model takes 40"):
        engine.search(ids, torch.ones_like(ids), num_beams=1)
