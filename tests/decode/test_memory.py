"""Groups by memory, widening until proven, and prompts remembered: always what one cold search finds."""

import warnings

import numpy as np
import pytest
import torch

from genrec.decode import BeamEngine
from genrec.decode.memory import PromptCache, user_bytes
from genrec.sid.trie import SIDTrie


def same(ours, theirs):
    assert ours.items.tolist() == theirs.items.tolist()
    assert ours.exact.tolist() == theirs.exact.tolist()
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)


@pytest.fixture
def forwards(setup, monkeypatch):
    """The shapes of input_ids that the model was given, in order."""
    shapes = []
    original = type(setup.model).forward

    def forward(self, *args, **inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return original(self, *args, **inputs)

    monkeypatch.setattr(type(setup.model), "forward", forward)
    return shapes


# --- groups ----------------------------------------------------------------------------------


def test_small_memory_makes_small_groups(setup, forwards):
    parts = setup.model, SIDTrie(setup.codes), setup.tokens
    for budget, groups in ((1, 4), (10**9, 1)):
        engine = BeamEngine(*parts, memory_budget=budget)
        forwards.clear()
        same(
            engine.search(setup.ids, setup.mask, num_beams=9),
            setup.engine.search(setup.ids, setup.mask, num_beams=9),
        )
        steps = forwards[: len(forwards) - 3]  # the last three are the other engine's
        assert len(steps) == 3 * groups
    assert [shape[1] for shape in forwards[:1]] == [10]  # the longest of the four


def test_groups_go_by_length_and_are_cut_to_it(setup, forwards):
    engine = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens, memory_budget=1)
    forwards.clear()
    engine.search(setup.ids, setup.mask, num_beams=2)
    assert [shape for shape in forwards if shape[1] != 2] == [(1, 10), (1, 6), (1, 1)]


def test_filters_follow_their_users_through_the_groups(setup):
    rng = np.random.default_rng(0)
    engine = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens, memory_budget=1)
    mask = rng.random((4, 60)) < 0.5
    exclude = [rng.choice(60, n).tolist() for n in (3, 20, 0, 40)]
    lists = [rng.choice(60, n).tolist() for n in (30, 2, 50, 9)]
    for filters in (
        {"allowed": mask},
        {"allowed": mask[0]},
        {"allowed": lists},
        {"exclude": exclude},
        {"allowed": mask, "exclude": exclude},
        {"allowed": lists, "exclude": exclude},
    ):
        request = {"num_beams": 9, **filters}
        ours = engine.search(setup.ids, setup.mask, **request)
        same(ours, setup.engine.search(setup.ids, setup.mask, **request))


def test_expanding_takes_more_memory_than_the_tree(setup):
    config, trie = setup.model.config, SIDTrie(setup.codes)
    shape = {"tokens": 512, "width": 50, "token_bytes": 256, "dtype": torch.float32, "scores": 97}
    tree, rows = (user_bytes(config, trie, **shape, expanded=e) for e in (False, True))
    assert rows - tree > 50 * 512 * 256


# --- certify ---------------------------------------------------------------------------------


def test_certify_widens_for_those_who_need_it(setup, make, forwards):
    """With no limit every list is the oracle's, and users proven at once are not searched again."""
    for width in range(2, 40):
        narrow = setup.engine.search(setup.ids, setup.mask, num_beams=width, k=1)
        if 0 < narrow.exact.sum() < 4:
            break
    else:
        pytest.fail("at no width some lists are proven and some are not")
    forwards.clear()
    request = {"num_beams": width, "k": 1, "certify": True}
    out = setup.engine.search(setup.ids, setup.mask, **request, max_beams=10_000)
    assert out.exact.all()
    for user, scores in enumerate(setup.scores):
        assert out.items[user].tolist() == make.expected(scores, setup.codes, 1)
    # The others' prompts are not computed again, but for the last token.
    assert forwards[3] == (4 - narrow.exact.sum(), 1)
    limited = setup.engine.search(setup.ids, setup.mask, **request, max_beams=width)
    same(limited, narrow)


def test_certify_minds_the_filters(setup, make):
    allowed = [list(range(0, 60, 2)), list(range(5)), list(range(30, 60)), list(range(60))]
    out = setup.engine.search(
        setup.ids, setup.mask, num_beams=2, allowed=allowed, certify=True, max_beams=64
    )
    assert out.exact.all()
    for user, scores in enumerate(setup.scores):
        wanted = make.expected(scores, setup.codes, 2, allowed[user])
        assert out.items[user].tolist() == wanted


def test_bad_limits(setup):
    request = {"num_beams": 4}
    with pytest.raises(ValueError, match="max_beams=9 without certify"):
        setup.engine.search(setup.ids, setup.mask, **request, max_beams=9)
    with pytest.raises(ValueError, match="max_beams=2 is below num_beams=4"):
        setup.engine.search(setup.ids, setup.mask, **request, certify=True, max_beams=2)


# --- remembered prompts ----------------------------------------------------------------------


