"""Filtered lists equal brute force on the eligible subset, in every form a filter may have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from genrec.decode.filters import Eligibility
from genrec.sid.trie import SIDTrie

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subsets(setup):
    """Per user: the allowed items (many, few, one, none) and the excluded ones."""
    rng, items = np.random.default_rng(5), len(setup.codes)
    allowed = [set(rng.choice(items, n, replace=False).tolist()) for n in (40, 9, 1, 0)]
    exclude = [set(rng.choice(items, n, replace=False).tolist()) for n in (30, 0, 20, 50)]
    return allowed, exclude


def as_mask(sets, items):
    mask = np.zeros((len(sets), items), dtype=bool)
    for row, members in enumerate(sets):
        mask[row, list(members)] = True
    return mask


def check(setup, make, out, eligible, width):
    """Every list is of eligible items with the oracle's scores; certified ones are the best."""
    for user, members in enumerate(eligible):
        found = out.items[user][out.valid[user]].tolist()
        assert set(found) <= members
        if width >= len(setup.codes) or out.exact[user]:
            assert found == make.expected(setup.scores[user], setup.codes, width, members)
        else:  # no beam dies in a dead end, so there are never fewer than on the first level
            assert len(found) >= min(width, len({setup.codes[i, 0] for i in members}))
        scores = out.scores[user][out.valid[user]]
        torch.testing.assert_close(scores, setup.scores[user][found], atol=1e-4, rtol=0)


@pytest.mark.parametrize("width", [1, 4, 60])
@pytest.mark.parametrize("form", ["mask", "tensor", "lists", "arrays", "sets"])
def test_allowed_per_user(setup, make, subsets, form, width):
    allowed, exclude = subsets
    mask = as_mask(allowed, len(setup.codes))
    given_as = {
        "mask": mask,
        "tensor": torch.from_numpy(mask),
        "lists": [sorted(members, reverse=True) for members in allowed],
        "arrays": [
            torch.tensor(sorted(allowed[0])),
            *(np.array(list(m), int) for m in allowed[1:]),
        ],
        "sets": allowed,
    }[form]
    out = setup.engine.search(setup.ids, setup.mask, num_beams=width, allowed=given_as)
    check(setup, make, out, allowed, width)
    assert not out.valid[3].any()
    assert out.exact[3]

    out = setup.engine.search(
        setup.ids, setup.mask, num_beams=width, allowed=given_as, exclude=exclude
    )
    both = [yes - no for yes, no in zip(allowed, exclude, strict=True)]
    check(setup, make, out, both, width)


@pytest.mark.parametrize("width", [1, 4, 60])
def test_allowed_for_all_and_exclude(setup, make, subsets, width):
    allowed, exclude = subsets
    everything = set(range(len(setup.codes)))
    stock = as_mask(allowed[:1], len(setup.codes))[0]
    search = setup.engine.search

    out = search(setup.ids, setup.mask, num_beams=width, allowed=stock)
    check(setup, make, out, [allowed[0]] * 4, width)
    out = search(setup.ids, setup.mask, num_beams=width, exclude=exclude)
    check(setup, make, out, [everything - no for no in exclude], width)
    out = search(setup.ids, setup.mask, num_beams=width, allowed=stock, exclude=exclude)
    check(setup, make, out, [allowed[0] - no for no in exclude], width)


