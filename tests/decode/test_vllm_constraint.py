"""The catalogue's mask over logits and the walk over tokens, against a dictionary of prefixes."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.numpy import load_file, save_file

from genrec.decode.vllm_constraint import (
    IMPOSSIBLE,
    Constraint,
    load_constraint,
    read_settings,
    save_constraint,
)
from genrec.sid.trie import SIDTrie

VOCAB = 40
END = 39


def tokens_of(sizes, seed=0):
    ids = np.random.default_rng(seed).permutation(VOCAB - 1)[: sum(sizes)]
    return np.split(ids.astype(np.int64), np.cumsum(sizes)[:-1])


def build(codes, sizes, end=END):
    trie, tokens = SIDTrie(codes), tokens_of(sizes)
    return Constraint(trie, tokens, vocab_size=VOCAB, end=end, device="cpu"), trie, tokens


def node_of(trie, prefix):
    """The number of a prefix among all distinct ones of its length, in ascending order."""
    codes = trie.sids_of_rows(np.arange(trie.num_items))
    prefixes = sorted({tuple(row[: len(prefix)]) for row in codes.tolist()})
    return prefixes.index(tuple(prefix)) if tuple(prefix) in prefixes else -1


@st.composite
def catalogues(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    rows = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return np.array(draw(st.lists(rows, min_size=1, max_size=12))), sizes


@given(catalogues(), st.data())
def test_walk_reads_the_place_from_the_last_tokens(catalogue, data):
    codes, sizes = catalogue
    constraint, trie, tokens = build(codes, sizes)
    names = {
        int(t): (level, code) for level, ids in enumerate(tokens) for code, t in enumerate(ids)
    }
    # Texts of codes in any order, words (-1: no token yet) and whole items.
    text = data.draw(st.lists(st.sampled_from([-1, END, *names]), min_size=0, max_size=6))
    text += [int(tokens[i][c]) for i, c in enumerate(data.draw(st.sampled_from(codes.tolist())))]
    text = text[: data.draw(st.integers(0, len(text)))]
    length = len(sizes) - 1
    tail = ([-1] * length + text)[len(text) :]
    level, node = constraint.walk(np.array(tail, dtype=np.int64).reshape(1, length))

    last = names.get(tail[-1], (-1, 0))[0] if length else -1
    depth = 0 if last == length else last + 1
    pieces = [names.get(token, (-1, 0)) for token in tail[length - depth :]]
    in_order = [piece[0] for piece in pieces] == list(range(depth))
    expected = node_of(trie, [code for _, code in pieces]) if in_order else -1
    assert (level[0], node[0]) == (depth, expected if depth else 0)


@given(catalogues(), st.data())
def test_apply_leaves_exactly_the_children_with_full_vocabulary_log_probabilities(catalogue, data):
    codes, sizes = catalogue
    constraint, trie, tokens = build(codes, sizes)
    prefixes = [
        codes[
            data.draw(st.integers(0, len(codes) - 1)), : data.draw(st.integers(0, len(sizes) - 1))
        ]
        for _ in range(4)
    ]
    only = [
        data.draw(st.none() | st.just(trie.children(prefix)[:1].tolist())) for prefix in prefixes
    ]
    logits = torch.randn(6, VOCAB) * 5
    expected = logits.log_softmax(-1)
    rows = np.array([5, 0, 3, 2])
    for row, prefix, kept in zip(rows, prefixes, only, strict=True):
        children = trie.children(prefix) if kept is None else kept
        masked = torch.full((VOCAB,), -torch.inf)
        named = torch.from_numpy(tokens[len(prefix)][children])
        masked[named] = expected[row, named]
        expected[row] = masked
    level = np.array([len(prefix) for prefix in prefixes])
    node = np.array([node_of(trie, prefix) if len(prefix) else 0 for prefix in prefixes])
    constraint.apply(logits, rows, level, node, only)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


CODES = np.array([[0, 0, 1], [0, 2, 0], [1, 1, 1]])


def test_a_prefix_that_no_item_has_can_only_be_ended():
    constraint, _, _ = build(CODES, (2, 3, 2))
    logits = torch.randn(2, VOCAB)
    plain = logits[0].log_softmax(-1)
    constraint.apply(logits, np.array([1]), np.array([2]), np.array([-1]), [None])
    torch.testing.assert_close(logits[0], plain)
    assert logits[1].argmax() == END
    assert logits[1, END] == IMPOSSIBLE
    assert logits[1].softmax(-1)[END] == 1, "a row of -inf would be NaN"
    assert (logits[1] > -torch.inf).sum() == 1


def test_without_an_end_token_the_first_token_that_is_no_code_ends():
    constraint, _, tokens = build(CODES, (2, 3, 2), end=None)
    logits = torch.randn(1, VOCAB)
    constraint.apply(logits, np.array([0]), np.array([1]), np.array([-1]), [None])
    assert logits[0].argmax() == min(set(range(VOCAB)) - set(np.concatenate(tokens).tolist()))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show(bad):
    constraint, _, tokens = build(CODES, (2, 3, 2))
    logits = torch.randn(2, VOCAB)
    logits[0, END] = bad  # not even an allowed token
    constraint.apply(logits, np.array([0, 1]), np.zeros(2, int), np.zeros(2, int), [None, None])
    assert logits[0, tokens[0]].isnan().all()
    assert logits[1, tokens[0]].isfinite().all()


def test_tokens_without_an_item_are_no_prefix_of_another():
    """The third code of the second level has a token but no item; its key must not run over."""
    constraint, _, tokens = build(np.array([[0, 0, 0], [1, 0, 0]]), (2, 3, 1))
    tails = np.array([[tokens[0][0], tokens[1][2]], [tokens[0][1], tokens[1][0]]])
    _, node = constraint.walk(tails)
    assert node.tolist() == [-1, 1]


def test_file_holds_trie_and_tokens(tmp_path):
    path = tmp_path / "constraint.safetensors"
    save_constraint(path, SIDTrie(CODES), tokens_of((2, 3, 2)))
    trie, tokens = load_constraint(path)
    assert trie.items((0, 2, 0)).tolist() == [1]
    assert all(map(np.array_equal, tokens, tokens_of((2, 3, 2))))


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "constraint.safetensors"
    with pytest.raises(FileNotFoundError):
        load_constraint(path)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(ValueError, match="save_constraint"):
        load_constraint(path)
    SIDTrie(CODES).save(path)  # a trie alone
    with pytest.raises(ValueError, match=r"code_tokens\[0\].*save_constraint"):
        load_constraint(path)
    save_constraint(path, SIDTrie(CODES), tokens_of((2, 3, 2)))
    named = load_file(path)
    save_file({k: v for k, v in named.items() if k != "node_codes.1"}, path)
    with pytest.raises(ValueError, match=r"node_codes\.1.*save_constraint"):
        load_constraint(path)


def test_tokens_that_the_model_does_not_have_are_refused():
    tokens = tokens_of((2, 3, 2))
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        Constraint(SIDTrie(CODES), tokens, vocab_size=5, end=0, device="cpu")


def test_settings(tmp_path):
    path = tmp_path / "constraint.safetensors"
    path.touch()
    good = {"genrec": {"constraint": str(path), "default": "free"}}
    assert read_settings(good)["default"] == "free"
    for bad, said in [
        (None, "additional_config="),
        ({}, "additional_config="),
        ({"genrec": {"default": "free"}}, "additional_config="),
        ({"genrec": {"constraint": str(path), "defualt": "free"}}, "defualt"),
        ({"genrec": {"constraint": str(path), "default": "yes"}}, "'constrain' or 'free'"),
    ]:
        with pytest.raises(ValueError, match=said):
            read_settings(bad)
    with pytest.raises(FileNotFoundError, match="save_constraint"):
        read_settings({"genrec": {"constraint": str(tmp_path / "absent")}})
