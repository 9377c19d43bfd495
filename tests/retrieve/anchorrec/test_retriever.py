"""AnchorRec as a retriever: it learns planted tastes, explains, saves and refuses bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve import Popular
from genrec.retrieve.anchorrec.retriever import AnchorRec
from genrec.retrieve.sequences import Validation

CLUSTERS, SIZE = 6, 10
N = CLUSTERS * SIZE + 1  # the last item: no interaction, no image
SMALL: dict[str, Any] = {"dim": 16, "epochs": 12, "lr": 0.02, "batch_size": 128, "device": "cpu"}


@pytest.fixture(scope="module")
def planted() -> tuple[list[np.ndarray], Validation, dict[str, np.ndarray]]:
    """Users stay within one cluster of items; text and image say, noisily, which cluster it is."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, CLUSTERS, 150)
    whole = [c * SIZE + rng.permutation(SIZE)[:6] for c in taste]
    cluster = np.append(np.repeat(np.arange(CLUSTERS), SIZE), 0)
    features = {
        name: (np.eye(CLUSTERS)[cluster] + rng.normal(size=(N, CLUSTERS), scale=0.3)).astype("f4")
        for name in ("text", "image")
    }
    features["text"][-1] = np.eye(CLUSTERS)[0]
    features["image"][-1] = 0
    sequences = [s[:-1] for s in whole]
    return sequences, Validation(sequences, np.array([s[-1] for s in whole])), features


def recall(ranked: np.ndarray, targets: np.ndarray) -> float:
    return float((ranked == targets[:, None]).any(axis=1).mean())


