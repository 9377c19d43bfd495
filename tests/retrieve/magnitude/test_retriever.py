"""The two-tower retriever: planted structure, the score everywhere the same, disk, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve import Popular
from genrec.retrieve.magnitude.loss import VARIANTS, Variant
from genrec.retrieve.magnitude.retriever import Magnitude
from genrec.retrieve.magnitude.settings import MagnitudeSettings
from genrec.retrieve.magnitude.towers import Towers
from genrec.retrieve.magnitude.training import PairTrainer, check_queries, window
from genrec.retrieve.sequences import Validation, flatten

KINDS, EACH, WIDTH = 6, 8, 12
N = KINDS * EACH


def world(seed: int = 0, users: int = 150) -> dict[str, Any]:
    """Users stay within one kind of item; texts show the kind, each kind's words in its own subspace.

    The kind of a text must be learned to matter: noise shared by all kinds is louder than it.
    """
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(KINDS), EACH)
    text = np.zeros((N, WIDTH), dtype=np.float32)
    text[np.arange(N), kind] = 1.0
    text[:, KINDS:] = 2 * rng.normal(size=(N, WIDTH - KINDS))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    taste = rng.integers(KINDS, size=users)
    sequences = [rng.permutation(np.flatnonzero(kind == t))[:6] for t in taste]
    return {
        "kind": kind,
        "text": text,
        "train": [s[:4] for s in sequences],
        "valid": Validation([s[:4] for s in sequences], np.array([s[4] for s in sequences])),
        "histories": [s[:5] for s in sequences],
        "targets": np.array([s[5] for s in sequences]),
        "taste": taste,
    }


def quick(**settings: Any) -> Magnitude:
    return Magnitude(
        **{"dim": 8, "epochs": 6, "batch_size": 64, "lr": 0.02, "device": "cpu"} | settings
    )


@pytest.fixture(scope="module")
def shop() -> dict[str, Any]:
    return world()


@pytest.fixture(scope="module")
def fitted(shop: dict[str, Any]) -> Magnitude:
    return quick().fit(shop["train"], num_items=N, features={"text": shop["text"]})


def hits(found: Any, targets: np.ndarray) -> float:
    return float((found.items == targets[:, None]).any(axis=1).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_planted_tastes_and_beats_popular(shop: dict[str, Any], variant: Variant) -> None:
    model = quick(variant=variant, epochs=12).fit(
        shop["train"], num_items=N, features={"text": shop["text"]}
    )
    popular = Popular().fit(shop["train"], num_items=N)
    ours = model.recommend(shop["histories"], k=4)
    kinds = (shop["kind"][ours.items[:, :3]] == shop["taste"][:, None]).mean()
    assert kinds > 0.9  # three of a user's kind are unseen
    assert hits(ours, shop["targets"]) > 3 * hits(
        popular.recommend(shop["histories"], k=4), shop["targets"]
    )
    untrained = quick(variant=variant, epochs=1, lr=1e-9).fit(
        shop["train"], num_items=N, features={"text": shop["text"]}
    )
    before = untrained.recommend(shop["histories"], k=4)
    assert (shop["kind"][before.items[:, :3]] == shop["taste"][:, None]).mean() < kinds - 0.2


@pytest.mark.parametrize("variant", VARIANTS)
def test_recommend_search_and_vectors_have_one_score(
    shop: dict[str, Any], variant: Variant
) -> None:
    model = quick(variant=variant, epochs=2).fit(
        shop["train"], num_items=N, features={"text": shop["text"]}
    )
    histories = [[3, 1], [], [5, 9, 2]]
    items = model.item_vectors()
    scores = model.query_vectors(histories) @ items.T
    found = model.recommend(histories, k=N, exclude_seen=False)
    assert np.allclose(np.take_along_axis(scores, found.items, axis=1), found.scores, atol=1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    texts = shop["text"][:3]
    searched = model.search(texts, k=5)
    by_hand = model.query_vectors(texts=texts) @ items.T
    best = np.take_along_axis(by_hand, searched.items, axis=1)
    assert np.allclose(best, searched.scores, atol=1e-5)
    assert np.allclose(best, -np.sort(-by_hand, axis=1)[:, :5], atol=1e-5)
    # The raw vectors, scored as the module scores them in training.
    raw = [
        torch.from_numpy(model.query_vectors(histories, raw=True)),
        torch.from_numpy(model.vectors_),
    ]
    assert np.allclose(model._net.score(*raw).detach().numpy(), scores, atol=1e-5)
    ones = np.allclose(np.linalg.norm(items, axis=1), 1, atol=1e-5)
    assert ones == (variant in ("cosine", "dnorm"))


def test_a_query_by_hand(shop: dict[str, Any]) -> None:
    model = quick(variant="qnorm", recent=3, decay=0.5, epochs=1).fit(
        shop["train"], num_items=N, features={"text": shop["text"]}
    )
    v, net = model.item_vectors(), model._net
    start, head = net.start.detach().numpy(), net.history_head.weight.detach().numpy()
    mean = (
        1 * v[4] + 0.5 * v[7] + 0.25 * v[2] + 0.125 * start
    ) / 1.875  # the oldest, 9, is left out
    query = head @ mean
    expected = query / np.linalg.norm(query)
    assert np.allclose(model.query_vectors([[9, 2, 7, 4]])[0], expected, atol=1e-5)
    assert np.allclose(model.query_vectors([[]], raw=True)[0], head @ start, atol=1e-6)


def test_text_queries_are_learned(shop: dict[str, Any]) -> None:
    """Words of another kind than the documents' own: only training can tie them to items."""
    rng = np.random.default_rng(1)
    secret = rng.permutation(KINDS)
    about = rng.integers(N, size=600)
    words = np.zeros((600, WIDTH), dtype=np.float32)
    words[np.arange(600), secret[shop["kind"][about]]] = 1.0
    asked = np.eye(KINDS, WIDTH, dtype=np.float32)[secret]  # a pure text per kind
    model = quick(epochs=10).fit(
        [], num_items=N, features={"text": shop["text"]}, queries={"interest": (words, about)}
    )
    found = shop["kind"][model.search(asked, k=4).items]
    assert (found == np.arange(KINDS)[:, None]).mean() > 0.9
    deaf = quick(epochs=10).fit(shop["train"], num_items=N, features={"text": shop["text"]})
    found = shop["kind"][deaf.search(asked, k=4).items]
    assert (found == np.arange(KINDS)[:, None]).mean() < 0.6


