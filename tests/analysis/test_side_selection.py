"""The Fisher blocks against autograd, and the three rules side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.analysis.side_selection import (
    choose_side,
    compare_sides,
    delta_cv,
    fisher_condition,
)
from genrec.retrieve.magnitude.loss import MagnitudeScore
from genrec.retrieve.sequences import Validation


def test_delta_cv_by_hand() -> None:
    rows = {cv: np.array([[1 - cv, 0.0], [0, 1 + cv]]) for cv in (0.1, 0.6)}
    assert delta_cv(rows[0.6], rows[0.1]) == pytest.approx(6.0)
    assert delta_cv(rows[0.6], np.eye(2)) == np.inf
    assert np.isnan(delta_cv(np.eye(2), 3 * np.eye(2)))
    rounded = np.diag(1 + 1e-7 * np.arange(2))
    assert np.isnan(delta_cv(rounded, np.eye(2)))  # rounding is no signal


@pytest.mark.parametrize("side", ["qnorm", "dnorm"])
def test_fisher_blocks_against_autograd(side: str) -> None:
    """E[(d log p_y / dv)(d log p_y / dv)^T] with y drawn from p: the definition, by brute force."""
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(7, 3)), 0.3 * rng.normal(size=(6, 3))
    scale, score = 2.0, MagnitudeScore(side)  # type: ignore[arg-type]
    about_query, about_document = torch.zeros(2, 3, 3, dtype=torch.float64)
    for row in queries:
        q = torch.tensor(row[None], requires_grad=True)
        d = torch.tensor(documents, requires_grad=True)
        log_p = (scale * score(q, d)).log_softmax(dim=1)[0]
        for y in range(len(documents)):
            grad_q, grad_d = torch.autograd.grad(log_p[y], (q, d), retain_graph=True)
            weight = log_p[y].exp().detach()
            about_query += weight * grad_q.T @ grad_q
            for g in grad_d:
                about_document += weight * torch.outer(g, g)

    def condition(matrix: torch.Tensor) -> float:
        values = torch.linalg.eigvalsh(matrix)
        return float(values[-1] / values[0])

    found = fisher_condition(queries, documents, side, scale=scale, ridge=0.0)  # type: ignore[arg-type]
    assert found.query == pytest.approx(condition(about_query), rel=1e-6)
    assert found.document == pytest.approx(condition(about_document), rel=1e-6)
    assert found.both == pytest.approx((found.query * found.document) ** 0.5)


def test_fisher_sees_a_stretched_side() -> None:
    rng = np.random.default_rng(1)
    q, d = rng.normal(size=(2, 40, 4))
    round_ = fisher_condition(q, d, "qnorm", scale=0.1)
    stretched = fisher_condition(q, d * [10, 1, 1, 1], "qnorm", scale=0.1)
    assert stretched.query > 10 * round_.query
    null = fisher_condition(q * [1, 1, 0, 0], d * [1, 1, 0, 0], "dnorm", scale=0.1)
    assert np.isfinite(null.both)  # directions that carry nothing are left out
    with pytest.raises(ValueError, match="expected qnorm or dnorm"):
        fisher_condition(q, d, "dot")  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["qnorm", "dnorm"])
def test_fisher_is_not_ruled_by_one_vector_of_zeros(side: str) -> None:
    rng = np.random.default_rng(2)
    queries, documents = rng.normal(size=(60, 4)), rng.normal(size=(30, 4))
    before = fisher_condition(queries, documents, side)  # type: ignore[arg-type]
    queries[0] = documents[0] = 0
    after = fisher_condition(queries, documents, side)  # type: ignore[arg-type]
    assert after.both == pytest.approx(before.both, rel=0.3)


def test_choose_side_reports_each_rule() -> None:
    rng = np.random.default_rng(2)
    base, d = rng.normal(size=(2, 50, 4))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    wild = base * rng.uniform(0.1, 3, size=(50, 1))
    calm = base * rng.uniform(0.9, 1.1, size=(50, 1))
    queries = {"dot": calm, "qnorm": base, "dnorm": wild}
    found = choose_side(
        queries,
        {"qnorm": d, "dnorm": d * [30, 1, 1, 1]},
        {"qnorm": 0.3, "dnorm": 0.2, "learn": 0.4},
        scale=1.0,
    )
    assert found.delta_cv.choice == "dnorm"  # query norms vary far more after DNorm
    assert found.delta_cv.clear
    assert found.validation.choice == "qnorm"
    assert found.fisher.choice == min(
        ("qnorm", "dnorm"), key=lambda s: found.fisher.values[f"{s} both"]
    )
    table = found.table()
    assert table["rule"].to_list() == ["fisher", "delta_cv", "validation"]
    assert "reconstruction" in table["source"][0]
    assert table["agrees"].to_list() == [found.fisher.choice == "qnorm", False, True]
    with pytest.raises(ValueError, match=r"queries lack \['dot'\]"):
        choose_side(
            {"qnorm": base, "dnorm": wild}, {"qnorm": d, "dnorm": d}, {"qnorm": 1, "dnorm": 0}
        )


def test_ratio_between_the_papers_clusters_is_not_clear() -> None:
    rows = {cv: np.array([[1 - cv, 0.0], [0, 1 + cv]]) for cv in (0.1, 0.25, 0.35)}
    for cv, choice in ((0.25, "qnorm"), (0.35, "dnorm")):
        queries = {"dot": rows[0.1], "qnorm": np.eye(2), "dnorm": rows[cv]}
        documents = {"qnorm": np.eye(2), "dnorm": np.eye(2)}
        rule = choose_side(queries, documents, {"qnorm": 1.0, "dnorm": 0.0}).delta_cv
        assert (rule.choice, rule.clear) == (choice, False)
    queries = dict.fromkeys(("dot", "qnorm", "dnorm"), np.eye(2))  # no query norm varies at all
    assert not choose_side(queries, documents, {"qnorm": 1.0, "dnorm": 0.0}).delta_cv.clear


def test_compare_sides_trains_every_variant() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(20, 6)).astype(np.float32)
    sequences = [rng.choice(20, size=4, replace=False) for _ in range(40)]
    told: list[int] = []
    found = compare_sides(
        [s[:3] for s in sequences],
        num_items=20,
        features={"text": text},
        valid=Validation([s[:3] for s in sequences], np.array([s[3] for s in sequences])),
        settings={"dim": 4, "epochs": 2, "batch_size": 32, "device": "cpu"},
        progress=lambda step, done, total: told.append(done),
    )
    assert set(found.validation.values) == {"cosine", "dot", "qnorm", "dnorm", "learn"}
    assert all(0 < v < 1 for v in found.validation.values.values())
    assert told == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"lack \['dnorm'\]"):
        compare_sides(
            sequences,
            num_items=20,
            features={"text": text},
            valid=Validation([[1]], np.array([2])),
            variants=("dot", "qnorm"),
        )
