"""A tiny shop and vLLM started once for every test here; all of them need vLLM."""

import copy
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from genrec.decode.beam import BeamEngine
from genrec.decode.head import set_softmax
from genrec.decode.mixture import MixtureEngine
from genrec.decode.vllm import VLLMBeamEngine
from genrec.sid.trie import SIDTrie

LENGTHS = (1, 2, 31, 32, 33, 64, 65, 100)  # cache blocks have 32 tokens
MAX_LENGTH = 128
VOCAB = 160
START = {  # of vLLM
    "dtype": "float32",
    "max_model_len": MAX_LENGTH,
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**23,
}


def write_checkpoint(model, tokens, folder):
    """Saves the model and a tokenizer whose ids are those of the codes."""
    names = {int(t): f"<{'abc'[i]}_{c}>" for i, ids in enumerate(tokens) for c, t in enumerate(ids)}
    vocab = {names.get(i, f"w{i}"): i for i in range(model.config.vocab_size)}
    plain = Tokenizer(models.WordLevel(vocab, unk_token=f"w{model.config.eos_token_id}"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token=f"w{model.config.eos_token_id}",
        additional_special_tokens=list(names.values()),
    ).save_pretrained(folder)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def shop(make, tmp_path_factory):
    """A model, its checkpoint, its catalogue, prompts, and what brute force says of them."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here; `make test-vllm` runs this")
    folder = tmp_path_factory.mktemp("checkpoint")
    tokens, codes = make.tokens(), make.codes()
    words = np.setdiff1d(np.arange(VOCAB), np.concatenate(tokens))
    model = make.model(
        vocab_size=VOCAB,
        hidden_size=64,
        head_dim=32,
        max_position_embeddings=256,
        eos_token_id=int(words[0]),
    )
    write_checkpoint(model, tokens, folder)
    rng = np.random.default_rng(0)
    prompts = [rng.choice(words, length).tolist() for length in LENGTHS]
    # A history of whole SIDs, one of which ends the prompt.
    for prompt in prompts[3:6]:
        prompt[-6:] = [int(t[c]) for sid in codes[[3, 8]] for t, c in zip(tokens, sid, strict=True)]
    ids, mask = make.pad_left(prompts)
    trie = SIDTrie(codes)
    # Another set of SIDs of the same items, of two levels.
    other = SIDTrie(make.codes(sizes=(8, 8), seed=3)), [words[8:16], words[16:24][::-1]]
    made = SimpleNamespace(
        folder=folder,
        model=model,
        codes=codes,
        tokens=tokens,
        trie=trie,
        sets=[(trie, tokens), other],
        words=words,
        prompts=prompts,
        ids=ids,
        mask=mask,
        hf=BeamEngine(model, trie, tokens),
        scores=make.oracle(model, prompts, codes, tokens),
        max_length=MAX_LENGTH,
    )
    made.assert_lists = partial(assert_lists, made)
    return made


@pytest.fixture(scope="session")
def in_process():
    """vLLM runs in this process. Those started stay to the end: the end of one would end the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        yield


@pytest.fixture(scope="session")
def engine(shop, in_process, tmp_path_factory):
    """vLLM of one set of SIDs, started once."""
    return VLLMBeamEngine.load(
        shop.folder,
        shop.trie,
        shop.tokens,
        constraint=tmp_path_factory.mktemp("engine") / "constraint.safetensors",
        skip_tokenizer_init=False,  # stock beam search asks for it
        **START,
    )


@pytest.fixture(scope="session")
def among_codes(shop, in_process, tmp_path_factory):
    """The shop's model as if trained among the codes of a level, and vLLM of its two sets of SIDs."""
    model, folder = copy.deepcopy(shop.model), tmp_path_factory.mktemp("among_codes")
    set_softmax(model, "codes")
    write_checkpoint(model, shop.tokens, folder)
    constraint = tmp_path_factory.mktemp("constraint") / "constraint.safetensors"
    engines = VLLMBeamEngine.load_sets(folder, shop.sets, constraint=constraint, **START)
    return SimpleNamespace(model=model, engines=engines)


@pytest.fixture
def assert_mixture(shop):
    """Compares engines of the shop's sets with those of transformers, both joined."""

    def check(engines, model=shop.model):
        ours = MixtureEngine(engines, [2, 1])
        theirs = MixtureEngine([BeamEngine(model, *own) for own in shop.sets], [2, 1])
        # Another prompt of the same users in the second set.
        prompts = [(shop.ids, shop.mask), (shop.ids.flip(0), shop.mask.flip(0))]
        exclude = [[user, 20 + user] for user in range(len(shop.ids))]
        for options in ({"num_beams": 4}, {"num_beams": 20, "k": 7, "certify": True}):
            found = ours.search(prompts, exclude=exclude, **options)
            expected = theirs.search(prompts, exclude=exclude, **options)
            assert found.items.tolist() == expected.items.tolist()
            assert found.exact.tolist() == expected.exact.tolist()
            np.testing.assert_allclose(found.by_set, expected.by_set, atol=1e-4)
        assert found.exact.all()

    return check


def assert_lists(shop, found, theirs, user):
    """Compares [(tokens, score), ...] with a user's list, which may name fewer SIDs: items share."""
    expected = {}
    for sid, score in zip(theirs.sids[user].tolist(), theirs.scores[user].tolist(), strict=True):
        expected[tuple(int(t[c]) for t, c in zip(shop.tokens, sid, strict=True))] = score
    found = found[: len(expected)]
    assert [tokens for tokens, _ in found] == list(expected)
    np.testing.assert_allclose([score for _, score in found], list(expected.values()), atol=1e-4)
