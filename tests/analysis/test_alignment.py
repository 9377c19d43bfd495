"""Alignment probes: a map that exists is found, one that does not is not; measures by brute force."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from genrec.analysis import alignment
from genrec.analysis.alignment import PROBES, Training, Users, probe_alignment

QUICK = Training(epochs=150, batch_size=64, lr=0.02)
SMALL = {"linear": (), "mlp-1": (32,)}


def planted(noise: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    semantic = rng.normal(size=(200, 8)).astype("f4")
    collaborative = semantic @ rng.normal(size=(8, 5)) + 1.0
    collaborative += noise * rng.normal(size=collaborative.shape)
    return semantic, collaborative.astype("f4")


def test_a_linear_relation_is_found_and_costs_nothing() -> None:
    semantic, collaborative = planted(0.0)
    rng = np.random.default_rng(1)
    users = Users(
        rng.normal(size=(60, 5)).astype("f4"),
        [rng.integers(0, 200, 5) for _ in range(60)],
        [rng.integers(0, 200, 3) for _ in range(60)],
    )
    found = probe_alignment(semantic, collaborative, users=users, probes=SMALL, training=QUICK)
    linear = found["probes"]["linear"]
    assert (found["items"], found["unseen"], found["k"]) == (200, 40, 20)
    assert linear["r2"] > 0.99
    assert linear["cosine"] > 0.99
    assert linear["geojac"] > 0.9
    assert linear["spearman"] > 0.99
    assert linear["jaccard"] > 0.9
    assert abs(linear["drop"]) < 10
    json.dumps(found)


def test_no_relation_is_not_found_and_capacity_overfits() -> None:
    rng = np.random.default_rng(2)
    semantic, collaborative = rng.normal(size=(200, 8)), rng.normal(size=(200, 5))
    found = probe_alignment(semantic, collaborative, probes=SMALL, training=QUICK)["probes"]
    assert found["linear"]["r2"] < 0.1
    assert found["mlp-1"]["r2"] < found["linear"]["r2"] < found["linear"]["r2_train"]
    assert found["mlp-1"]["r2_train"] > found["linear"]["r2_train"]
    assert abs(found["linear"]["spearman"]) < 0.2
    assert set(found["linear"]) == {"r2", "r2_train", "cosine", "geojac", "spearman"}


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def nearest(x: np.ndarray, i: int, k: int) -> set[int]:
    others = (j for j in range(len(x)) if j != i)
    return set(sorted(others, key=lambda j: -cosine(x[i], x[j]))[:k])


def test_measures_are_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is taken out: the map is given."""
    rng = np.random.default_rng(3)
    true, mapped = rng.normal(size=(30, 4)), rng.normal(size=(30, 4))
    vectors = rng.normal(size=(6, 4))
    histories = [rng.integers(0, 30, n) for n in (0, 3, 2, 9, 1, 4)]
    targets = [rng.integers(0, 30, 10) for _ in range(6)]
    monkeypatch.setattr(alignment, "_train", lambda *a, **b: mapped)
    training = Training(unseen=0.4, seed=5)
    order = np.random.default_rng(5).permutation(30)
    unseen, seen = sorted(order[:12].tolist()), sorted(order[12:].tolist())
    for cells in (2**24, 25):
        monkeypatch.setattr(alignment, "_MAX_CELLS", cells)
        found = probe_alignment(
            rng.normal(size=(30, 2)),
            true,
            users=Users(vectors, histories, targets),
            probes={"given": ()},
            training=training,
            k=3,
            max_users=4,
        )
        one = found["probes"]["given"]
        t, m = true[unseen], mapped[unseen]
        r2 = 1 - ((t - m) ** 2).sum(0) / ((t - t.mean(0)) ** 2).sum(0)
        assert one["r2"] == pytest.approx(r2.mean(), abs=1e-5)
        assert one["cosine"] == pytest.approx(
            np.mean([cosine(*p) for p in zip(t, m, strict=True)]), abs=1e-5
        )
        pairs = [(nearest(t, i, 3), nearest(m, i, 3)) for i in range(12)]
        geojac = np.mean([len(a & b) / len(a | b) for a, b in pairs])
        assert one["geojac"] == pytest.approx(geojac, abs=1e-5)
        rho = [
            spearmanr(
                [cosine(t[i], true[a]) for a in seen], [cosine(m[i], mapped[a]) for a in seen]
            )[0]
            for i in range(12)
        ]
        assert one["spearman"] == pytest.approx(np.mean(rho), abs=1e-5)

        def top(items: np.ndarray, u: int) -> set[int]:
            left = [i for i in range(30) if i not in histories[u]]
            return set(sorted(left, key=lambda i: -(vectors[u] @ items[i]))[:3])

        shares = [
            len(top(true, u) & top(mapped, u)) / len(top(true, u) | top(mapped, u))
            for u in range(4)
        ]
        assert one["jaccard"] == pytest.approx(np.mean(shares), abs=1e-5)
        held = {u: set(targets[u].tolist()) & set(unseen) for u in range(6)}
        held = {u: h for u, h in held.items() if h}
        assert found["users"] == len(held)
        recalls = [
            np.mean([len(top(x, u) & h) / len(h) for u, h in held.items()]) for x in (true, mapped)
        ]
        assert one["recall_true"] == pytest.approx(recalls[0], abs=1e-5)
        assert one["recall_mapped"] == pytest.approx(recalls[1], abs=1e-5)
        assert recalls[0] > 0
        assert one["drop"] == pytest.approx(100 * (1 - recalls[1] / recalls[0]), abs=1e-3)


