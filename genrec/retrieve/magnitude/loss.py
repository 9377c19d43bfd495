"""Contrastive learning that keeps or drops the magnitude of each side by itself.

Feng and Watanabe, arXiv 2602.09229 (v1): s(q, d) = q / |q|^gamma_q . d / |d|^gamma_d, InfoNCE over the
batch in one direction, query to document, with one scale for every variant. What is trained with a
variant is to be searched with it: magnitudes that a normalised loss never saw mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Variant = Literal["cosine", "dot", "qnorm", "dnorm", "learn"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
GAMMAS: dict[str, tuple[float, float]] = {
    "cosine": (1.0, 1.0),  # neither norm counts
    "dot": (0.0, 0.0),  # both count
    "qnorm": (1.0, 0.0),  # the document's norm counts
    "dnorm": (0.0, 1.0),  # the query's norm counts: a temperature of its own for each query
}
SCALE = 20.0  # the paper's, for every variant, dot included
GAMMA_PATTERN = r"score\.gamma_logits$"  # for `learning_rate_mapping` of a training run
LEAST = 1e-6  # shorter vectors have no direction
_LEAST_HALF = 1e-3  # in float16, which ends at 65,504: a gradient of SCALE / norm still fits


def shrink(vectors: Tensor, gamma: float | Tensor) -> Tensor:
    """Divides each vector by its norm to the power gamma.

    A vector that is zero or nearly so (below 1e-6; below 1e-3 in float16) has no direction: it stays as
    it is, and its gradient too. Divided by a tiny norm, that gradient would be millions of times those
    of the other vectors, and infinite in float16.

    Args:
        vectors: float [..., d].
        gamma: 0 keeps the norm, 1 makes it 1.
    """
    if isinstance(gamma, float) and gamma == 0.0:
        return vectors
    half = vectors.dtype == torch.float16
    wide = vectors.float() if half else vectors  # a float16 norm could overflow
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    norm = norm.where(norm > (_LEAST_HALF if half else LEAST), 1.0)
    return (wide / norm**gamma).to(vectors.dtype)


class MagnitudeScore(nn.Module):
    """The score of queries and documents, one variant of it (paper, section 3).

    For a given query the order of the documents depends on the document's side alone (propositions 4.1
    and T.2): cosine and dnorm rank alike, dot and qnorm rank alike. The variants differ in what
    training makes of the vectors.

    Args:
        variant: which norms count; `learn` learns one exponent per side, 0.5 at first.

    Attributes:
        gamma_logits: float [2], query then document; gamma is its sigmoid. None unless `learn`. Give it
            a larger learning rate than an encoder's: with one of 2e-6 the paper's moved by 0.002 only.

    Raises:
        ValueError: the variant is unknown.
    """

    gamma_logits: nn.Parameter | None

    def __init__(self, variant: Variant = "learn") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}")
        self.variant = variant
        logits = nn.Parameter(torch.zeros(2)) if variant == "learn" else None
        self.register_parameter("gamma_logits", logits)

    def gammas(self) -> tuple[float | Tensor, float | Tensor]:
        """Returns the exponents of the query's and the document's norm, each in [0, 1]."""
        if self.gamma_logits is None:
            return GAMMAS[self.variant]
        query, document = torch.sigmoid(self.gamma_logits)
        return query, document

    def queries(self, vectors: Tensor) -> Tensor:
        """Returns query vectors as scored: their inner products with `documents` are the scores."""
        return shrink(vectors, self.gammas()[0])

    def documents(self, vectors: Tensor) -> Tensor:
        """Returns document vectors as scored, which is what an index has to hold."""
        return shrink(vectors, self.gammas()[1])

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Returns the score of every pair. [B, d], [M, d] -> [B, M]."""
        return self.queries(queries) @ self.documents(documents).T


def in_batch_loss(
    scores: Tensor,
    *,
    document_ids: Tensor | None = None,
    scale: float = SCALE,
    log_frequency: Tensor | None = None,
) -> Tensor:
    """InfoNCE, query to document, with the documents of the others as negatives.

    Args:
        scores: float [B, M], M >= B; the positive of row i is column i, columns from B on are
            further negatives.
        document_ids: int [M]; a column that repeats the row's positive is no negative and is masked.
        scale: one over the temperature.
        log_frequency: float [M], subtracted from the scaled scores: the logarithm of how often a
            document comes as a negative undoes that popular ones come often (Yi et al., RecSys 2019;
            not in the paper).

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: the shapes do not fit.
    """
    rows, columns = scores.shape
    if columns < rows:
        raise ValueError(f"scores are {tuple(scores.shape)}: expected a positive column per row")
    half = scores.dtype == torch.float16
    logits = scale * (scores.float() if half else scores)  # the scale could overflow float16
    if log_frequency is not None:
        logits = logits - log_frequency
    places = torch.arange(rows, device=scores.device)
    if document_ids is not None:
        if document_ids.shape != (columns,):
            raise ValueError(f"document_ids {tuple(document_ids.shape)}: expected ({columns},)")
        repeats = document_ids[:rows, None] == document_ids
        repeats[places, places] = False
        logits = logits.masked_fill(repeats, -torch.inf)
    return F.cross_entropy(logits, places)