def test_text_finds_items_without_text_training(fitted: Magnitude, shop: dict[str, Any]) -> None:
    found = shop["kind"][fitted.search(shop["text"], k=3).items]
    assert (found == shop["kind"][:, None]).mean() > 0.8


def test_cold_items_and_missing_views_work(shop: dict[str, Any]) -> None:
    cold = EACH - 1  # of kind 0; taken out of training
    train = [s[s != cold] for s in shop["train"]]
    image = np.random.default_rng(2).normal(size=(N, 5)).astype(np.float32)
    image[::2] = 0
    image[cold] = 0
    views = {"text": shop["text"], "image": image}
    model = quick(hidden=16, item_table=True).fit(train, num_items=N, features=views)
    fans = [s for s, t in zip(train, shop["taste"], strict=True) if t == 0]
    place = (model.recommend(fans, k=N).items == cold).argmax(axis=1)
    assert place.mean() < N / 4
    bare = {"text": np.zeros((N, WIDTH), np.float32), "image": image}
    assert (quick(epochs=1).fit(train, num_items=N, features=bare).vectors_[cold] == 0).all()
    new = model.new_item_vectors({name: view[cold : cold + 1] for name, view in views.items()})
    assert np.allclose(new, model.item_vectors()[cold], atol=1e-5)  # its own vector is still zero


def test_validation_keeps_the_best_epoch(shop: dict[str, Any]) -> None:
    model = quick(epochs=12, patience=2, lr=0.1).fit(
        shop["train"], num_items=N, features={"text": shop["text"]}, valid=shop["valid"]
    )
    best = max(row["valid"] for row in model.log_)
    histories, targets = shop["valid"]
    places = model.recommend(histories, k=10).items == targets[:, None]
    ndcg = (places / np.log2(np.arange(10) + 2)).sum(axis=1).mean()
    assert ndcg == pytest.approx(best, abs=1e-6)


def test_correction_raises_popular_items() -> None:
    rng = np.random.default_rng(0)
    text = np.eye(20, dtype=np.float32)
    popular = rng.choice(20, size=(300, 3), p=np.arange(1, 21) / 210)
    first = {}
    for correction in (0.0, 1.0):
        model = quick(variant="dot", dim=20, epochs=8, popularity_correction=correction)
        model.fit(list(popular), num_items=20, features={"text": text})
        first[correction] = model.recommend([[]], k=5, exclude_seen=False).items.mean()
    assert first[1.0] > 15 > first[0.0]  # item numbers rise with popularity


def test_save_and_load(tmp_path: Path, shop: dict[str, Any]) -> None:
    views = {"text": shop["text"], "image": shop["text"][:, :3]}
    model = quick(hidden=6, item_table=True, epochs=2).fit(
        shop["train"], num_items=N, features=views
    )
    model.save(tmp_path)
    again = Magnitude.load(tmp_path)
    assert (model.search(shop["text"], k=3).items == again.search(shop["text"], k=3).items).all()
    assert again.gammas_ == model.gammas_
    assert (again.log_, again.dims_) == (model.log_, model.dims_)
    new = {name: view[:2] for name, view in views.items()}
    assert (model.new_item_vectors(new) == again.new_item_vectors(new)).all()


def test_no_queries_no_vectors(fitted: Magnitude) -> None:
    assert fitted.query_vectors([]).shape == (0, 8)


