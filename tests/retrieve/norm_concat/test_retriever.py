from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve import Popular
from genrec.retrieve.lightgcn import history_block, item_degrees, normalised_graph
from genrec.retrieve.norm_concat import model as norm_concat_model
from genrec.retrieve.norm_concat.model import hard_info_nce, joined
from genrec.retrieve.norm_concat.retriever import NormConcat
from genrec.retrieve.sequences import Validation
from genrec.retrieve.views import unit_rows

NUM_ITEMS, GROUPS, COLD = 25, 4, 24  # items 0..23 are of group i % 4; 24 is never seen
SMALL: dict[str, Any] = {
    "dim": 8,
    "batch_size": 64,
    "lr": 2e-2,
    "candidates": 20,
    "hard": 10,
    "device": "cpu",
}


def worlds(users: int, seed: int) -> list[np.ndarray]:
    """A user picks 3 to 5 items of one group."""
    rng = np.random.default_rng(seed)
    found = []
    for user in range(users):
        items = np.arange(user % GROUPS, 24, GROUPS)
        found.append(rng.permutation(items)[: rng.integers(3, 6)])
    return found


def texts() -> dict[str, np.ndarray]:
    """The first numbers say the group, the others are noise; item 24 is of group 0, item 7 has none."""
    rng = np.random.default_rng(9)
    array = rng.normal(size=(NUM_ITEMS, 10)).astype(np.float32)
    array[np.arange(NUM_ITEMS), np.arange(NUM_ITEMS) % GROUPS] += 4
    array[7] = 0
    return {"text": array}


@pytest.fixture(scope="module")
def fitted() -> NormConcat:
    valid = worlds(40, seed=1)
    return NormConcat(epochs=8, **SMALL).fit(
        worlds(80, seed=0),
        num_items=NUM_ITEMS,
        features=texts(),
        valid=Validation([v[:-1] for v in valid], np.array([v[-1] for v in valid])),
    )


PUBLISHED = {"user_vectors": "trained", "leave_out": False}


@pytest.mark.parametrize("changed", [{}, {"user_vectors": "trained"}, PUBLISHED])
def test_it_learns_the_groups_and_beats_popular(changed: Mapping[str, Any]) -> None:
    train = worlds(80, seed=0)
    made = NormConcat(epochs=8, **SMALL, **changed).fit(
        train, num_items=NUM_ITEMS, features=texts()
    )
    histories = [h[:2] for h in worlds(100, seed=2)]
    group = np.array([h[0] % GROUPS for h in histories])

    def right(items: np.ndarray) -> float:
        return float((items % GROUPS == group[:, None]).mean())

    assert right(made.recommend(histories, k=3).items) > 0.95
    popular = Popular().fit(train, num_items=NUM_ITEMS)
    assert right(popular.recommend(histories, k=3).items) < 0.5
    assert made.log_[-1]["loss"] < made.log_[0]["loss"]


def test_a_score_is_half_the_sum_of_two_cosines(fitted: NormConcat) -> None:
    history = [1, 5]
    lists = fitted.recommend([history], k=NUM_ITEMS, exclude_seen=False)
    have = fitted.arrays_
    weight = 1 / np.sqrt(2 * have["degrees"][history])
    collaborative = weight @ have["history"][history]
    mean = unit_rows(have["texts"][history].sum(axis=0, keepdims=True))[0]
    semantic = have["weight"] @ mean + have["bias"]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for item, score in zip(lists.items[0], lists.scores[0], strict=True):
        left, right = np.split(have["items"][item], 2)
        if item == COLD:  # no interactions: text alone, over the user's joint length
            assert not left.any()
            assert score == pytest.approx(cosine(semantic, right) / 2**0.5, abs=1e-5)
        elif item == 7:  # no text
            assert not right.any()
            assert score == pytest.approx(cosine(collaborative, left) / 2**0.5, abs=1e-5)
        else:
            both = cosine(collaborative, left) + cosine(semantic, right)
            assert score == pytest.approx(both / 2, abs=1e-5)


def test_a_cold_item_is_found_by_its_text(fitted: NormConcat) -> None:
    items = fitted.recommend([[0, 4, 8], [1, 5]], k=NUM_ITEMS).items
    assert list(items[0]).index(COLD) < 4
    assert list(items[1]).index(COLD) > 4


def test_an_empty_history_is_no_tie(fitted: NormConcat) -> None:
    scores = fitted.recommend([[]], k=NUM_ITEMS).scores
    assert scores[0].max() > scores[0].min()


