"""Writing SIDs, counting collisions, and resolving them against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from genrec.sid import codes


def test_tokens_are_letters_and_codes_there_and_back():
    assert codes.token_name(0, 12) == "<a_12>"
    assert codes.token_name(3, 0) == "<d_0>"
    assert codes.parse_token("<c_255>") == (2, 255)
    assert codes.format_sid(np.array([12, 3, 255, 0])) == "<a_12><b_3><c_255><d_0>"


@given(st.integers(0, 25), st.integers(0, 100_000))
def test_parsing_inverts_naming(level, code):
    assert codes.parse_token(codes.token_name(level, code)) == (level, code)


@pytest.mark.parametrize(
    "bad", ["a_1", "<a_1", "<a_01>", "<A_1>", "<a_-1>", "<a_1> ", "<a_1>\n", ""]
)
def test_what_is_no_token_is_refused(bad):
    with pytest.raises(ValueError, match="<a_12>"):
        codes.parse_token(bad)


def test_levels_beyond_the_alphabet_are_refused():
    with pytest.raises(ValueError, match="level 26"):
        codes.token_name(26, 0)


def test_collision_rate_counts_items_not_sids():
    # Items 0, 1, 3 share (1, 1): 3 of 5 items share their SID with another.
    sids = np.array([[1, 1], [1, 1], [2, 1], [1, 1], [1, 2]], dtype=np.int32)
    assert codes.collision_rate(sids) == pytest.approx(3 / 5)
    assert codes.collision_rate(sids[:1]) == 0.0
    # Two of them must move: 3 distinct SIDs of 5.
    assert codes.duplicate_rate(sids) == pytest.approx(2 / 5)


def test_the_nearest_item_keeps_the_code_and_the_other_takes_the_nearest_free():
    sids = np.array([[0, 1], [0, 1], [0, 2], [5, 1]], dtype=np.int32) % 4
    distances = np.array(
        [
            [3.0, 0.9, 0.1, 2.0],  # shares (0, 1) but is farther from code 1 than item 1: it moves
            [3.0, 0.5, 9.0, 9.0],
            [9.0, 9.0, 0.0, 9.0],  # holds code 2, so item 0 cannot have it and takes code 3
            [9.0, 0.0, 9.0, 9.0],
        ],
        dtype=np.float32,
    )
    resolved, moved = codes.resolve_collisions(sids, distances, codes=4)
    assert resolved.tolist() == [[0, 3], [0, 1], [0, 2], [1, 1]]
    assert moved.tolist() == [True, False, False, False]


def test_equally_near_items_the_lowest_keeps():
    sids = np.zeros((2, 2), dtype=np.int32)
    resolved, _ = codes.resolve_collisions(sids, np.ones((2, 3), dtype=np.float32), codes=3)
    assert resolved.tolist() == [[0, 0], [0, 1]]


def test_sids_without_collisions_stay():
    sids = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    resolved, moved = codes.resolve_collisions(sids, np.ones((3, 2), dtype=np.float32), codes=2)
    assert (resolved == sids).all()
    assert not moved.any()


@st.composite
def catalogues(draw, *, crowded=False):
    num_codes = draw(st.integers(2, 4))
    items = draw(st.integers(1, 9 if crowded else 6))
    levels = draw(st.integers(1, 3))
    prefix = draw(st.integers(1, 2))  # few prefixes, so that groups are large
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sids = rng.integers(0, prefix, (items, levels)).astype(np.int32)
    sids[:, -1] = rng.integers(0, num_codes, items)
    return sids, rng.random((items, num_codes)).astype(np.float32), num_codes


def best_by_brute_force(last, distances):
    """Over all one-to-one assignments: fewest moves, and of those that keep the nearest keepers the
    least distance of the movers."""
    n, num_codes = distances.shape
    own = distances[np.arange(n), last]
    keepers = {c: min((i for i in range(n) if last[i] == c), key=lambda i: own[i]) for c in last}
    least_moves, least_cost = n + 1, np.inf
    for taken in itertools.permutations(range(num_codes), n):
        moves = sum(a != b for a, b in zip(taken, last, strict=True))
        least_moves = min(least_moves, moves)
        if all(taken[i] == c for c, i in keepers.items()):
            cost = sum(distances[i, c] for i, c in enumerate(taken) if c != last[i])
            least_cost = min(least_cost, cost)
    return least_moves, least_cost


@settings(max_examples=80, deadline=None)
@given(catalogues())
def test_resolution_is_one_to_one_and_moves_as_few_and_as_little_as_brute_force(catalogue):
    sids, distances, num_codes = catalogue
    groups = {tuple(p): np.flatnonzero((sids[:, :-1] == p).all(axis=1)) for p in sids[:, :-1]}
    if max(map(len, groups.values())) > num_codes:
        return  # the next test's
    resolved, moved = codes.resolve_collisions(sids, distances, codes=num_codes)
    assert resolved.dtype == np.int32
    assert len(np.unique(resolved, axis=0)) == len(sids)
    assert (resolved[:, :-1] == sids[:, :-1]).all()
    assert (moved == (resolved != sids).any(axis=1)).all()
    for group in groups.values():
        moves, cost = best_by_brute_force(sids[group, -1], distances[group])
        gone = group[moved[group]]
        assert len(gone) == moves
        assert distances[gone, resolved[gone, -1]].sum() == pytest.approx(cost)


@settings(max_examples=80, deadline=None)
@given(catalogues(crowded=True))
def test_every_catalogue_ends_one_to_one_within_the_codes(catalogue):
    sids, distances, num_codes = catalogue
    resolved, moved = codes.resolve_collisions(sids, distances, codes=num_codes)
    assert len(np.unique(resolved, axis=0)) == len(sids)
    assert resolved.min() >= 0
    assert resolved.max() < num_codes
    sizes = np.unique(sids[:, :-1], axis=0, return_counts=True)[1]
    assert (resolved.shape[1] == sids.shape[1]) == (sizes.max() <= num_codes)
    assert (moved == (resolved[:, : sids.shape[1]] != sids).any(axis=1)).all()


def test_a_group_above_k_gets_a_further_level_ranked_by_distance():
    # Prefix 0 holds 3 items, K = 2: nobody there moves. Prefix 1 holds 2: resolved in place.
    sids = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]], dtype=np.int32)
    distances = np.array([[0.9, 1], [0.2, 1], [1, 0], [1, 0.1], [1, 0.3]], dtype=np.float32)
    resolved, moved = codes.resolve_collisions(sids, distances, codes=2)
    assert resolved.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert moved.tolist() == [False, False, False, False, True]


def test_more_than_k_items_of_one_sid_get_two_further_levels():
    sids = np.zeros((5, 1), dtype=np.int32)
    distances = np.tile(np.arange(5, dtype=np.float32)[:, None], (1, 2))
    resolved, _ = codes.resolve_collisions(sids, distances, codes=2)
    assert resolved.tolist() == [[0, *map(int, f"{rank:03b}")] for rank in range(5)]


@pytest.mark.parametrize(
    ("sids", "shape", "message"),
    [
        ([[0, 1]], (2, 4), r"\[1, 4\], found \[2, 4\]"),
        ([[0, 4]], (1, 4), r"codes in \[0, 4\], expected \[0, 4\)"),
        ([[0.0, 1.0]], (1, 4), "expected int"),
    ],
)
def test_what_does_not_fit_is_refused(sids, shape, message):
    with pytest.raises(ValueError, match=message):
        codes.resolve_collisions(np.array(sids), np.zeros(shape, dtype=np.float32), codes=4)
    with pytest.raises(ValueError, match="NaN"):
        bad = np.full((1, 2), np.nan, dtype=np.float32)
        codes.resolve_collisions(np.array([[0, 0]], dtype=np.int32), bad, codes=2)