def test_window_by_loop() -> None:
    flat = torch.tensor([5, 6, 7, 8, 9])
    near, there = window(flat, torch.tensor([0, 2, 2]), torch.tensor([2, 2, 5]), 2)
    assert [n[t].tolist() for n, t in zip(near, there, strict=True)] == [[6, 5], [], [9, 8]]


def test_loss_of_a_batch_by_hand() -> None:
    """Histories as of each pair, and no item that repeats the positive among the negatives."""
    torch.manual_seed(0)
    net = Towers({"text": 3}, dim=3, hidden=0, variant="qnorm", num_items=0)
    text = torch.randn(4, 3)
    flat = flatten([[0, 1, 2], [3, 1]], num_items=4)
    settings = MagnitudeSettings(recent=5, decay=0.5, scale=2.0, popularity_correction=0.3)
    trainer = PairTrainer(net, {"text": text}, flat, {}, settings, seed=0)
    d = net.documents({"text": text})
    queries = [
        net.history_head((d[0] + 0.5 * net.start) / 1.5),  # 0 -> 1
        net.history_head((d[1] + 0.5 * d[0] + 0.25 * net.start) / 1.75),  # 0, 1 -> 2
        net.history_head((d[3] + 0.5 * net.start) / 1.5),  # 3 -> 1
    ]
    frequency = torch.log(torch.tensor([1, 2, 1, 1]) / 5)
    targets, total = [1, 2, 1], 0.0
    for q, target in zip(queries, targets, strict=True):
        others = [t for t in targets if t != target]
        logits = [2 * (q / q.norm()) @ d[t] - 0.3 * frequency[t] for t in [target, *others]]
        total -= torch.stack(logits).log_softmax(dim=0)[0].item() / 3
    found = trainer.loss(trainer.sources[0], torch.tensor([1, 2, 4]))
    assert found.item() == pytest.approx(total, rel=1e-5)


def test_scales_make_views_comparable() -> None:
    net = Towers({"text": 3, "image": 2}, dim=3, hidden=0, variant="dot", num_items=0)
    tables = {"text": torch.eye(3) * 4, "image": torch.tensor([[0.0, 10], [0, 30], [0, 0]])}
    net.measure(tables)
    assert dict(zip(net.names, net.scales.tolist(), strict=True)) == {"image": 20.0, "text": 4.0}
    alone = net.documents(tables)[
        2
    ]  # no image: its norm is the text's, not halved by a missing view
    assert alone.norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {}}, "expected at least one"),
        ({"features": {"text": np.ones((N + 1, 2))}}, r"features\['text'\].* \(49, 2\)"),
        ({"features": {"a.b": np.ones((N, 2))}}, "without dots"),
        ({"sequences": [[], []]}, "nothing to learn from"),
        ({"queries": {"title": (np.ones((2, 3)), [0, 1])}}, r"queries\['title'\] are \(2, 3\)"),
        ({"queries": {"title": (np.ones((2, WIDTH)), [0])}}, "each of 2 texts"),
        ({"queries": {"title": (np.ones((2, WIDTH)), [0, -1])}}, "row 1: item -1"),
        ({"queries": {"t": (np.full((1, WIDTH), np.nan), [0])}}, "row 0: NaN"),
        (
            {"features": {"image": np.ones((N, 2))}, "queries": {"t": (np.ones((1, 2)), [0])}},
            "need a 't",
        ),
        ({"valid": Validation([[1]], np.array([1, 2]))}, "one"),
        ({"valid": Validation([], np.array([], dtype=int))}, "user"),
    ],
)
def test_bad_training_input(shop: dict[str, Any], change: dict[str, Any], message: str) -> None:
    given = {"sequences": shop["train"], "features": {"text": shop["text"]}} | change
    with pytest.raises(ValueError, match=message):
        quick(epochs=1).fit(given.pop("sequences"), num_items=N, **given)


def test_nan_features_name_view_and_item(shop: dict[str, Any]) -> None:
    text = shop["text"].copy()
    text[17, 3] = np.nan
    with pytest.raises(ValueError, match=r"features\['text'\]: item 17 holds NaN"):
        quick().fit(shop["train"], num_items=N, features={"text": text})


def test_bad_use(fitted: Magnitude, shop: dict[str, Any]) -> None:
    for use in (
        lambda: Magnitude().search(shop["text"], k=1),
        lambda: Magnitude().item_vectors(),
        lambda: Magnitude().item_vectors(raw=True),
    ):
        with pytest.raises(ValueError, match="not fitted"):
            use()
    with pytest.raises(ValueError, match=r"expected \(n, 12\)"):
        fitted.search(np.ones((1, 5)), k=1)
    with pytest.raises(ValueError, match="either histories or texts"):
        fitted.query_vectors()
    with pytest.raises(ValueError, match="expected"):
        fitted.new_item_vectors({"image": np.ones((1, 3))})


def test_empty_query_sources_are_left_out() -> None:
    assert check_queries({"t": (np.ones((0, 3)), [])}, dims={"text": 3}, num_items=2) == {}