def test_histories_make_the_users_that_training_used() -> None:
    """One epoch at lr 0 from the same seed: a training user's vector is made from the history."""
    train = worlds(30, seed=0)
    made = NormConcat(epochs=1, **{**SMALL, "lr": 1e-30}).fit(
        train, num_items=NUM_ITEMS, features=texts()
    )
    degrees = item_degrees(train, NUM_ITEMS)
    buffers = {
        "graph": normalised_graph(train, NUM_ITEMS),
        "block": history_block(train, degrees),
        "texts": torch.from_numpy(made.arrays_["texts"]),
        "warm": torch.from_numpy(degrees > 0).float()[:, None],
    }
    torch.manual_seed(0)
    network = norm_concat_model.Network(buffers, dim=8, trained_users=False)
    with torch.no_grad():
        found = network(2)
        again = torch.sparse.mm(buffers["block"], found.history)
    torch.testing.assert_close(found.users, again)
    np.testing.assert_allclose(found.history.numpy(), made.arrays_["history"], atol=1e-6)


@pytest.mark.parametrize("leave_out", [True, False])
def test_a_training_user_is_the_history_without_the_answer(leave_out: bool) -> None:
    made = NormConcat(epochs=1, leave_out=leave_out, **SMALL)
    kept: list[Any] = []
    training = made._training_users
    made._training_users = lambda *a: (kept.append(a), training(*a))[1]  # type: ignore[method-assign]
    made.fit([[1, 5, 5, 9], [7, 3, 0], [2], [13, 1]], num_items=NUM_ITEMS, features=texts())
    network, _, matrix, user, item = kept[-1]
    with torch.no_grad():
        found = training(network, network(made.settings.layers), matrix, user, item).numpy()
    whole = [[1, 5, 9], [7, 3, 0], [2], [13, 1]]
    histories = [
        [i for i in whole[u] if not (leave_out and i == answer)]
        for u, answer in zip(user, item, strict=True)
    ]
    mean = made.arrays_.pop("mean_user")
    np.testing.assert_allclose(found, made._users(histories), atol=1e-5)
    assert [] in histories or not leave_out  # the second user's only item: nothing is left of it
    np.testing.assert_allclose(mean, made._users(whole).mean(axis=0), atol=1e-6)


def test_hard_info_nce_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 1, 2, 3, 0; positive 1; candidates 0, 2, 3 and the positive itself, which is left out.

    The two hardest are 2 and 0: loss = -2 + ln(e^2 + e^3 + e^1), tau = 1.
    """
    users, items = torch.tensor([[1.0]]), torch.tensor([[1.0], [2.0], [3.0], [0.0]])
    positive, candidates = torch.tensor([1]), torch.tensor([[0, 1, 2, 3]])
    found = hard_info_nce(users, items, positive, candidates, hard=2, temperature=1.0)
    expected = -2 + np.log(np.exp(2) + np.exp(3) + np.exp(1))
    assert float(found) == pytest.approx(expected)

    torch.manual_seed(0)
    users, items = torch.randn(9, 3), torch.randn(6, 3)
    positive, candidates = torch.randint(6, (9,)), torch.randint(6, (9, 4))
    whole = hard_info_nce(users, items, positive, candidates, hard=3, temperature=0.2)
    monkeypatch.setattr(norm_concat_model, "_MAX_CELLS", 12)  # two rows at a time
    parts = hard_info_nce(users, items, positive, candidates, hard=3, temperature=0.2)
    torch.testing.assert_close(whole, parts)


def test_joined_by_hand() -> None:
    found = joined(torch.tensor([[3.0, 4], [0, 0]]), torch.tensor([[0.0, 2], [0, 2]]))
    half = 0.5**0.5
    torch.testing.assert_close(
        found, torch.tensor([[0.6 * half, 0.8 * half, 0, half], [0, 0, 0, 1]])
    )


def with_nan() -> dict[str, np.ndarray]:
    found = texts()
    found["text"][3, 2] = np.nan
    return found


def fit(retriever: NormConcat, **changed: object) -> NormConcat:
    given: dict[str, Any] = {
        "sequences": [[0, 1]],
        "num_items": NUM_ITEMS,
        "features": texts(),
        **changed,
    }
    return retriever.fit(given.pop("sequences"), **given)


def test_a_fit_that_failed_is_none() -> None:
    made = NormConcat(epochs=1, **SMALL)
    with pytest.raises(ValueError, match="1 histories and 2 targets"):
        fit(made, valid=Validation([[0]], np.array([1, 2])))
    with pytest.raises(ValueError, match="not fitted"):
        made.recommend([[0]], k=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: fit(r, features=with_nan()), r"'text'.: item 3 holds NaN"),
        (lambda r: fit(r, features={"image": texts()["text"]}), "wants the view 'text'"),
        (lambda r: fit(r, num_items=9), r"shape \(25, 10\); expected \(9, D\)"),
        (lambda r: fit(r, sequences=[[], []]), "no training interactions"),
        (lambda r: NormConcat(hard=9, candidates=8), "too many"),
    ],
)
def test_bad_calls_say_what_is_wrong(call: Callable[[NormConcat], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(NormConcat(epochs=1, **SMALL))
