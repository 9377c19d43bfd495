from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrec.retrieve import Popular, sasrec
from genrec.retrieve.learning import seeded, target_measure, torch_device
from genrec.retrieve.sasrec import IGNORED, SASRec, by_length, full_cross_entropy, windows_of
from genrec.retrieve.sequences import Sequences, Validation

NUM_ITEMS, COLD = 22, 21  # items 0..19 are walked, 20 is never seen, nor is 21
NEXT = np.random.default_rng(1).permutation(20)
SMALL: dict[str, Any] = {
    "dim": 16,
    "heads": 2,
    "dropout": 0.1,
    "batch_size": 16,
    "lr": 1e-2,
    "device": "cpu",
}


def walks(users: int, seed: int) -> list[np.ndarray]:
    """The next item is NEXT of the last one, nine times of ten."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(users):
        walk = [int(rng.integers(20))]
        for _ in range(rng.integers(1, 8)):
            walk.append(int(NEXT[walk[-1]] if rng.random() < 0.9 else rng.integers(20)))
        found.append(np.array(walk))
    return found


@pytest.fixture(scope="module")
def fitted() -> SASRec:
    valid = walks(60, seed=1)
    return SASRec(epochs=10, max_length=5, **SMALL).fit(
        walks(120, seed=0),
        num_items=NUM_ITEMS,
        valid=Validation([w[:-1] for w in valid], np.array([w[-1] for w in valid])),
    )


def hits(items: np.ndarray, histories: list[np.ndarray]) -> float:
    return float(np.mean([row[0] == NEXT[h[-1]] for row, h in zip(items, histories, strict=True)]))


def test_it_learns_what_follows_what_and_beats_popular(fitted: SASRec) -> None:
    histories = walks(200, seed=2)
    found = fitted.recommend(histories, k=3, exclude_seen=False).items
    popular = Popular().fit(walks(120, seed=0), num_items=NUM_ITEMS)
    baseline = popular.recommend(histories, k=3, exclude_seen=False).items
    assert hits(found, histories) > 0.9
    assert hits(baseline, histories) < 0.2
    assert fitted.log_[-1]["loss"] < fitted.log_[0]["loss"]


def test_cold_items_are_scored_too(fitted: SASRec) -> None:
    lists = fitted.recommend([[], list(range(20))], k=NUM_ITEMS)
    assert sorted(lists.items[0]) == list(range(NUM_ITEMS))
    assert sorted(lists.items[1][:2]) == [20, COLD]


def test_only_the_newest_items_are_read(fitted: SASRec) -> None:
    long = [[9, 9, 9, 1, 2, 3, 4, 5], [8, 7, 1, 2, 3, 4, 5]]
    scores = fitted.recommend(long, k=NUM_ITEMS, exclude_seen=False).scores
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)


def test_company_in_a_batch_changes_nothing(
    fitted: SASRec, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = walks(30, seed=3)
    together = fitted.recommend(histories, k=NUM_ITEMS)
    alone = [fitted.recommend([h], k=NUM_ITEMS) for h in histories]
    np.testing.assert_allclose(
        together.scores, np.concatenate([a.scores for a in alone]), atol=1e-4
    )
    monkeypatch.setattr(sasrec, "_MAX_ROWS", 3)
    pieces = fitted.recommend(histories, k=NUM_ITEMS)
    np.testing.assert_allclose(together.scores, pieces.scores, atol=1e-4)


def test_a_state_sees_no_later_item(fitted: SASRec) -> None:
    one, other = torch.tensor([[NUM_ITEMS, 1, 2, 3]]), torch.tensor([[NUM_ITEMS, 1, 5, 6]])
    with torch.no_grad():
        a, b = fitted.network_(one), fitted.network_(other)
    torch.testing.assert_close(a[:, :2], b[:, :2])
    assert not torch.allclose(a[:, 2], b[:, 2])


def test_a_block_is_the_authors_in_numpy() -> None:
    """Q from the normalised state, K and V from the state itself; residuals carry the normalised one."""
    torch.manual_seed(0)
    block = sasrec._Block(4, 2, 0.0).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    p = {name: value.detach().numpy() for name, value in block.named_parameters()}
    x = np.random.default_rng(0).normal(size=(3, 4))

    def norm(v: np.ndarray, name: str) -> np.ndarray:
        spread = np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)
        return (v - v.mean(axis=1, keepdims=True)) / spread * p[f"{name}.weight"] + p[
            f"{name}.bias"
        ]

    first = norm(x, "before")
    weights = np.split(p["attention.in_proj_weight"], 3)
    biases = np.split(p["attention.in_proj_bias"], 3)
    q, k, v = (a @ w.T + b for a, w, b in zip((first, x, x), weights, biases, strict=True))
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        logits = q[:, part] @ k[:, part].T / np.sqrt(2)
        e = np.exp(logits) * np.tri(3)
        heads.append(e / e.sum(axis=1, keepdims=True) @ v[:, part])
    seen = np.concatenate(heads, axis=1) @ p["attention.out_proj.weight"].T
    second = norm(first + seen + p["attention.out_proj.bias"], "between")
    hidden = np.maximum(second @ p["feed_forward.0.weight"].T + p["feed_forward.0.bias"], 0)
    expected = second + hidden @ p["feed_forward.3.weight"].T + p["feed_forward.3.bias"]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(3)
    found = block(torch.from_numpy(x).float()[None], mask)[0]
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_windows_make_every_item_a_target_once() -> None:
    """Length 8, windows of 3: from the newest back; the first label of a later window is ignored."""
    found = windows_of(np.arange(10, 18), 3, start=99)
    assert [w.inputs.tolist() for w in found] == [
        [99, 14, 15, 16],
        [99, 11, 12, 13],
        [99, 10],
    ]
    assert [w.labels.tolist() for w in found] == [
        [IGNORED, 15, 16, 17],
        [IGNORED, 12, 13, 14],
        [10, 11],
    ]
    assert windows_of(np.arange(0), 3, start=99) == []
    for length in range(1, 20):
        labels = np.concatenate([w.labels for w in windows_of(np.arange(length), 4, start=99)])
        assert sorted(labels[labels >= 0]) == list(range(length))


def test_batches_hold_every_window_once_at_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, size=100)
    found = list(by_length(lengths, 8, np.random.default_rng(1)))
    assert sorted(np.concatenate(found)) == list(range(100))
    assert {len(batch) for batch in found} == {8, 4}
    assert np.mean([np.ptp(lengths[batch]) for batch in found]) < 8
    again = list(by_length(lengths, 8, np.random.default_rng(2)))
    assert [sorted(b) for b in again] != [sorted(b) for b in found]


def test_chunked_cross_entropy_is_the_plain_one() -> None:
    torch.manual_seed(0)
    states, items = torch.randn(7, 4), torch.randn(5, 4)
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    gradients = []
    for max_cells in (1000, 10, 1):
        a, b = states.clone().requires_grad_(), items.clone().requires_grad_()
        loss = full_cross_entropy(a, b, labels, max_cells=max_cells)
        torch.testing.assert_close(loss, F.cross_entropy(states @ items.T, labels))
        loss.backward()
        gradients.append((a.grad, b.grad))
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0])


def test_the_best_epoch_stays_and_patience_ends_the_fit() -> None:
    """A target that the lists never hold: no epoch after the first gains."""
    valid = Validation([np.array([1])], np.array([1]))  # masked, so NDCG is 0 for ever
    made = SASRec(epochs=9, patience=2, max_length=5, **SMALL).fit(
        walks(20, seed=0), num_items=NUM_ITEMS, valid=valid
    )
    assert [row["valid"] for row in made.log_] == [0, 0, 0]


def test_target_measure_by_hand() -> None:
    """Places: user 0's target 2 ties with item 3 and stands first of both, behind item 0: place 2.

    User 1 has seen items 0 and 1, so its target 3 stands behind item 2: place 2. User 2: place 4.
    """
    scores = torch.tensor([[4.0, 1, 3, 3], [9, 8, 2, 1], [3, 2, 1, 0]])
    valid = Validation(
        [np.array([], int), np.array([0, 1]), np.array([], int)], np.array([2, 3, 3])
    )
    measure = target_measure(lambda _: scores.clone(), valid, num_items=4, users=9, seed=0, k=3)
    assert measure() == pytest.approx(2 / np.log2(3) / 3)
    recall = target_measure(
        lambda _: scores.clone(), valid, num_items=4, users=9, seed=0, k=3, metric="recall"
    )
    assert recall() == pytest.approx(2 / 3)
    sizes: list[int] = []

    def score(histories: Sequences) -> torch.Tensor:
        sizes.append(len(histories))
        return torch.zeros(len(histories), 4)

    target_measure(score, valid, num_items=4, users=2, seed=0)()
    assert sizes == [2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: r.fit([[0]], num_items=2, valid=Validation([[0]], np.array([1, 1]))),
            "1 histories and 2 targets",
        ),
        (
            lambda r: r.fit([[0]], num_items=2, valid=Validation([[0]], np.array([2]))),
            "item 2 is unknown",
        ),
    ],
)
def test_bad_calls_say_what_is_wrong(call: Callable[[SASRec], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(SASRec(epochs=1, device="cpu"))


def test_collaborative_knows_no_start_token(fitted: SASRec) -> None:
    with pytest.raises(ValueError, match=f"sequence 1: item {NUM_ITEMS} is unknown"):
        fitted.collaborative([[0], [NUM_ITEMS]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 10, "heads": 3}, "no multiple"),
        ({"dropout": 1.0}, "dropout"),
        ({"lr": 0}, "lr is 0"),
        ({"max_length": 0}, "max_length is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SASRec(**wrong)


def test_devices() -> None:
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="expected 'auto'"):
        torch_device("tpu")
    if not torch.cuda.is_available():
        assert torch_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="sees no GPU"):
            torch_device("cuda")
    with seeded(3, torch.device("cpu")):
        a = torch.rand(1)
    with seeded(3, torch.device("cpu")):
        assert a == torch.rand(1)
