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


def tokens_of(*sizes, seed=0):
    """Of each set, per level, the tokens of the codes; in no order, and none of them twice."""
    ids = np.random.default_rng(seed).permutation(VOCAB - 1).astype(np.int64)
    flat = iter(np.split(ids, np.cumsum(np.concatenate(sizes))))
    return [[next(flat) for _ in own] for own in sizes]


def build(*sets, end=END, **options):
    """A constraint of (SIDs, codes per level) each, its tries and its tokens."""
    tries, tokens = [SIDTrie(codes) for codes, _ in sets], tokens_of(*(sizes for _, sizes in sets))
    given = list(zip(tries, tokens, strict=True))
    made = Constraint(given, vocab_size=VOCAB, end=end, device="cpu", **options)
    return made, tries, tokens


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


several = st.lists(catalogues(), min_size=1, max_size=2)


@given(several, st.data())
def test_walk_reads_the_place_from_the_last_tokens(sets, data):
    constraint, tries, tokens = build(*sets)
    names = {
        int(t): (number, level, code)
        for number, own in enumerate(tokens)
        for level, ids in enumerate(own)
        for code, t in enumerate(ids[: tries[number].num_codes[level]])
    }
    number, asked = (data.draw(st.integers(0, len(sets) - 1)) for _ in range(2))
    # Texts of codes in any order, words (-1: no token yet) and whole items.
    text = data.draw(st.lists(st.sampled_from([-1, END, *names]), min_size=0, max_size=6))
    sid = data.draw(st.sampled_from(sets[number][0].tolist()))
    text += [int(tokens[number][level][code]) for level, code in enumerate(sid)]
    text = text[: data.draw(st.integers(0, len(text)))]
    length = constraint.tail
    tail = ([-1] * length + text)[len(text) :]
    (place,) = constraint.walk(np.array([tail], dtype=np.int64), np.array([asked]))

    own, last, _ = names.get(tail[-1], (asked, -1, 0))
    depth = 0 if last == len(sets[own][1]) - 1 else last + 1
    pieces = [names.get(token, (-1, -1, 0)) for token in tail[length - depth :]]
    in_order = [piece[:2] for piece in pieces] == [(own, level) for level in range(depth)]
    expected = node_of(tries[own], [code for *_, code in pieces]) if in_order else -1
    assert place.tolist() == [own, depth, expected if depth else 0]


@given(several, st.data(), st.booleans())
def test_apply_leaves_exactly_the_children_with_the_models_log_probabilities(
    sets, data, among_codes
):
    constraint, tries, tokens = build(*sets, among_codes=among_codes)
    logits = torch.randn(6, VOCAB) * 5
    expected = logits.log_softmax(-1)
    rows, places, only = np.array([5, 0, 3, 2]), [], []
    for row in rows:
        number = data.draw(st.integers(0, len(sets) - 1))
        (codes, sizes), trie = sets[number], tries[number]
        depth = data.draw(st.integers(0, len(sizes) - 1))
        prefix = codes[data.draw(st.integers(0, len(codes) - 1)), :depth]
        only.append(data.draw(st.none() | st.just(trie.children(prefix)[:1].tolist())))
        places.append((number, depth, node_of(trie, prefix) if depth else 0))
        ids = tokens[number][depth]
        named = torch.from_numpy(ids[trie.children(prefix) if only[-1] is None else only[-1]])
        level = torch.from_numpy(ids[: trie.num_codes[depth]])  # those that some item has
        total = (logits[row, level] if among_codes else logits[row]).logsumexp(-1)
        expected[row] = -torch.inf
        expected[row, named] = logits[row, named] - total
    constraint.apply(logits, rows, np.array(places), only)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


CODES = np.array([[0, 0, 1], [0, 2, 0], [1, 1, 1]])


def test_a_prefix_that_no_item_has_can_only_be_ended():
    constraint, _, _ = build((CODES, (2, 3, 2)))
    logits = torch.randn(2, VOCAB)
    plain = logits[0].log_softmax(-1)
    constraint.apply(logits, np.array([1]), np.array([[0, 2, -1]]), [None])
    torch.testing.assert_close(logits[0], plain)
    assert logits[1].argmax() == END
    assert logits[1, END] == IMPOSSIBLE
    assert logits[1].softmax(-1)[END] == 1, "a row of -inf would be NaN"
    assert (logits[1] > -torch.inf).sum() == 1


