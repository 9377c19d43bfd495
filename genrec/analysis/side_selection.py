"""Which side to normalise: three rules, compared.

Only validation is sure. The Delta-CV rule is the paper's (arXiv 2602.09229 v1; two encoders, weak
evidence); of the Fisher-information rule of v2 and v3 one sentence was found, so what stands here is
**our reconstruction**: parameter space, estimator and direction are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec.progress import Progress, silent
from genrec.retrieve.magnitude.loss import LEAST, SCALE, VARIANTS, Variant
from genrec.retrieve.magnitude.norms import variation
from genrec.retrieve.magnitude.retriever import Magnitude
from genrec.retrieve.magnitude.training import TextQueries
from genrec.retrieve.sequences import FloatArray, Sequences, Validation

Side = Literal["qnorm", "dnorm"]
SIDES: tuple[Side, Side] = ("qnorm", "dnorm")
# Paper v1: ratios of 0.5 to 2.0 where QNorm was better, 3.9 to 8.9 where DNorm was. Between them
# nothing is known; we cut at the geometric mean of 2.0 and 3.9.
DELTA_CV_CUT = 2.8
DELTA_CV_UNKNOWN = (2.0, 3.9)

# Queries of the Fisher estimate, whose cost is queries x documents x d^2: so many at least, and twice
# the width, for with fewer queries than dimensions the smallest eigenvalue is chance.
_SAMPLE = 256


class Fisher(NamedTuple):
    """Condition numbers of the two diagonal blocks of the Fisher information matrix.

    Attributes:
        query: of the block of a query's vector.
        document: of the block of a document's vector.
        both: their geometric mean, which the rule compares.
    """

    query: float
    document: float
    both: float


class Rule(NamedTuple):
    """What one rule says.

    Attributes:
        name: fisher, delta_cv or validation.
        source: whose rule it is.
        values: the numbers it looked at.
        choice: the side it would normalise.
        clear: False where the numbers fall where nothing is known, or are equal.
    """

    name: str
    source: str
    values: dict[str, float]
    choice: Side
    clear: bool


class SideComparison(NamedTuple):
    """The three rules side by side.

    Attributes:
        fisher: better conditioned is chosen; our reconstruction.
        delta_cv: the paper's rule; our threshold.
        validation: NDCG@10 of every variant trained; the referee.
    """

    fisher: Rule
    delta_cv: Rule
    validation: Rule

    def table(self) -> pl.DataFrame:
        """Returns one row per rule: rule, source, choice, clear, agrees (with validation), values."""
        rows = [
            {
                "rule": rule.name,
                "source": rule.source,
                "choice": rule.choice,
                "clear": rule.clear,
                "agrees": rule.choice == self.validation.choice,
                "values": ", ".join(f"{name} {value:.4g}" for name, value in rule.values.items()),
            }
            for rule in self
        ]
        return pl.DataFrame(rows)


def fisher_condition(
    queries: FloatArray,
    documents: FloatArray,
    side: Side,
    *,
    scale: float = SCALE,
    ridge: float = 1e-6,
) -> Fisher:
    """Returns the condition numbers of the Fisher information of one unilateral variant. Ours.

    With logits z_j = scale * s(q, d_j), p = softmax(z) and C = diag(p) - p p^T, the Fisher information
    about a query's vector is F_q = mean over queries of J^T C J with J = dz/dq; about a document's,
    F_D = mean over documents j and queries of p_j (1 - p_j) g g^T with g = dz_j/dd_j. Where a side is
    normalised its Jacobian carries (I - v v^T) / |v|. A condition number is the largest over the
    smallest eigenvalue that is not null (1e-10 of the largest), with a ridge on both.

    Args:
        queries: float [n, d], before normalisation; n well above d, or the condition is chance.
        documents: float [m, d], before normalisation, every query's candidates.
        side: the one that is normalised: qnorm or dnorm.
        scale: one over the temperature.
        ridge: in units of the mean eigenvalue.

    Raises:
        ValueError: another variant, or the widths differ.
    """
    q, d = np.asarray(queries, dtype=np.float64), np.asarray(documents, dtype=np.float64)
    if side not in SIDES or q.ndim != 2 or d.ndim != 2 or q.shape[1] != d.shape[1]:
        raise ValueError(f"{side!r}, {q.shape}, {d.shape}: expected qnorm or dnorm, [n, d], [m, d]")
    unit_q, size_q = _unit(q)
    unit_d, size_d = _unit(d)
    q_used, d_used = (unit_q, d) if side == "qnorm" else (q, unit_d)
    z = scale * q_used @ d_used.T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    width = q.shape[1]
    about_query, about_document = np.zeros((2, width, width))
    for i in range(len(q)):
        mean = p[i] @ d_used
        block = (d_used * p[i][:, None]).T @ d_used - np.outer(mean, mean)
        about_query += _project(block, unit_q[i], size_q[i]) if side == "qnorm" else block
    weights = p * (1 - p)
    if side == "qnorm":
        about_document = (q_used * weights.sum(axis=1)[:, None]).T @ q_used
    else:
        for j in range(len(d)):
            block = (q_used * weights[:, j][:, None]).T @ q_used
            about_document += _project(block, unit_d[j], size_d[j])
    # A factor common to a block, scale^2 / n here, leaves its condition number as it is.
    kappas = _condition(about_query, ridge), _condition(about_document, ridge)
    return Fisher(*kappas, float(np.sqrt(kappas[0] * kappas[1])))


def delta_cv(after_dnorm: FloatArray, after_dot: FloatArray) -> float:
    """Returns the variation of query norms after DNorm training over that after Dot training.

    Args:
        after_dnorm: float [n, d], query vectors before normalisation.
        after_dot: the same queries by the other model.

    Returns:
        Infinity where only the latter do not vary, NaN where neither do.
    """
    ours, dot = (variation(np.linalg.norm(v, axis=1)) for v in (after_dnorm, after_dot))
    if dot > 0:
        return ours / dot
    return float("inf") if ours > 0 else float("nan")


def choose_side(
    queries: Mapping[str, FloatArray],
    documents: Mapping[str, FloatArray],
    validation: Mapping[str, float],
    *,
    scale: float = SCALE,
) -> SideComparison:
    """Asks all three rules which side to normalise; takes the vectors of any encoder.

    Args:
        queries: by variant, float [n, d] before normalisation, the same queries; dot, qnorm, dnorm.
        documents: by variant, float [m, d] before normalisation; qnorm and dnorm.
        validation: by variant, a score, higher is better; qnorm and dnorm at least.
        scale: one over the temperature.

    Raises:
        ValueError: a variant that a rule needs is missing.
    """
    needs = (("queries", queries, {"dot", *SIDES}), ("documents", documents, set(SIDES)))
    for name, given, needed in (*needs, ("validation", validation, set(SIDES))):
        if missing := needed - set(given):
            raise ValueError(f"{name} lack {sorted(missing)}; there are {sorted(given)}")
    kappas = {s: fisher_condition(queries[s], documents[s], s, scale=scale) for s in SIDES}
    parts = {f"{s} {part}": v for s in SIDES for part, v in kappas[s]._asdict().items()}
    ratio = delta_cv(queries["dnorm"], queries["dot"])
    low, high = DELTA_CV_UNKNOWN
    return SideComparison(
        Rule(
            "fisher",
            "our reconstruction; the paper's definition is not known",
            parts,
            min(SIDES, key=lambda s: kappas[s].both),
            kappas["qnorm"].both != kappas["dnorm"].both,
        ),
        Rule(
            "delta_cv",
            "paper v1; the threshold is ours",
            {"ratio": ratio, "threshold": DELTA_CV_CUT},
            "dnorm" if ratio >= DELTA_CV_CUT else "qnorm",
            ratio <= low or ratio >= high,
        ),
        Rule(
            "validation",
            "measured",
            dict(validation),
            max(SIDES, key=lambda s: validation[s]),
            validation["qnorm"] != validation["dnorm"],
        ),
    )


def compare_sides(
    sequences: Sequences,
    *,
    num_items: int,
    features: Mapping[str, FloatArray],
    valid: Validation,
    queries: TextQueries | None = None,
    variants: tuple[Variant, ...] = VARIANTS,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> SideComparison:
    """Trains a `Magnitude` per variant and asks all three rules.

    The rules look at the histories of the first validation users and, as documents, at what those
    users took next: what a batch of training would hold. Test is not seen.

    Args:
        sequences: as for `Magnitude.fit`, with num_items, features, queries and valid.
        num_items: N.
        features: views of the items.
        valid: validation users.
        queries: text queries to train on.
        variants: which to train; dot, qnorm and dnorm at least.
        settings: further arguments of `Magnitude`, the same for all.
        progress: told how many variants are done.

    Raises:
        ValueError: a variant is missing, or as `Magnitude.fit`.
    """
    if missing := {"dot", *SIDES} - set(variants):
        raise ValueError(f"variants lack {sorted(missing)}, which the rules compare")
    by_variant: dict[str, FloatArray] = {}
    answered: dict[str, FloatArray] = {}
    scores: dict[str, float] = {}
    for done, variant in enumerate(variants):
        model = Magnitude(**{**(settings or {}), "variant": variant})
        model.fit(sequences, num_items=num_items, features=features, queries=queries, valid=valid)
        scores[variant] = max(epoch["valid"] for epoch in model.log_)  # that epoch was kept
        count = max(_SAMPLE, 2 * model.settings.dim)
        by_variant[variant] = model.query_vectors(valid.histories[:count], raw=True)
        answered[variant] = model.item_vectors(raw=True)[np.unique(valid.targets[:count])]
        progress("magnitude: compare sides", done + 1, len(variants))
    return choose_side(by_variant, answered, scores, scale=model.settings.scale)


def _unit(vectors: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Directions and norms as `shrink` divides by them; a vector without direction stays as it is."""
    sizes = np.linalg.norm(vectors, axis=1)
    sizes = np.where(sizes > LEAST, sizes, 1.0)
    return vectors / sizes[:, None], sizes


def _project(block: npt.NDArray[Any], unit: npt.NDArray[Any], size: float) -> npt.NDArray[Any]:
    """(I - u u^T) block (I - u u^T) / size^2, without the d x d x d products."""
    left = block - np.outer(unit, unit @ block)
    return cast("npt.NDArray[Any]", (left - np.outer(left @ unit, unit)) / size**2)


def _condition(matrix: npt.NDArray[np.float64], ridge: float) -> float:
    values = np.linalg.eigvalsh(matrix)
    values = values[values > 1e-10 * max(values.max(), 0.0)]
    if not len(values):
        return float("inf")
    small = ridge * values.mean()
    return float((values.max() + small) / (values.min() + small))
