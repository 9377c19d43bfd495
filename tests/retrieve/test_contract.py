"""One contract for every retriever, those of other packages that are installed too.

Each gets toy sequences, and what its settings ask for: views, texts, validation users.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec import registry, schema
from genrec.ranking import RankedLists
from genrec.retrieve import Retriever, Validation, open_retriever, sequences
from genrec.retrieve.settings import VIEWS

N = 12  # item 11 has no interaction, item 10 no views
KINDS = list(registry.parts("retrievers"))
SMALL = {"epochs": 2, "dim": 4, "heads": 2, "batch_size": 8, "candidates": 6, "hard": 3}
HISTORIES: list[list[int]] = [[], [0, 0, 5], [11], [3, 1, 4, 1], list(range(N)), [0] * 200]


def toy(users: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, N - 1, size=rng.integers(2, 7)).tolist() for _ in range(users)]


def make(kind: str, **options: Any) -> Retriever[Any]:
    settings = registry.parts("retrievers")[kind]
    small = {name: value for name, value in SMALL.items() if name in settings.model_fields}
    return registry.implementation(settings)(**small, device="cpu", **options)


def fit(
    retriever: Retriever[Any], train: list[list[int]], num_items: int = N, **extra: Any
) -> Retriever[Any]:
    settings, rng = retriever.settings, np.random.default_rng(1)
    if settings.wanted_views(VIEWS):
        views = {name: rng.normal(size=(num_items, 6)).astype("f4") for name in VIEWS}
        if num_items > 10:
            for view in views.values():
                view[10] = 0
        extra = {"features": {n: views[n] for n in settings.wanted_views(VIEWS)}} | extra
        if names := settings.texts():
            queries = {n: (views["text"][:2], np.arange(min(2, num_items))) for n in names}
            extra = {"queries": queries} | extra
    if settings.learns and "valid" not in extra:
        extra["valid"] = Validation([s[:-1] for s in train], np.array([s[-1] for s in train]))
    return retriever.fit(train, num_items=num_items, **extra)


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(kind: str) -> Retriever[Any]:
    return fit(make(kind), toy())


def same(a: RankedLists, b: RankedLists) -> None:
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_the_class_is_that_of_its_settings(kind: str) -> None:
    settings = registry.parts("retrievers")[kind]
    retriever = make(kind)
    assert isinstance(retriever, Retriever)
    assert (retriever.kind, retriever.settings_class) == (kind, settings)
    assert settings.__doc__, "`genrec list` shows its first line"
    takes = inspect.signature(type(retriever).fit).parameters
    assert ("valid" in takes) == settings.learns
    assert ("features" in takes) == bool(settings().wanted_views(VIEWS))
    assert ("queries" in takes) == bool(settings().texts())
    assert ("embed" in settings().reads) == ("features" in takes)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 5, N + 3])
def test_lists_hold_every_item_once_and_nothing_seen(
    fitted: Retriever[Any], k: int, exclude_seen: bool
) -> None:
    lists = fitted.recommend(HISTORIES, k=k, exclude_seen=exclude_seen)
    assert lists.items.shape == lists.scores.shape == (len(HISTORIES), k)
    assert (lists.items.dtype, lists.scores.dtype) == (np.int32, np.float32)
    for history, items, scores in zip(HISTORIES, lists.items, lists.scores, strict=True):
        seen = set(history) if exclude_seen else set()
        listed = items[items >= 0]
        assert len(set(listed)) == len(listed) == min(k, N - len(seen))
        assert not seen & set(listed.tolist())
        assert (items[len(listed) :] == -1).all()
        assert np.isneginf(scores[len(listed) :]).all()
        assert np.isfinite(scores[: len(listed)]).all()
        assert (np.diff(scores[: len(listed)]) <= 0).all()


def test_ties_follow_one_rule(fitted: Retriever[Any]) -> None:
    """Equal scores by item number, or by popularity and then item number."""
    counts = np.bincount(np.concatenate(toy()), minlength=N)
    lists = fitted.recommend(HISTORIES, k=N)
    rules = []
    for key in (lambda i: i, lambda i: (-counts[i], i)):
        rules.append(True)
        for items, scores in zip(lists.items.tolist(), lists.scores.tolist(), strict=True):
            for value in set(scores) - {-np.inf}:
                tied = [i for i, s in zip(items, scores, strict=True) if s == value]
                rules[-1] &= tied == sorted(tied, key=key)
    assert any(rules)


def test_lists_become_a_table(fitted: Retriever[Any]) -> None:
    lists = fitted.recommend(HISTORIES, k=4)
    table = schema.check(lists.to_table(range(len(HISTORIES))), schema.RECOMMENDATIONS, "test")
    assert table["item"].to_list() == lists.items[lists.valid].tolist()


def test_company_in_a_batch_changes_no_list(
    fitted: Retriever[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = fitted.recommend(HISTORIES, k=N)
    monkeypatch.setattr(sequences, "_MAX_CELLS", N)  # one user at a time
    alone = fitted.recommend(HISTORIES, k=N)
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-5)


def test_no_users_no_rows(fitted: Retriever[Any]) -> None:
    assert fitted.recommend([], k=3).items.shape == (0, 3)


def test_saved_and_loaded_it_ranks_the_same(fitted: Retriever[Any], tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    loaded = open_retriever(tmp_path / "a")
    same(fitted.recommend(HISTORIES, k=N), loaded.recommend(HISTORIES, k=N))
    assert (loaded.settings, loaded.seed, loaded.log_) == (
        fitted.settings,
        fitted.seed,
        fitted.log_,
    )
    loaded.save(tmp_path / "b")
    for name in ("retriever.json", "arrays.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_seed_decides_all_and_the_callers_chance_stays(kind: str) -> None:
    import torch

    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first = fit(make(kind), toy()).recommend(HISTORIES, k=N)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    same(first, fit(make(kind), toy()).recommend(HISTORIES, k=N))
    other = fit(make(kind, seed=1), toy()).recommend(HISTORIES, k=N)
    assert np.array_equal(first.scores, other.scores) != make(kind).settings.learns


def test_an_epoch_is_chosen_where_it_learns(fitted: Retriever[Any]) -> None:
    assert [set(epoch) for epoch in fitted.log_] == [{"loss", "valid"}] * 2 * fitted.settings.learns


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda new, old: new.recommend([[0]], k=3), "not fitted"),
        (lambda new, old: new.save("anywhere"), "not fitted"),
        (lambda new, old: fit(new, [[0], [1, N]]), rf"sequence 1: item {N} .* 0\.\.{N - 1}"),
        (lambda new, old: fit(new, [[0], [-1, 2]]), "item -1"),
        (lambda new, old: old.recommend([[0]], k=0), "k is 0"),
        (lambda new, old: old.recommend([[0], [N]], k=1), f"sequence 1: item {N} is unknown"),
        (lambda new, old: old.recommend([[-1]], k=1), "sequence 0: item -1"),
        (lambda new, old: type(new)(no_such_option=1), "there is no 'no_such_option'"),
    ],
)
def test_bad_calls_say_what_is_wrong(
    kind: str,
    fitted: Retriever[Any],
    call: Callable[[Retriever[Any], Retriever[Any]], object],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        call(make(kind), fitted)


@pytest.mark.parametrize(("train", "num_items"), [([[0]], 1), ([[0, 1, 0]], 3), ([[], []], 3)])
def test_smallest_worlds_give_lists_or_say_why_not(
    kind: str, train: list[list[int]], num_items: int
) -> None:
    """One user, one item, nothing at all; without validation users, for there are none to be had."""
    retriever = make(kind)
    try:
        fit(retriever, train, num_items, **({"valid": None} if retriever.settings.learns else {}))
    except ValueError as error:
        if not re.search("expected|nothing to learn", str(error)):
            raise
        return
    lists = retriever.recommend([[], [0]], k=num_items + 1)
    assert lists.valid.sum(axis=1).tolist() == [num_items, num_items - 1]