def test_without_an_end_token_the_first_token_that_is_no_code_ends():
    constraint, _, (tokens,) = build((CODES, (2, 3, 2)), end=None)
    logits = torch.randn(1, VOCAB)
    constraint.apply(logits, np.array([0]), np.array([[0, 1, -1]]), [None])
    assert logits[0].argmax() == min(set(range(VOCAB)) - set(np.concatenate(tokens).tolist()))


@pytest.mark.parametrize("among_codes", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show(bad, among_codes):
    constraint, _, (tokens,) = build((CODES, (2, 3, 2)), among_codes=among_codes)
    logits = torch.randn(2, VOCAB)
    logits[0, END] = bad  # not even an allowed token
    constraint.apply(logits, np.array([0, 1]), np.zeros((2, 3), int), [None, None])
    assert logits[0, tokens[0]].isnan().all()
    assert logits[1, tokens[0]].isfinite().all()


def test_an_infinite_logit_among_the_codes_shows():
    """-inf of one code leaves the sum finite; the other engine names it."""
    constraint, _, (tokens,) = build((CODES, (2, 3, 2)), among_codes=True)
    logits = torch.randn(1, VOCAB)
    logits[0, tokens[0][0]] = -torch.inf
    constraint.apply(logits, np.array([0]), np.zeros((1, 3), int), [None])
    assert logits[0, tokens[0]].isnan().all()


def test_a_token_beyond_the_highest_code_is_text():
    """The third code of the second level has a token but no item."""
    constraint, _, (tokens,) = build((np.array([[0, 0, 0], [1, 0, 0]]), (2, 3, 1)))
    tails = np.array([[tokens[0][0], tokens[1][2]], [tokens[0][1], tokens[1][0]]])
    assert constraint.walk(tails, np.zeros(2, int)).tolist() == [[0, 0, 0], [0, 2, 1]]


FIRST, SECOND = (CODES, (2, 3, 2)), (CODES[:2, :2], (1, 3))


def test_places_outside_the_tries_are_told():
    constraint, _, _ = build(FIRST, SECOND)
    assert constraint.known_codes(1, 1, 0, None) is None
    assert constraint.known_codes(0, 2, 2, [0, 1, 2]) == [0, 1]
    for outside in ((2, 0, 0), (1, 2, 0), (1, 1, 1), (0, 3, 0), (0, 2, 3)):
        assert constraint.known_codes(*outside, None) == []


@pytest.mark.parametrize("sets", [(FIRST,), (FIRST, SECOND)])
def test_file_holds_tries_and_tokens_of_every_set(tmp_path, sets):
    path = tmp_path / "constraint.safetensors"
    _, tries, tokens = build(*sets)
    save_constraint(path, list(zip(tries, tokens, strict=True)))
    found = load_constraint(path)
    assert len(found) == len(sets)
    for (trie, ids), (codes, sizes), own in zip(found, sets, tokens, strict=True):
        assert trie.items(codes[1]).tolist() == [1]
        assert [len(each) for each in ids] == list(sizes)
        assert all(map(np.array_equal, ids, own))
    # The first set's names are plain, so that the file of one set is read by others as it was.
    plain = {k: v for k, v in load_file(path).items() if not k.startswith("1.")}
    assert SIDTrie.from_arrays(plain).items(CODES[1]).tolist() == [1]


def test_sets_that_share_a_token_are_refused(tmp_path):
    path = tmp_path / "constraint.safetensors"
    with pytest.raises(ValueError, match=r"token 6 stands for codes of sets \[0, 1\]"):
        save_constraint(path, [(SIDTrie([[0], [1]]), [[5, 6]]), (SIDTrie([[0], [1]]), [[6, 7]])])
    with pytest.raises(ValueError, match="no set"):
        save_constraint(path, [])


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
    save_constraint(path, [(SIDTrie(CODES), *tokens_of((2, 3, 2)))])
    named = load_file(path)
    save_file({k: v for k, v in named.items() if k != "node_codes.1"}, path)
    with pytest.raises(ValueError, match=r"node_codes\.1.*save_constraint"):
        load_constraint(path)


def test_tokens_that_the_model_does_not_have_are_refused():
    sets = [(SIDTrie(CODES), *tokens_of((2, 3, 2)))]
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        Constraint(sets, vocab_size=5, end=0, device="cpu")


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