def test_items_that_lack_a_vector_stay_out_and_seeds_repeat() -> None:
    semantic, collaborative = planted(0.3)
    semantic[:4], collaborative[2:9] = 0, 0
    runs = [
        probe_alignment(
            semantic, collaborative, probes=SMALL, training=Training(epochs=2, seed=seed)
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0]["items"] == 191
    assert runs[0] == runs[1] != runs[2]


def test_nothing_to_lose_is_null() -> None:
    semantic, collaborative = planted(0.3)
    users = Users(collaborative[:2], [[], []], [[], []])
    one = probe_alignment(
        semantic, collaborative, users=users, probes={"linear": ()}, training=Training(epochs=1)
    )
    assert one["users"] == 0
    assert one["probes"]["linear"]["drop"] is one["probes"]["linear"]["recall_true"] is None


def test_masked_items_do_not_fill_a_list_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 items user 0 has seen all but 8 and 9, user 1 all: no list has five items left."""
    rng = np.random.default_rng(4)
    true, mapped = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    monkeypatch.setattr(alignment, "_train", lambda *a, **b: mapped)
    seen = [[i for i in range(20) if i not in (8, 9)], range(20)]
    targets = [range(20), range(20)]
    users = Users(rng.normal(size=(2, 3)), seen, targets)
    found = probe_alignment(true, true, users=users, probes={"given": ()}, k=5)
    unseen = np.random.default_rng(2024).permutation(20)[:4]
    one = found["probes"]["given"]
    assert one["jaccard"] == 0.5  # {8, 9} both times, and nothing
    expected = pytest.approx(np.isin(unseen, [8, 9]).mean() / 2, abs=1e-6)
    assert one["recall_true"] == one["recall_mapped"] == expected


def test_probes_are_the_papers() -> None:
    assert {n: len(h) for n, h in PROBES.items()} == {
        "linear": 0,
        "mlp-1": 1,
        "mlp-2": 2,
        "mlp-3": 3,
    }
    widths = [type(layer).__name__ for layer in alignment._network((3, 7, 7, 2))]
    assert widths == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize(
    ("semantic", "collaborative", "users", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), None, r"expected \[N, D\], \[N, d\]"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 2)), None, "semantic: item 1 holds NaN"),
        (np.ones((3, 2)), np.ones((3, 2)), None, "2 seen and 1 unseen"),
        (np.ones((20, 2)), np.ones((20, 2)), Users(np.ones((1, 3)), [[]], [[]]), "of width 2"),
        (np.ones((20, 2)), np.ones((20, 2)), Users(np.ones((1, 2)), [[]], []), "0 targets"),
        (np.ones((20, 2)), np.ones((20, 2)), Users(np.ones((1, 2)), [[-1]], [[]]), "item -1"),
        (np.ones((20, 2)), np.ones((20, 2)), Users(np.ones((1, 2)), [[]], [[20]]), "item 20"),
        (
            np.ones((20, 2)),
            np.ones((20, 2)),
            Users(np.full((1, 2), np.nan), [[]], [[]]),
            "user 0 holds",
        ),
    ],
)
def test_bad_input(semantic: Any, collaborative: Any, users: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe_alignment(semantic, collaborative, users=users)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"anchors": 1}, {"max_users": 0}])
def test_bad_sizes(wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=\d\b.*; expected"):
        probe_alignment(np.ones((20, 2)), np.ones((20, 2)), **wrong)