class MagnitudeContrastiveLoss(nn.Module):
    """The loss for `SentenceTransformerTrainer`, in place of `MultipleNegativesRankingLoss`.

        model = SentenceTransformer(modules=[transformer, pooling])  # no Normalize at the end
        loss = MagnitudeContrastiveLoss(model, variant="learn")
        args = SentenceTransformerTrainingArguments(
            ..., learning_rate_mapping={GAMMA_PATTERN: 1e-2}  # the exponents' own learning rate
        )
        SentenceTransformerTrainer(model=model, args=args, train_dataset=pairs, loss=loss).train()

    Columns are (query, document) or (query, document, hard negative, ...). A document that repeats a
    row's positive is masked there: equal token ids are equal documents (equal vectors, where a model
    has no padded token ids). Evaluate with `similarity`, an evaluator's score function; search with
    `score.documents` of the document vectors. Under several processes each keeps its own exponents
    and its own negatives (the trainer synchronises the model's gradients only).

    Args:
        model: a `SentenceTransformer`, or any module from features to {"sentence_embedding": [B, d]}.
        variant: see `MagnitudeScore`.
        scale: one over the temperature.
        labels_are_documents: the dataset's label column numbers the positive document: repeats are
            known by it instead. Off, labels are ignored.

    Raises:
        ValueError: the variant is unknown, the scale not above 0, or the model ends by normalising,
            so that there is no magnitude to learn.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        variant: Variant = "learn",
        scale: float = SCALE,
        labels_are_documents: bool = False,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale is {scale}; expected above 0")
        normalises = any(type(module).__name__ == "Normalize" for module in model.children())
        if normalises and variant != "cosine":
            raise ValueError(
                f"the model normalises its vectors, so {variant!r} has no magnitude to learn: drop "
                "the Normalize module, as in SentenceTransformer(modules=list(model)[:-1])"
            )
        self.model = model
        self.score = MagnitudeScore(variant)
        self.scale = scale
        self.labels_are_documents = labels_are_documents

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Returns the loss of one batch.

        Args:
            sentence_features: one tokenised batch per column.
            labels: see `labels_are_documents`; else ignored.

        Raises:
            ValueError: fewer than two columns, or labels that cannot be document numbers.
        """
        columns = [dict(features) for features in sentence_features]
        if len(columns) < 2:
            raise ValueError(f"{len(columns)} text column(s): expected a query and a document")
        vectors = [self.model(features)["sentence_embedding"] for features in columns]
        documents = torch.cat(vectors[1:])
        ids = self._document_ids(columns[1:], documents, labels)
        return in_batch_loss(self.score(vectors[0], documents), document_ids=ids, scale=self.scale)

    def _document_ids(
        self, columns: list[dict[str, Any]], documents: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Numbers equal documents alike; int [M]."""
        if not self.labels_are_documents:
            rows = _token_rows(columns)
            return torch.unique(
                documents.detach() if rows is None else rows, dim=0, return_inverse=True
            )[1]
        if labels is None or labels.is_floating_point() or labels.ndim != 1:
            raise ValueError(
                "labels_are_documents needs a label column of whole numbers, the positive document's"
            )
        further = torch.arange(1, len(documents) - len(labels) + 1, device=labels.device)
        return torch.cat([labels, labels.max() + further])  # hard negatives repeat nothing

    @torch.no_grad()
    def similarity(self, queries: Any, documents: Any) -> Tensor:
        """Returns the trained score of every pair, for evaluators. [B, d], [M, d] -> [B, M]."""
        device = next((p.device for p in self.score.parameters()), None)
        queries, documents = (
            torch.as_tensor(side, dtype=torch.float32, device=device)
            for side in (queries, documents)
        )
        return self.score(queries, documents)

    def get_config_dict(self) -> dict[str, Any]:
        """Returns the settings, for the model card that the trainer writes."""
        return {
            "variant": self.score.variant,
            "scale": self.scale,
            "labels_are_documents": self.labels_are_documents,
        }


def _token_rows(columns: list[dict[str, Any]]) -> Tensor | None:
    """The attended token ids of all columns below each other, int [M, T]; None without such."""
    rows = []
    for features in columns:
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if not (isinstance(ids, Tensor) and ids.ndim == 2 and isinstance(mask, Tensor)):
            return None
        rows.append(torch.where(mask.bool(), ids, -1))  # -1: padding is no token
    width = max(row.shape[1] for row in rows)
    return torch.cat([F.pad(row, (0, width - row.shape[1]), value=-1) for row in rows])