def test_excluding_one_of_a_shared_sid_keeps_the_others(setup):
    sids = [tuple(row) for row in setup.codes.tolist()]
    shared = next(sid for sid in sids if sids.count(sid) > 1)
    first, *others = [item for item, sid in enumerate(sids) if sid == shared]
    out = setup.engine.search(
        setup.ids, setup.mask, num_beams=60, exclude=[[first], [first, first], [], []]
    )
    assert [first in row for row in out.items.tolist()] == [False, False, True, True]
    assert all(set(others) <= set(row) for row in out.items.tolist())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_counts_equal_sets(data):
    sids = data.draw(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=20))
    trie, n, users = SIDTrie(sids), len(sids), data.draw(st.integers(1, 3))
    members = st.sets(st.integers(0, n - 1))
    allowed = [data.draw(members) for _ in range(users)]
    exclude = data.draw(st.none() | st.just([data.draw(members) for _ in range(users)]))
    form = data.draw(st.sampled_from(["none", "shared", "mask", "lists"]))
    if form == "shared":
        allowed = [allowed[0]] * users
    elif form == "none":
        allowed = [set(range(n))] * users
    mask = as_mask(allowed, n)
    argument = {"none": None, "shared": mask[0], "mask": mask, "lists": allowed}[form]
    found = Eligibility.build(trie, argument, exclude, users=users, device=CPU)
    if found is None:
        assert argument is None
        assert exclude is None
        return
    rows = torch.arange(n + 1)
    for user in range(users):
        eligible = allowed[user] - (exclude[user] if exclude else set())
        expected = [int(item) in eligible for item in trie.row_items]
        where = torch.tensor(user)
        assert found.contains(where, rows[:-1]).tolist() == expected
        assert found.count_before(where, rows).diff().tolist() == [int(e) for e in expected]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"allowed": np.ones(59, bool)}, r"shape \[59\]; expected bool \[60\]"),
        ({"allowed": torch.ones(3, 60, dtype=torch.bool)}, "3 users; expected 1 or 4"),
        ({"allowed": [[1], [2]]}, "2 entries; expected one list of items for each of 4 users"),
        ({"allowed": [1, 2, 3, 4]}, r"allowed\[0\] is int64 of shape \(\)"),
        ({"allowed": [np.ones(60, bool)] * 4}, r"allowed\[0\] is bool"),
        ({"allowed": "abcd"}, "entries"),
        ({"exclude": [[1], None, [2], [3]]}, r"exclude\[1\] is object"),
        ({"exclude": [[1], [], [60], [3]]}, r"exclude\[2\] names item 60; items are 0 to 59"),
        ({"exclude": [[1], [], [-1], [3]]}, r"exclude\[2\] names item -1"),
        ({"exclude": [[1], [], [0.5], [3]]}, r"exclude\[2\] is float64"),
        ({"exclude": np.ones((4, 60), bool)}, r"exclude\[0\] is bool"),
        ({"exclude": 3}, "exclude has int"),
    ],
)
def test_bad_filters(setup, filters, message):
    with pytest.raises(ValueError, match=message):
        setup.engine.search(setup.ids, setup.mask, num_beams=2, **filters)


@pytest.mark.parametrize("width", [4, 60])
def test_a_mask_counted_once_serves_many_requests(setup, make, subsets, width):
    _, exclude = subsets
    mask = np.random.default_rng(3).random(60) < 0.6
    counted = Eligibility.of_mask(SIDTrie(setup.codes), mask)
    for request in ({}, {"exclude": exclude}):
        ours, theirs = (
            setup.engine.search(setup.ids, setup.mask, num_beams=width, allowed=allowed, **request)
            for allowed in (counted, mask)
        )
        assert ours.items.tolist() == theirs.items.tolist()
        assert ours.scores.equal(theirs.scores)
    with pytest.raises(ValueError, match=r"counted for 60 items.* catalogue of 1 items"):
        Eligibility.build(SIDTrie([[0]]), counted, None, users=1, device="cpu")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_filters_of_some_users_are_theirs(data):
    """`take` renumbers users; every user keeps the same eligible items."""
    trie, users = SIDTrie([[i // 3, i % 3] for i in range(12)]), data.draw(st.integers(1, 5))
    subset = st.sets(st.integers(0, 11))
    lists = st.lists(subset, min_size=users, max_size=users)
    allowed, exclude = data.draw(st.none() | lists), data.draw(st.none() | lists)
    if allowed is not None and data.draw(st.booleans()):
        allowed = as_mask(allowed, 12)
    eligible = Eligibility.build(trie, allowed, exclude, users=users, device=CPU)
    if eligible is None:
        return
    some = data.draw(st.permutations(range(users)))[: data.draw(st.integers(1, users))]
    taken, rows = eligible.take(torch.tensor(some)), torch.arange(12).expand(users, -1)
    whole = eligible.contains(torch.arange(users)[:, None], rows)
    part = taken.contains(torch.arange(len(some))[:, None], rows[: len(some)])
    assert part.tolist() == whole[some].tolist()
