"""Batches: the budget, each example once, seeds and epochs, several processes, right padding."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from genrec.lm.batch import IGNORED
from genrec.lm.sampler import Collator, TokenBudgetSampler

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


@given(lengths=lengths, budget=st.integers(16, 300), seed=st.integers(0, 3))
def test_every_example_once_within_the_budget(lengths, budget, seed):
    sampler = TokenBudgetSampler(lengths, budget, seed=seed)
    for number in (0, 1, 2):
        batches = epoch(sampler, number)
        assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
        assert len(batches) == len(sampler), "Trainer plans its steps by this"
        for rows in batches:
            longest = max(lengths[row] for row in rows)
            assert len(rows) == 1 or len(rows) * longest <= budget


def test_batches_by_hand():
    # Classes of 8 tokens: 1, 1, 1, 2, 2, 4; a budget of 24 holds 3 x 8, then 1 x 16, then 1 x 32.
    sampler = TokenBudgetSampler([3, 30, 8, 9, 1, 16], 24, shuffle=False)
    assert list(sampler) == [[0, 2, 4], [3], [5], [1]]


def test_epochs_differ_and_repeat():
    sampler = TokenBudgetSampler(np.arange(1, 200) % 40 + 1, 200, seed=4)
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    assert first != second
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}
    assert epoch(sampler, 0) == first
    assert epoch(TokenBudgetSampler(np.arange(1, 200) % 40 + 1, 200, seed=5), 0) != first


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch(processes):
    sizes = np.random.default_rng(0).integers(1, 40, 50)
    whole = epoch(TokenBudgetSampler(sizes, 128, seed=1), 2)
    shares = [
        epoch(TokenBudgetSampler(sizes, 128, seed=1, rank=rank, processes=processes), 2)
        for rank in range(processes)
    ]
    for rows, *parts in zip(whole, *shares, strict=True):
        together = [row for part in parts for row in part]
        assert all(parts), "a process without rows would leave the others waiting"
        assert set(together) == set(rows)
        assert len(together) == max(len(rows), processes)


@pytest.mark.parametrize(("rows", "processes"), [(1, 2), (2, 3), (3, 4), (4, 8)])
def test_more_processes_than_rows_leave_the_mean_as_it_is(rows, processes):
    """Every row counts equally often over all processes, each of which has as many."""
    shares = [
        epoch(TokenBudgetSampler([8] * rows, 8 * rows, rank=rank, processes=processes), 0)
        for rank in range(processes)
    ]
    (parts,) = zip(*shares, strict=True)
    assert len({len(part) for part in parts}) == 1
    times = np.bincount([row for part in parts for row in part], minlength=rows)
    assert set(times) == {np.lcm(rows, processes) // rows}


def test_batches_are_of_like_length():
    sizes = np.random.default_rng(0).integers(1, 200, 2000)
    padded = real = 0
    for rows in TokenBudgetSampler(sizes, 2048):
        padded += len(rows) * sizes[rows].max()
        real += sizes[rows].sum()
    assert real / padded > 0.9


def test_the_collator_pads_on_the_right():
    rows = [
        {"input_ids": [5, 6], "labels": [IGNORED, 6], "task": "b"},
        {"input_ids": [7], "labels": [7], "task": "a"},
    ]
    batch = {name: t.tolist() for name, t in Collator(9, ["a", "b"])(rows).items()}
    assert batch == {
        "input_ids": [[5, 6], [7, 9]],
        "labels": [[IGNORED, 6], [IGNORED, IGNORED]],  # before a first token stands nothing
        "attention_mask": [[1, 1], [1, 0]],
        "tasks": [[1, 1], [0, 0]],
    }
