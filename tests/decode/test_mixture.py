"""Several sets of SIDs, searched exactly: brute force over all items is the oracle."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from genrec.decode import BeamEngine, Eligibility, MixtureEngine, fit_weights
from genrec.decode.memory import PromptCache
from genrec.sid.trie import SIDTrie

ITEMS, SIZES, SETS = 40, (5, 6), 3
WEIGHTS = (0.5, 0.2, 0.3)
PROMPTS = [
    [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46, 26, 43], [28]],
    [[13, 4, 15, 2, 6, 35], [80, 9, 5], [7, 32, 38], [2, 8]],
    [[5], [8, 9, 12], [9, 32, 38, 46], [28, 1, 1]],
]


@pytest.fixture(scope="module")
def sets(make):
    """One model, three sets of SIDs with tokens of their own, four users with a prompt in each."""
    rng = np.random.default_rng(5)
    tokens = np.split(
        rng.permutation(np.arange(make.vocab))[: SETS * sum(SIZES)], np.cumsum(SIZES * SETS)[:-1]
    )
    tokens = [tokens[2 * m : 2 * m + 2] for m in range(SETS)]
    codes = [np.stack([rng.integers(0, s, ITEMS) for s in SIZES], axis=1) for _ in range(SETS)]
    model = make.model()
    pairs = zip(PROMPTS, codes, tokens, strict=True)
    by_set = np.stack([make.oracle(model, p, c, t).numpy() for p, c, t in pairs])
    return SimpleNamespace(
        engines=[BeamEngine(model, SIDTrie(c), t) for c, t in zip(codes, tokens, strict=True)],
        prompts=[make.pad_left(p) for p in PROMPTS],
        by_set=by_set,
        scores=np.einsum("m,mbn->bn", WEIGHTS, by_set),
    )


def best(scores: np.ndarray, k: int, eligible=None) -> list[int]:
    items = range(len(scores)) if eligible is None else sorted(eligible)
    return sorted(items, key=lambda item: (-np.float32(scores[item]), item))[:k]


def test_with_all_beams_it_is_the_full_sort(sets):
    out = MixtureEngine(sets.engines, WEIGHTS).search(sets.prompts, num_beams=ITEMS, k=10)
    assert out.exact.all()
    assert (out.scored == ITEMS).all()
    for user in range(4):
        np.testing.assert_allclose(out.scores[user], sets.scores[user][out.items[user]], atol=1e-4)
        # Neighbours that the oracle scores alike to rounding may change places.
        np.testing.assert_allclose(
            sets.scores[user][out.items[user]],
            sets.scores[user][best(sets.scores[user], 10)],
            atol=1e-4,
        )
        np.testing.assert_allclose(
            out.by_set[:, user], sets.by_set[:, user][:, out.items[user]], atol=1e-4
        )


@pytest.mark.parametrize("width", [3, 5, 8, 15])
def test_what_is_proven_is_right_and_every_score_is_exact(sets, width):
    out = MixtureEngine(sets.engines, WEIGHTS).search(sets.prompts, num_beams=width, k=3)
    for user in range(4):
        np.testing.assert_allclose(out.scores[user], sets.scores[user][out.items[user]], atol=1e-4)
        if out.exact[user]:
            np.testing.assert_allclose(
                out.scores[user], np.sort(sets.scores[user])[::-1][:3], atol=1e-4
            )


def test_the_proof_is_neither_always_nor_never_there(sets):
    engine = MixtureEngine(sets.engines, WEIGHTS)
    shares = [engine.search(sets.prompts, num_beams=w, k=3).exact.mean() for w in (3, 8, ITEMS)]
    assert shares[0] < 1
    assert shares[-1] == 1
    assert shares == sorted(shares)


@pytest.mark.parametrize("width", [3, 5, 8])
def test_what_no_set_found_scores_at_most_the_bound(sets, width):
    """So the first places are proven where they are not below it, whatever the rest of the list is."""
    out = MixtureEngine(sets.engines, WEIGHTS).search(sets.prompts, num_beams=width, k=width)
    for user in range(4):
        found = {
            int(item)
            for engine, prompts in zip(sets.engines, sets.prompts, strict=True)
            for item in engine.search(*prompts, num_beams=width, k=width).items[user]
        }
        others = np.setdiff1d(np.arange(ITEMS), sorted(found))
        assert out.scored[user] == len(found)
        assert not len(others) or sets.scores[user][others].max() <= out.bound[user] + 1e-4


def test_certify_widens_until_it_is_proven(sets):
    engine = MixtureEngine(sets.engines, WEIGHTS)
    assert not engine.search(sets.prompts, num_beams=3, k=3).exact.all()
    out = engine.search(sets.prompts, num_beams=3, k=3, certify=True, max_beams=ITEMS)
    whole = engine.search(sets.prompts, num_beams=ITEMS, k=3)
    assert out.exact.all()
    np.testing.assert_allclose(out.scores, whole.scores, atol=1e-4)
    assert (out.items == whole.items).all()


def test_filters(sets):
    rng = np.random.default_rng(0)
    mask = rng.random((4, ITEMS)) < 0.5
    exclude = [rng.choice(ITEMS, 5, replace=False) for _ in range(4)]
    engine = MixtureEngine(sets.engines, WEIGHTS)
    lists = [np.flatnonzero(row) for row in mask]
    for allowed in (mask, lists):
        out = engine.search(
            sets.prompts, num_beams=6, k=6, allowed=allowed, exclude=exclude, certify=True
        )
        for user in range(4):
            eligible = set(np.flatnonzero(mask[user])) - set(exclude[user].tolist())
            assert set(out.items[user].tolist()) <= eligible | {-1}
            if out.exact[user]:
                wanted = best(sets.scores[user], 6, eligible)
                np.testing.assert_allclose(
                    out.scores[user][: len(wanted)], sets.scores[user][wanted], atol=1e-4
                )
    few = engine.search(sets.prompts, num_beams=6, k=6, allowed=[[1, 2]] * 4)
    assert few.exact.all()
    assert (few.items[:, 2:] == -1).all()
    assert set(few.items[0, :2].tolist()) == {1, 2}
    shared = engine.search(sets.prompts, num_beams=6, k=6, allowed=np.arange(ITEMS) < 3)
    assert set(shared.items[shared.items >= 0].tolist()) == {0, 1, 2}


def test_one_set_is_its_own_search(sets):
    alone = sets.engines[0].search(*sets.prompts[0], num_beams=8, k=5)
    out = MixtureEngine(sets.engines[:1]).search(sets.prompts[:1], num_beams=8, k=5)
    np.testing.assert_allclose(out.scores, alone.scores.numpy(), atol=1e-5)
    assert (out.exact == alone.exact.numpy()).all()


def test_a_set_of_weight_zero_is_not_searched(sets):
    class Broken:
        trie = sets.engines[0].trie

    engine = MixtureEngine([sets.engines[0], Broken(), sets.engines[2]], (1, 0, 1))
    out = engine.search(sets.prompts, num_beams=ITEMS, k=4)
    expected = (sets.by_set[0] + sets.by_set[2]) / 2
    np.testing.assert_allclose(out.scores, np.sort(expected)[:, ::-1][:, :4], atol=1e-4)
    assert np.isneginf(out.by_set[1]).all()


def test_each_prompt_is_computed_once(sets, monkeypatch):
    """The second search of a set, for what the others found, only computes the last token again."""
    made = []

    class Counted(PromptCache):
        def __init__(self, budget):
            super().__init__(budget)
            made.append(self)

    monkeypatch.setattr("genrec.decode.mixture.PromptCache", Counted)
    MixtureEngine(sets.engines, WEIGHTS).search(sets.prompts, num_beams=4, k=3, certify=True)
    assert len(made) == SETS
    for cache, prompts in zip(made, PROMPTS, strict=True):
        once = sum(map(len, prompts))
        searches = (cache.hits + cache.misses) / once
        assert cache.misses < once + searches * len(prompts)
        assert cache.hits > 0


def test_kept_prompts_change_nothing(sets):
    engine = MixtureEngine(sets.engines, WEIGHTS)
    plain = engine.search(sets.prompts, num_beams=6, k=6)
    for _ in range(2):
        kept = engine.search(sets.prompts, num_beams=6, k=6, keys=["a", "b", "c", "d"])
        np.testing.assert_allclose(kept.scores, plain.scores, atol=1e-4)
    for each in sets.engines:
        each.prompts.clear()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), width=st.integers(2, 20), k=st.integers(1, 6))
def test_random_catalogues_equal_brute_force(make, seed, width, k):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(3, 30))
    tokens = np.split(rng.permutation(make.vocab)[: 2 * sum(SIZES)], np.cumsum(SIZES * 2)[:-1])
    codes = [np.stack([rng.integers(0, s, items) for s in SIZES], axis=1) for _ in range(2)]
    model = make.model(seed=seed % 3)
    prompts = [[rng.integers(0, make.vocab, 3).tolist()] for _ in range(2)]
    pairs = list(zip(prompts, codes, (tokens[:2], tokens[2:]), strict=True))
    scores = np.mean([make.oracle(model, p, c, t).numpy()[0] for p, c, t in pairs], axis=0)
    engine = MixtureEngine([BeamEngine(model, SIDTrie(c), t) for _, c, t in pairs])
    k = min(k, width)
    out = engine.search([make.pad_left(p) for p in prompts], num_beams=width, k=k)
    there = out.items[0] >= 0
    np.testing.assert_allclose(out.scores[0][there], scores[out.items[0][there]], atol=1e-4)
    if out.exact[0]:
        wanted = np.sort(scores)[::-1][:k]
        np.testing.assert_allclose(out.scores[0][: len(wanted)], wanted, atol=1e-4)


def test_what_cannot_be_is_refused(sets):
    with pytest.raises(ValueError, match="none is given"):
        MixtureEngine([])
    for weights in ((1, 2), (1, -1, 1), (0, 0, 0), (1, float("nan"), 1)):
        with pytest.raises(ValueError, match="weights"):
            MixtureEngine(sets.engines, weights)
    engine = MixtureEngine(sets.engines)
    with pytest.raises(ValueError, match="prompts of 2 sets; expected 3"):
        engine.search(sets.prompts[:2], num_beams=3)
    with pytest.raises(ValueError, match="exclude: 1 users; expected 4"):
        engine.search(sets.prompts, num_beams=3, exclude=[[1]])
    counted = Eligibility.of_mask(sets.engines[0].trie, np.ones(ITEMS, bool))
    with pytest.raises(ValueError, match="give the mask itself"):
        engine.search(sets.prompts, num_beams=3, allowed=counted)
    other = SimpleNamespace(trie=SIDTrie(np.array([[0, 1]])))
    with pytest.raises(ValueError, match="expected the same items"):
        MixtureEngine([sets.engines[0], other])


def test_the_bound_of_a_search_is_what_no_other_item_exceeds(sets):
    for width in (2, 4, ITEMS):
        out = sets.engines[1].search(*sets.prompts[1], num_beams=width, k=width)
        for user in range(4):
            others = np.setdiff1d(np.arange(ITEMS), out.items[user].numpy())
            if len(others):
                assert sets.by_set[1, user][others].max() <= out.bound[user] + 1e-4
    assert isinstance(out.bound, torch.Tensor)


def lists(rng, users: int, right: np.ndarray):
    """Lists of 20 items under three sets; set 1 alone knows what the user chose."""
    items = np.tile(np.arange(20), (users, 1))
    by_set = rng.normal(size=(3, users, 20))
    by_set[1, np.arange(users), right] += 4
    return items, by_set


def test_weights_go_to_the_set_that_knows():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 20, 400)
    items, by_set = lists(rng, 400, right)
    weights, before, fitted, users = fit_weights(items, by_set, right)
    assert users == 400
    equal = fit_weights(items, by_set, right, least=401)
    assert equal.weights == pytest.approx([1 / 3] * 3)
    assert fitted > before == equal.equal == equal.fitted
    assert weights[1] > 0.7
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0


def test_too_few_users_leave_the_weights_equal():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 20, 99)
    items, by_set = lists(rng, 99, right)
    assert fit_weights(items, by_set, right)[0] == pytest.approx([1 / 3] * 3)
    absent = np.full(400, 99)  # nobody's target is in a list
    items, by_set = lists(rng, 400, rng.integers(0, 20, 400))
    assert fit_weights(items, by_set, absent) == (pytest.approx([1 / 3] * 3), 0, 0, 0)


def test_the_gain_is_ndcg_of_the_whole_user_group():
    items = np.array([[4, 7, -1], [1, 2, 3]])
    by_set = np.array([[[-1.0, -2.0, -np.inf], [-3.0, -1.0, -2.0]]])
    fitted = fit_weights(items, by_set, np.array([7, 9]))
    assert fitted.equal == pytest.approx((1 / np.log2(3) + 0) / 2)
