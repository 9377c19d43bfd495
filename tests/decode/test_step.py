"""The step over the trie: lists and bits find the same children, and ties have one order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from genrec.decode.filters import Eligibility
from genrec.decode.step import TrieOnDevice, best
from genrec.sid.trie import SIDTrie


def descend(codes, log_probs, width, packed):
    """The last beams of two users whose model gives `log_probs[level]` after whatever prefix."""
    trie = TrieOnDevice(SIDTrie(codes), device="cpu", packed=packed)
    beams, walked = trie.start(2), []
    for level in range(trie.levels):
        above = beams.nodes.shape[1]
        scores = log_probs[level][:, None, : trie.num_codes[level]].expand(-1, above, -1)
        beams = trie.advance(level, beams, scores.clone(), width=width)
        walked.append(beams)
    return trie, walked


def catalogue(data):
    levels = data.draw(st.integers(1, 3))
    high = [data.draw(st.sampled_from([1, 3, 40, 300])) for _ in range(levels)]
    row = st.tuples(*[st.integers(0, size - 1) for size in high])
    return np.array(data.draw(st.lists(row, min_size=1, max_size=60)))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bits_and_lists_take_the_same_beams(data):
    codes = catalogue(data)
    seed, width = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 25))
    scores = torch.randn(codes.shape[1], 2, 300, generator=torch.Generator().manual_seed(seed))
    if data.draw(st.booleans()):
        scores = scores.round()  # many ties
    by_bits, by_lists = (descend(codes, scores, width, packed)[1] for packed in (True, False))
    for bits, lists in zip(by_bits, by_lists, strict=True):
        live = lists.scores > -torch.inf
        assert (bits.scores > -torch.inf).equal(live)
        assert bits.nodes[live].equal(lists.nodes[live])
        assert bits.parents[live].equal(lists.parents[live])
        assert bits.scores[live].equal(lists.scores[live])
        assert bits.bound.equal(lists.bound)


def test_the_way_is_chosen_by_the_width_of_the_level():
    rng = np.random.default_rng(0)
    wide = np.unique(rng.integers(0, [64, 8192], (200_000, 2)), axis=0)
    trie = TrieOnDevice(SIDTrie(wide), device="cpu")
    assert [bits is not None for bits in trie._bits] == [True, True]
    sparse = rng.integers(0, [64, 8192], (2000, 2))
    trie = TrieOnDevice(SIDTrie(sparse), device="cpu")
    assert [bits is not None for bits in trie._bits] == [True, False]


def test_a_level_of_8192_codes_by_both_ways():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, [8, 8192], (30_000, 2))
    scores = torch.randn(2, 2, 8192, generator=torch.Generator().manual_seed(0))
    trie, by_bits = descend(codes, scores, 50, packed=True)
    assert trie._bits[1] is not None
    _, by_lists = descend(codes, scores, 50, packed=False)
    assert by_bits[-1].nodes.equal(by_lists[-1].nodes)
    assert by_bits[-1].scores.equal(by_lists[-1].scores)
    # and brute force: the sum of two independent terms over all SIDs
    sids = np.unique(codes, axis=0)
    total = scores[0][:, sids[:, 0]] + scores[1][:, sids[:, 1]]
    wide = descend(codes, scores, 8192, packed=True)[1][-1]
    assert wide.scores.max(1).values.equal(total.max(1).values)
    assert wide.nodes.gather(1, wide.scores.argmax(1, keepdim=True))[:, 0].equal(total.argmax(1))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_best_takes_the_first_of_equals(data):
    values = st.sampled_from([0.0, -0.5, -1.0, -1e30, -3.5, -float("inf"), 2.0])
    row = data.draw(st.lists(values, min_size=1, max_size=30))
    width = data.draw(st.integers(1, len(row)))
    kept, pruned = best(torch.tensor([row]), width)
    order = sorted(range(len(row)), key=lambda place: (-row[place], place))
    assert kept[0].tolist() == sorted(order[:width])
    assert pruned[0] == (row[order[width]] if width < len(row) else -torch.inf)


@pytest.mark.parametrize("packed", [True, False])
def test_one_item_and_chains(packed):
    for codes in ([[3]], [[0, 0, 0]], [[5, 4, 3], [5, 4, 3]]):
        codes = np.array(codes)
        scores = torch.zeros(codes.shape[1], 2, 6)
        _, walked = descend(codes, scores, 4, packed)
        assert walked[-1].nodes.tolist() == [[0], [0]]
        assert walked[-1].scores.tolist() == [[0.0], [0.0]]


def test_the_device_copy_takes_eight_bytes_a_node():
    codes = np.random.default_rng(0).integers(0, 256, (20_000, 3))
    trie = SIDTrie(codes)
    nodes = sum(len(level) for level in trie.node_codes)
    held = sum(a.nbytes for name, a in trie.arrays().items() if name != "row_items")
    assert held == 8 * nodes + 4 * trie.levels
    on_device = TrieOnDevice(trie, device="cpu")
    tensors = [*on_device.codes, *on_device.first_child[1:]]
    assert sum(t.nbytes for t in tensors) == held


@pytest.mark.parametrize("filtered", [False, True])
def test_a_step_reads_nothing_back(filtered):
    """Fake tensors have shapes and no values, so any look at a value on the host is an error."""
    codes = np.random.default_rng(0).integers(0, [4, 8, 300], (300, 3))
    catalogue = SIDTrie(codes)
    trie = TrieOnDevice(catalogue, device="cpu")
    assert {bits is None for bits in trie._bits} == {True, False}  # both ways are taken
    eligible = Eligibility.of_mask(catalogue, np.arange(300) % 2 == 0) if filtered else None
    with FakeTensorMode(allow_non_fake_inputs=True):
        beams = trie.start(3)
        for level in range(3):
            log_probs = torch.randn(3, beams.nodes.shape[1], trie.num_codes[level])
            beams = trie.advance(level, beams, log_probs, width=9, eligible=eligible)
        assert beams.nodes.shape == (3, 9)
        with pytest.raises(DataDependentOutputException):
            beams.bound.max().item()  # what a look would raise