def grown(make, prompts, seed):
    """The same users later: longer, unchanged, shortened, changed in the middle, cut in front."""
    rng = np.random.default_rng(seed)
    kinds = ["longer", "unchanged", "shortened", "changed", "cut"]
    later = []
    for prompt in prompts:
        kind = kinds[rng.integers(5)]
        prompt = list(prompt)
        if kind == "longer" and len(prompt) < 30:
            prompt += rng.integers(0, 97, rng.integers(1, 5)).tolist()
        elif kind == "shortened" and len(prompt) > 2:
            prompt = prompt[:-2]
        elif kind == "changed":
            prompt[len(prompt) // 2] = int(rng.integers(97))
        elif kind == "cut" and len(prompt) > 2:
            prompt = prompt[2:]
        later.append(prompt)
    return later


@pytest.mark.parametrize("seed", range(4))
def test_remembered_equals_cold(setup, make, seed):
    engine = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens)
    rng, prompts = np.random.default_rng(seed), [list(p) for p in setup.prompts] * 2
    for visit in range(5):
        users = rng.permutation(8)[: rng.integers(1, 9)].tolist()
        batch = make.pad_left([prompts[user] for user in users])
        out = engine.search(*batch, num_beams=12, keys=[f"u{user}" for user in users])
        same(out, setup.engine.search(*batch, num_beams=12))
        prompts = grown(make, prompts, 10 * seed + visit)
    assert engine.prompts.hits > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_remembered_equals_cold_under_a_sliding_window(make, attention):
    mixed = {"layer_types": ["sliding_attention", "full_attention"]}
    window = {"use_sliding_window": True, "sliding_window": 4, **mixed}
    model = make.model(attention=attention, **window)
    codes, tokens = make.codes(), make.tokens()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine = BeamEngine(model, SIDTrie(codes), tokens)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [1, 2, 3], [40, 41]]
    for more in ([], [20, 21], [22, 23, 24, 25, 26]):
        prompts = [prompt + more for prompt in prompts]
        out = engine.search(*make.pad_left(prompts), num_beams=60, keys=range(3))
        oracle = make.oracle(model, prompts, codes, tokens)
        torch.testing.assert_close(out.scores, oracle.gather(1, out.items), atol=2e-4, rtol=0)
    assert engine.prompts.hits > 0


def test_a_returning_user_pays_for_new_tokens_only(setup, make, forwards):
    engine = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens)
    prompts = [list(range(1, 40)), list(range(2, 30)), list(range(3, 50))]
    engine.search(*make.pad_left(prompts), num_beams=3, keys=["a", "b", "c"])
    forwards.clear()
    prompts = [prompts[0] + [7, 8], prompts[1] + [9], list(range(50, 90))]
    engine.search(*make.pad_left(prompts), num_beams=3, keys=["a", "b", "d"])
    prefills = [shape for shape in forwards if shape[1] != 3]
    assert prefills == [(1, 40), (2, 2)]  # the stranger alone, then the two who came back
    assert engine.prompts.hits == 39 + 28
    assert len(engine.prompts) == 4


def test_the_least_recently_used_goes_first(setup, make):
    each = 10 * setup.engine._token_bytes
    engine = BeamEngine(
        setup.model, SIDTrie(setup.codes), setup.tokens, prompt_budget=int(2.5 * each)
    )
    for user in "abacd":  # c drives out b, d drives out a
        engine.search(*make.pad_left([[ord(user) % 90] * 10]), num_beams=2, keys=[user])
    assert list(engine.prompts._entries) == ["c", "d"]
    assert engine.prompts.num_bytes == 2 * each
    engine.search(*make.pad_left([[1] * 40]), num_beams=2, keys=["large"])
    assert list(engine.prompts._entries) == ["c", "d"]  # too large to keep: nobody makes room
    engine.prompts.clear()
    assert (len(engine.prompts), engine.prompts.num_bytes) == (0, 0)


def test_an_entry_owns_its_memory(setup, make):
    """A view would keep the whole batch alive and make the budget a lie."""
    setup.engine.prompts.clear()
    setup.engine.search(*make.pad_left([[1] * 20, [2] * 3]), num_beams=9, keys=["x", "y"])
    entry = setup.engine.prompts._entries["y"]
    held = sum(part.untyped_storage().nbytes() for pair in entry.layers for part in pair)
    assert held == entry.num_bytes == 3 * setup.engine._token_bytes
    setup.engine.prompts.clear()


def test_bad_keys(setup, make):
    with pytest.raises(ValueError, match="keys has 1 names; expected one for each of 4 users"):
        setup.engine.search(setup.ids, setup.mask, num_beams=2, keys=["a"])
    expand = BeamEngine(setup.model, SIDTrie(setup.codes), setup.tokens, strategy="expand")
    with pytest.raises(ValueError, match="keys needs strategy 'tree'"):
        expand.search(setup.ids, setup.mask, num_beams=2, keys="abcd")


def test_a_cache_without_budget_keeps_nothing():
    cache = PromptCache(0)
    layers = [(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))]
    cache.put("a", torch.tensor([1, 2, 3]), layers)
    assert len(cache) == 0
    assert cache.find("a", torch.tensor([1, 2, 3, 4])) is None
