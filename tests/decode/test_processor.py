"""The mask against brute force, and generate with it against generate with a prefix function."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import LogitsProcessorList

from genrec.decode import BeamEngine
from genrec.decode.filters import Eligibility
from genrec.decode.processor import SIDLogitsProcessor
from genrec.sid.trie import SIDTrie

PROMPTS = [[3, 14, 15, 92, 65, 35], [8, 9], [79, 32, 38, 46, 26, 43, 38]]
LENGTH = 7


@pytest.fixture(scope="module")
def parts(make):
    codes, tokens = make.codes(), make.tokens()
    ids, mask = make.pad_left(PROMPTS)
    names = np.stack([t[codes[:, i]] for i, t in enumerate(tokens)], axis=1)
    return SimpleNamespace(
        model=make.model(),
        codes=codes,
        tokens=tokens,
        names=names,
        trie=SIDTrie(codes),
        inputs={"input_ids": ids, "attention_mask": mask},
    )


def generate(parts, processor=None, **settings):
    settings = {
        "max_new_tokens": 3,
        "do_sample": False,
        "pad_token_id": 0,
        "length_penalty": 0.0,
        "return_dict_in_generate": True,
        "output_scores": True,
        "logits_processor": LogitsProcessorList([processor] if processor else []),
        **settings,
    }
    return parts.model.generate(**parts.inputs, **settings)


def prefix_function(parts, eligible):
    """The baseline everyone starts with: a dict of Python sets per user."""
    after = [{} for _ in PROMPTS]
    for user, items in enumerate(eligible):
        for row in parts.names[sorted(items)].tolist():
            for level in range(3):
                after[user].setdefault(tuple(row[:level]), set()).add(row[level])

    def allowed_tokens(user, ids):
        # Beams beyond the number of prefixes hold anything; generate wants some token for them.
        return sorted(after[user].get(tuple(ids[LENGTH:].tolist()), {1}))

    return allowed_tokens


def expected_mask(sids, tokens, eligible, written, scores):
    """What the mask should be for one row, item by item."""
    names = {tuple(tokens[i][code] for i, code in enumerate(sids[item])) for item in eligible}
    after = {row[len(written)] for row in names if row[: len(written)] == tuple(written)}
    return [s if token in after else -np.inf for token, s in enumerate(scores.tolist())]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_mask_equals_brute_force(data):
    levels = data.draw(st.integers(1, 4))
    highs = [data.draw(st.sampled_from([0, 1, 4])) for _ in range(levels)]
    sid = st.tuples(*[st.integers(0, high) for high in highs])  # few codes: many near misses
    sids = data.draw(st.lists(sid, min_size=1, max_size=25))
    vocab = sum(high + 1 for high in highs) + 5
    ids = data.draw(st.permutations(range(vocab)))
    tokens, start = [], 0
    for high in highs:
        tokens.append(np.array(ids[start : start + high + 1]))
        start += high + 1
    users, beams, prompt = (data.draw(st.integers(*r)) for r in ((1, 3), (1, 4), (0, 3)))
    some = st.sets(st.integers(0, len(sids) - 1), min_size=data.draw(st.integers(0, 1)))
    allowed = [data.draw(some) for _ in range(users)]
    exclude = data.draw(st.none() | st.just([data.draw(some) for _ in range(users)]))
    form = data.draw(st.sampled_from(["lists", "mask", "counted", "shared", "none"]))
    if form == "shared":
        allowed = allowed[:1] * users
    if form == "none":
        allowed = [set(range(len(sids)))] * users
    table = np.array([[item in row for item in range(len(sids))] for row in allowed])
    trie = SIDTrie(sids)
    given_as = {
        "lists": [sorted(row) for row in allowed],
        "mask": table,
        "counted": Eligibility.of_mask(trie, table),
        "shared": table[0],
        "none": None,
    }[form]
    eligible = [row - (exclude[u] if exclude else set()) for u, row in enumerate(allowed)]

    def build():
        return SIDLogitsProcessor(
            trie, tokens, prompt_length=prompt, allowed=given_as, exclude=exclude
        )

    if not all(eligible):
        with pytest.raises(ValueError, match="may be given no item at all"):
            build()
        return
    depth = data.draw(st.integers(0, levels - 1))
    written = []
    for _ in range(users * beams):  # prefixes of items, codes of several items, and anything
        one_item = data.draw(st.booleans())
        item, row = data.draw(st.sampled_from(sids)), []
        for level in range(depth):
            item = item if one_item else data.draw(st.sampled_from(sids))
            row.append(int(tokens[level][item[level]]))
        if depth and data.draw(st.integers(0, 4)) == 4:
            row[data.draw(st.integers(0, depth - 1))] = data.draw(st.sampled_from(ids))
        written.append(row)
    input_ids = torch.tensor([[ids[0]] * prompt + row for row in written], dtype=torch.int64)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    scores = torch.randn(len(written), vocab).to(dtype)
    before = scores.clone()
    out = build()(input_ids.view(users * beams, prompt + depth), scores)
    assert out.dtype == dtype
    assert scores.equal(before)
    for row, (found, given_scores) in enumerate(zip(out.tolist(), scores, strict=True)):
        user = row // beams
        assert found == expected_mask(sids, tokens, eligible[user], written[row], given_scores)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_prefix_of_a_sparse_trie(depth):
    """Most are of no item, though each of their codes follows some other prefix."""
    sids = np.unique(np.random.default_rng(3).integers(0, 3, (25, 4)), axis=0).tolist()
    tokens = np.arange(12).reshape(4, 3)
    written = np.indices((3,) * depth).reshape(depth, -1).T + 3 * np.arange(depth)
    scores = torch.randn(len(written), 12)
    out = SIDLogitsProcessor(SIDTrie(sids), tokens, prompt_length=0)(
        torch.from_numpy(written), scores
    )
    everything = range(len(sids))
    for found, row, given_scores in zip(out.tolist(), written.tolist(), scores, strict=True):
        assert found == expected_mask(sids, tokens, everything, row, given_scores)


@pytest.mark.parametrize("width", [1, 2, 4, 10, 20])
def test_beams_equal_those_of_a_prefix_function(parts, width):
    processor = SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=LENGTH)
    settings = {"num_beams": width, "num_return_sequences": width}
    ours = generate(parts, processor, **settings)
    everything = [range(60)] * 3
    theirs = generate(
        parts, prefix_allowed_tokens_fn=prefix_function(parts, everything), **settings
    )
    assert ours.sequences.equal(theirs.sequences)
    written = {tuple(row) for row in ours.sequences[:, LENGTH:].tolist()}
    assert written <= {tuple(row) for row in parts.names.tolist()}
    if width > 1:  # the same to the last bit: neither touches the scores
        assert ours.sequences_scores.equal(theirs.sequences_scores)


@pytest.mark.parametrize("width", [2, 5])
def test_filters_are_each_users_own(parts, width):
    rng = np.random.default_rng(5)
    allowed = [set(rng.choice(60, n, replace=False).tolist()) for n in (40, 15, 30)]
    exclude = [set(rng.choice(60, n, replace=False).tolist()) for n in (20, 0, 30)]
    eligible = [yes - no for yes, no in zip(allowed, exclude, strict=True)]
    processor = SIDLogitsProcessor(
        parts.trie, parts.tokens, prompt_length=LENGTH, allowed=allowed, exclude=exclude
    )
    settings = {"num_beams": width, "num_return_sequences": width}
    ours = generate(parts, processor, **settings)
    theirs = generate(parts, prefix_allowed_tokens_fn=prefix_function(parts, eligible), **settings)
    real = ours.sequences_scores > -1e6
    assert real.equal(theirs.sequences_scores > -1e6)
    assert ours.sequences[real].equal(theirs.sequences[real])
    assert ours.sequences_scores[real].equal(theirs.sequences_scores[real])
    for row, sequence in enumerate(ours.sequences[:, LENGTH:].tolist()):
        items = {tuple(parts.names[item]) for item in eligible[row // width]}
        assert tuple(sequence) in items or not real[row]


def test_greedy_is_one_beam_of_the_engine(parts):
    processor = SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=LENGTH)
    written = generate(parts, processor).sequences[:, LENGTH:]
    out = BeamEngine(parts.model, parts.trie, parts.tokens).search(
        parts.inputs["input_ids"], parts.inputs["attention_mask"], num_beams=1
    )
    names = np.stack([t[out.sids[:, 0, i]] for i, t in enumerate(parts.tokens)], axis=1)
    assert written.tolist() == names.tolist()


def test_samples_follow_the_renormalised_distribution(parts, make):
    """Each level's probabilities are the model's over the children; chi-square, loosely bounded."""
    draws = 3000
    torch.manual_seed(0)
    processor = SIDLogitsProcessor(
        parts.trie, parts.tokens, prompt_length=LENGTH, exclude=[[], [0, 1, 2, 3], []]
    )
    settings = {"do_sample": True, "top_k": 0, "num_return_sequences": draws, "num_beams": 1}
    written = generate(parts, processor, output_scores=False, **settings).sequences[:, LENGTH:]
    for user, prompt in enumerate(PROMPTS):
        items = range(4, 60) if user == 1 else range(60)
        sids = np.unique(parts.names[items], axis=0)
        rows = torch.tensor([[*prompt, *sid] for sid in sids])
        with torch.no_grad():
            logits = parts.model(rows).logits[:, len(prompt) - 1 : -1]
        chance = torch.ones(len(sids))
        for place, sid in enumerate(sids):
            for level in range(3):
                siblings = (sids[:, :level] == sid[:level]).all(1)
                children = np.unique(sids[siblings, level])
                odds = logits[place, level, children].softmax(-1)
                chance[place] *= float(odds[children == sid[level]])
        assert chance.sum() == pytest.approx(1, abs=1e-4)
        drawn = written[user * draws : (user + 1) * draws].tolist()
        count = torch.tensor([drawn.count(sid) for sid in sids.tolist()])
        assert count.sum() == draws, "something else than an eligible SID was written"
        likely = chance * draws >= 5
        expected = torch.cat([chance[likely], chance[~likely].sum()[None].clamp(min=1e-9)]) * draws
        found = torch.cat([count[likely], count[~likely].sum()[None]])
        statistic = ((found - expected) ** 2 / expected.clamp(min=1)).sum()
        assert statistic < 2.5 * len(expected) + 10


def test_a_catalogue_smaller_than_the_beams(make, parts):
    """generate fills up with copies and blanks; their scores tell them from the three real ones."""
    codes = np.array([[0, 1, 2], [4, 3, 5], [4, 0, 5]])
    processor = SIDLogitsProcessor(SIDTrie(codes), parts.tokens, prompt_length=LENGTH)
    out = generate(parts, processor, num_beams=10, num_return_sequences=10)
    scores = out.sequences_scores.view(3, 10)
    assert (scores[:, :3] > -1e3).all()
    assert (scores[:, 3:] < -1e8).all()
    names = np.stack([t[codes[:, i]] for i, t in enumerate(parts.tokens)], axis=1)
    written = out.sequences[:, LENGTH:].view(3, 10, 3)
    assert [sorted(rows) for rows in written[:, :3].tolist()] == [sorted(names.tolist())] * 3
    oracle = make.oracle(parts.model, PROMPTS, codes, parts.tokens).sort(descending=True).values
    torch.testing.assert_close(scores[:, :3], oracle, atol=1e-4, rtol=0)


def test_the_end_of_text_may_follow_a_sid(parts):
    end = next(t for t in range(1, 97) if t not in np.concatenate(parts.tokens))
    processor = SIDLogitsProcessor(
        parts.trie, parts.tokens, prompt_length=LENGTH, eos_token_id=[end]
    )
    for way in ({"num_beams": 4}, {"do_sample": True}):
        out = generate(parts, processor, eos_token_id=end, max_new_tokens=7, **way)
        assert (out.sequences[:, LENGTH + 3] == end).all()
        written = {tuple(row) for row in out.sequences[:, LENGTH : LENGTH + 3].tolist()}
        assert written <= {tuple(row) for row in parts.names.tolist()}


def test_no_other_prefix_has_an_end(parts):
    processor = SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=0, eos_token_id=1)
    whole, broken = parts.names[0].tolist(), parts.names[0][::-1].tolist()
    out = processor(torch.tensor([whole, broken]), torch.zeros(2, 97))
    assert out.isfinite().nonzero().tolist() == [[0, 1]]


def test_tokens_beyond_those_of_codes_are_no_codes():
    processor = SIDLogitsProcessor(SIDTrie([[0, 0]]), [[6], [5]], prompt_length=0)
    out = processor(torch.tensor([[6], [7], [90], [0]]), torch.zeros(4, 97))
    assert out.isfinite().nonzero().tolist() == [[0, 5]]


@pytest.mark.parametrize("codes", [[[3]], [[0, 0, 0]], [[5, 4, 3], [5, 4, 3]]])
def test_one_item_and_chains(codes):
    tokens = [np.arange(6) + 6 * level for level in range(len(codes[0]))]
    processor = SIDLogitsProcessor(SIDTrie(codes), tokens, prompt_length=2)
    ids = torch.full((4, 2), 90)
    for level, code in enumerate(codes[0]):
        out = processor(ids, torch.randn(4, 97))
        assert out.isfinite().nonzero().tolist() == [[row, 6 * level + code] for row in range(4)]
        ids = torch.cat([ids, out.argmax(1, keepdim=True)], dim=1)


def test_a_level_of_8192_codes():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [8, 8192], (30_000, 2))
    tokens = [np.arange(8), 8 + rng.permutation(8192)]
    processor = SIDLogitsProcessor(SIDTrie(codes), tokens, prompt_length=1)
    scores = torch.randn(8, 8300)
    out = processor(torch.stack([torch.full((8,), 8299), torch.arange(8)], dim=1), scores)
    for first in range(8):
        after = tokens[1][np.unique(codes[codes[:, 0] == first, 1])]
        assert out[first].isfinite().nonzero().squeeze(1).tolist() == sorted(after)
        assert out[first, after].equal(scores[first, after])


def test_reuse_takes_other_prompts_and_filters_and_shares_the_trie(parts):
    stock = np.arange(60) < 20
    first = SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=2, allowed=stock)
    other = first.reuse(prompt_length=1)
    ids, scores = torch.tensor([[1, 2]]), torch.zeros(1, 97)
    other(ids[:, :1], scores)
    assert first._catalogue is other._catalogue
    children = {int(parts.tokens[0][code]) for code in parts.codes[:, 0]}
    some = {int(parts.tokens[0][code]) for code in parts.codes[:20, 0]}
    assert set(other(ids[:, :1], scores)[0].isfinite().nonzero().flatten().tolist()) == children
    assert set(first(ids, scores)[0].isfinite().nonzero().flatten().tolist()) == some


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_length": -1}, "expected 0 or more"),
        ({"prompt_length": True}, r"expected input_ids.shape\[1\]"),
        ({"prompt_length": 2.0}, r"expected input_ids.shape\[1\]"),
        ({"eos_token_id": 1.5}, "expected token ids"),
        ({"allowed": np.ones(59, dtype=bool)}, "expected bool"),
        ({"allowed": [[0], [60]]}, "names item 60"),
        ({"allowed": [[0], []]}, "user 1 may be given no item"),
        ({"allowed": [[0], [1]], "exclude": [[]]}, "allowed has 2 entries"),
        ({"exclude": 3}, "exclude has int"),
    ],
)
def test_bad_arguments(parts, change, message):
    with pytest.raises(ValueError, match=message):
        SIDLogitsProcessor(parts.trie, parts.tokens, **{"prompt_length": 2, **change})


def test_bad_tokens_and_ends(parts):
    with pytest.raises(ValueError, match="2 levels"):
        SIDLogitsProcessor(parts.trie, parts.tokens[:2], prompt_length=2)
    end = int(parts.tokens[1][0])
    with pytest.raises(ValueError, match="also a code's token on level 1"):
        SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=2, eos_token_id=end)


@pytest.mark.parametrize(
    ("shape", "vocab", "message"),
    [
        ((4, 1), 97, "fewer than prompt_length=2"),
        ((4, 5), 97, "set max_new_tokens=3, or give eos_token_id"),
        ((3, 3), 97, "3 rows, and allowed and exclude are of 2 users"),
        ((4, 3), 50, "resize_token_embeddings"),
    ],
)
def test_steps_that_do_not_fit(parts, shape, vocab, message):
    processor = SIDLogitsProcessor(parts.trie, parts.tokens, prompt_length=2, exclude=[[1], [2, 3]])
    with pytest.raises(ValueError, match=message):
        processor(torch.ones(shape, dtype=torch.int64), torch.zeros(shape[0], vocab))