VARIANTS: list[dict[str, Any]] = [
    {},
    {"anchor_gradient": True},
    {"alignment": "direct"},
    {"alignment": "none", "amp": 0.0},
    {"use_features": False},
    {"user_vectors": "history"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_learns_planted_tastes(planted: Any, variant: dict[str, Any]) -> None:
    sequences, valid, features = planted
    model = AnchorRec(**SMALL, **variant).fit(sequences, num_items=N, features=features)
    found = recall(model.recommend(sequences, k=5).items, valid.targets)
    floor = recall(
        Popular().fit(sequences, num_items=N).recommend(sequences, k=5).items, valid.targets
    )
    assert found > 0.85 > 4 * floor
    assert model.log_[-1]["loss"] < model.log_[0]["loss"]


@pytest.mark.parametrize(
    "names", [["text"], ["text", "joint"], ["text", "image", "joint"]], ids=str
)
def test_works_with_the_views_that_there_are(planted: Any, names: list[str]) -> None:
    sequences, valid, features = planted
    given = features | {"joint": features["text"][:, ::-1]}
    model = AnchorRec(**SMALL).fit(
        sequences, num_items=N, features={n: given[n] for n in names}, valid=valid
    )
    assert recall(model.recommend(sequences, k=5).items, valid.targets) > 0.85
    assert set(model.views_) == {"id", "multimodal", "text", *({"image"} & set(names))}


def test_a_new_item_is_found_by_its_text(planted: Any) -> None:
    """Item N - 1 has no interaction; its text says cluster 0."""
    sequences, _, features = planted
    model = AnchorRec(**SMALL).fit(sequences, num_items=N, features=features)
    scores = np.empty((2, N))
    for row, history in enumerate(([0, 1, 2], [21, 22, 23])):
        lists = model.recommend([history], k=N, exclude_seen=False)
        scores[row, lists.items[0]] = lists.scores[0]
    place = (scores > scores[:, [N - 1]]).sum(axis=1)
    assert place[0] <= SIZE  # after its own cluster at worst
    assert place[1] > 2 * SIZE


def test_a_training_user_and_a_new_user_with_the_same_history_are_one(planted: Any) -> None:
    sequences, _, features = planted
    model = AnchorRec(**(SMALL | {"epochs": 2}), user_vectors="history")
    model.fit(sequences, num_items=N, features=features)
    users = model._users(sequences)
    np.testing.assert_allclose(users.mean(axis=0), model.mean_user_, atol=1e-5)
    np.testing.assert_allclose(
        users[[3, 3]], model._users([sequences[3], sequences[3][::-1]]), atol=1e-6
    )


@pytest.mark.parametrize("vectors", ["trained", "history"])
def test_users_without_items_do_not_make_the_mean_user(planted: Any, vectors: Any) -> None:
    sequences, _, features = planted
    model = AnchorRec(**(SMALL | {"epochs": 1}), user_vectors=vectors)
    kept: list[Any] = []
    keep = model._keep
    model._keep = lambda module: (kept.append(module), keep(module))  # type: ignore[assignment,func-returns-value]
    model.fit([*sequences, *[[]] * 200], num_items=N, features=features)
    with torch.no_grad():
        users = kept[-1]().users[: len(sequences)].numpy()
    np.testing.assert_allclose(model.mean_user_, users.mean(axis=0), atol=1e-5)


def test_parts_add_up_to_the_score(planted: Any) -> None:
    sequences, _, features = planted
    model = AnchorRec(**(SMALL | {"epochs": 2})).fit(sequences, num_items=N, features=features)
    histories = [sequences[0], [], [N - 1, N - 1, 3]]
    lists = model.recommend(histories, k=N)
    items, scores = lists.items, lists.scores
    parts = model.explain(histories, items)
    assert list(parts) == ["id", "multimodal", "text", "decoder"]
    np.testing.assert_array_equal(np.isnan(parts["id"]), items < 0)
    there = items >= 0
    np.testing.assert_allclose(sum(parts.values())[there], scores[there], atol=1e-5)  # type: ignore[index]
    assert np.abs(parts["decoder"][there]).max() < np.abs(parts["id"][there]).max()
    ids = AnchorRec(**(SMALL | {"epochs": 1}), use_features=False).fit(sequences, num_items=N)
    assert list(ids.explain([[0]], [[1]])) == ["id"]


def test_validation_chooses_the_epoch(planted: Any) -> None:
    sequences, valid, features = planted
    model = AnchorRec(**(SMALL | {"patience": 2, "epochs": 30, "valid_users": 40}))
    model.fit(sequences, num_items=N, features=features, valid=valid)
    assert len(model.log_) < 30  # it stopped
    best = max(entry["valid"] for entry in model.log_)
    chosen = np.sort(np.random.default_rng(0).choice(150, 40, replace=False))
    items = model.recommend([sequences[u] for u in chosen], k=20).items
    assert recall(items, valid.targets[chosen]) == best


def test_saved_is_loaded(planted: Any, tmp_path: Path) -> None:
    sequences, _, features = planted
    settings = SMALL | {"epochs": 3}
    model = AnchorRec(**settings).fit(sequences, num_items=N, features=features)
    model.save(tmp_path)
    loaded = AnchorRec.load(tmp_path)
    assert list(loaded.explain([[0]], [[1]])) == list(model.explain([[0]], [[1]]))
    assert set(loaded.views_) == set(model.views_)
    for name, part in model.explain([[0, 5]], [[1, 2]]).items():
        np.testing.assert_array_equal(loaded.explain([[0, 5]], [[1, 2]])[name], part)


def test_bad_input(planted: Any) -> None:
    sequences, _, features = planted
    text = features["text"]
    holed = text.copy()
    holed[4, 1] = np.nan
    for given, message in (
        (None, "features: none given"),
        ({"image": text}, "expected 'text'"),
        ({"text": text, "sound": text}, "'sound'"),
        ({"text": holed}, r"features\['text'\]: item 4 holds NaN"),
        ({"text": text, "image": text[:3]}, r"features\['image'\] has the shape \(3, 6\)"),
        ({"text": text[:, 0]}, r"features\['text'\] has the shape"),
    ):
        with pytest.raises(ValueError, match=message):
            AnchorRec(**SMALL).fit(sequences, num_items=N, features=given)
    with pytest.raises(ValueError, match="hold no interaction"):
        AnchorRec(**SMALL).fit([[], []], num_items=N, features=features)
    with pytest.raises(ValueError, match="not fitted"):
        AnchorRec().explain([[0]], [[1]])
    with pytest.raises(ValueError, match="150 histories and 2 targets"):
        AnchorRec(**SMALL).fit(
            sequences, num_items=N, features=features, valid=Validation(sequences, np.array([1, 2]))
        )
    for wrong, message in (
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"epochs": 0, "aal": -1.0}, "epochs is 0.*aal is -1.0"),
        ({"alignment": "both"}, "alignment is 'both'"),
    ):
        with pytest.raises(ValueError, match=message):
            AnchorRec(**wrong)
    model = AnchorRec(**(SMALL | {"epochs": 1})).fit(sequences, num_items=N, features=features)
    with pytest.raises(ValueError, match="one row for each of 1"):
        model.explain([[0]], [[1], [2]])
    with pytest.raises(ValueError, match="float64; expected whole numbers"):
        model.explain([[0]], [[1.5]])
    assert model.explain([[0]], [[]])["id"].shape == (1, 0)
    with pytest.raises(ValueError, match=r"expected -1\.\.60"):
        model.explain([[0]], [[N]])
