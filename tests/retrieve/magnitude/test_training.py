"""What chooses an epoch: the arithmetic by hand, and that it is the epoch that stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genrec.ranking import RankedLists
from genrec.retrieve.magnitude import Magnitude
from genrec.retrieve.magnitude.training import hold_out, text_measure, together
from genrec.retrieve.sequences import Validation


def test_text_measure_by_hand() -> None:
    """Found on places 1 and 3, and not at all: (1 + 1/2 + 0) / 3."""
    lists = np.full((3, 10), -1, dtype=np.int32)
    lists[0, :2], lists[1, :3], lists[2, :2] = [4, 2], [1, 0, 7], [8, 9]

    def search(texts: Any) -> RankedLists:
        return RankedLists(lists[: len(texts)], np.zeros((len(texts), 10), np.float32))

    assert text_measure(search, np.ones((3, 2)), np.array([4, 7, 5]))() == pytest.approx(0.5)
    nothing = text_measure(search, np.ones((3, 2)), np.array([3, 3, 3]))
    assert nothing() == pytest.approx(1 / 3)  # of one in three found, not of none


def test_together_is_the_geometric_mean() -> None:
    assert together([lambda: 0.1, lambda: 0.8, lambda: 0.1]) == pytest.approx(0.2)
    assert together([lambda: 0.3]) == 0.3


def test_held_out_texts_are_others() -> None:
    texts, items = np.arange(20, dtype="f4")[:, None], np.arange(20) % 7
    train, held = hold_out({"wish": (texts, items)}, 0.25, seed=0)
    (a, about_a), (b, about_b) = train["wish"], held["wish"]
    assert len(b) == 5
    assert sorted(np.concatenate([a, b])[:, 0]) == list(range(20))
    assert (about_a == a[:, 0] % 7).all()
    assert (about_b == b[:, 0] % 7).all()
    again, other = (hold_out({"wish": (texts, items)}, 0.25, seed=s)[1]["wish"][0] for s in (0, 1))
    assert (again == b).all()
    assert not np.array_equal(other, b)
    train, held = hold_out({"wish": (texts, items)}, 0.0, seed=0)
    assert len(train["wish"][0]) == 20
    assert held == {}


def test_the_setting_holds_texts_out_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "genrec.retrieve.magnitude.retriever.PairTrainer.__init__",
        lambda self, net, features, flat, texts, settings, *, seed: given.update(texts),
    )
    text = np.eye(8, dtype="f4")
    model = Magnitude(held_out=0.25, epochs=1, device="cpu")
    with pytest.raises(AttributeError):  # what trains was taken out
        model.fit([[0, 1]], num_items=8, features={"text": text}, queries={"t": (text, range(8))})
    assert len(given["t"][1]) == 6


@pytest.mark.parametrize("histories", [True, False])
def test_texts_choose_the_epoch_too(histories: bool) -> None:
    """Titles are found at once, wishes are learned late: they stop the fit at another epoch."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(40, 12)).astype("f4")
    sequences = [rng.choice(40, size=4, replace=False) for _ in range(60)]
    valid = Validation([s[:3] for s in sequences], np.array([s[3] for s in sequences]))
    wishes = (text[:, ::-1] + rng.normal(size=text.shape, scale=0.2)).astype("f4"), np.arange(40)
    train, away = hold_out({"wish": wishes}, 0.25, seed=1)
    held = away | {"title": (text, np.arange(40))}
    model = Magnitude(dim=12, epochs=15, patience=15, batch_size=32, lr=0.02, device="cpu").fit(
        [s[:3] for s in sequences],
        num_items=40,
        features={"text": text},
        queries=train,
        valid=valid if histories else None,
        valid_queries=held,
    )

    def ndcg(items: np.ndarray, targets: np.ndarray) -> float:
        hits = items == np.asarray(targets)[:, None]
        return float((hits / np.log2(np.arange(10) + 2)).sum(axis=1).mean())

    found = [ndcg(model.search(vectors, k=10).items, about) for vectors, about in held.values()]
    if histories:
        found.append(ndcg(model.recommend(valid.histories, k=10).items, valid.targets))
    best = max(row["valid"] for row in model.log_)
    assert np.prod(found) ** (1 / len(found)) == pytest.approx(best)
    assert model.log_[0]["valid"] < best


def test_bad_texts_are_named() -> None:
    text = np.eye(4, dtype="f4")
    with pytest.raises(ValueError, match=r"queries\['wish'\], row 0: item 4"):
        Magnitude(epochs=1, device="cpu").fit(
            [[0, 1]],
            num_items=4,
            features={"text": text},
            valid_queries={"wish": (text[:1], np.array([4]))},
        )
