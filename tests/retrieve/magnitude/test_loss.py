"""The score and the loss by hand and by the paper's propositions; then inside sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genrec.retrieve.magnitude.loss import (
    GAMMA_PATTERN,
    SCALE,
    VARIANTS,
    MagnitudeContrastiveLoss,
    MagnitudeScore,
    Variant,
    in_batch_loss,
    shrink,
)


def pair(seed: int = 0, rows: int = 5, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    q, d = torch.randn(2, rows, dim, generator=g, dtype=torch.float64)
    return q, d * torch.linspace(0.2, 3, rows, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("variant", "expected"),
    # q = (3, 4), |q| = 5; d = (0, 2), |d| = 2; cos = 0.8
    [("cosine", 0.8), ("dot", 8.0), ("qnorm", 1.6), ("dnorm", 4.0), ("learn", 0.8 * 10**0.5)],
)
def test_score_by_hand(variant: Variant, expected: float) -> None:
    score = MagnitudeScore(variant)(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
    assert score.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_side_alone_gives_the_score(variant: Variant) -> None:
    q, d = pair()
    score = MagnitudeScore(variant)
    assert torch.allclose(score(q, d), score.queries(q) @ score.documents(d).T)
    keeps_q, keeps_d = (g == 0.0 for g in score.gammas())
    if variant != "learn":
        norms = [score.queries(q).norm(dim=1), score.documents(d).norm(dim=1)]
        assert torch.allclose(norms[0], q.norm(dim=1) if keeps_q else torch.ones(5).double())
        assert torch.allclose(norms[1], d.norm(dim=1) if keeps_d else torch.ones(5).double())


def test_query_norms_do_not_change_the_order() -> None:  # proposition 4.1
    q, d = pair(1, rows=9)
    order = {v: MagnitudeScore(v)(q, d).argsort(dim=1).tolist() for v in VARIANTS}
    assert order["cosine"] == order["dnorm"]
    assert order["qnorm"] == order["dot"]
    assert order["cosine"] != order["dot"]


def test_gradient_of_the_exponents() -> None:  # proposition T.1: ds/dgamma = -ln|v| s
    q, d = pair(2, rows=1)
    score = MagnitudeScore("learn").double()
    s = score(q, d)
    (grad,) = torch.autograd.grad(s.sum(), score.gamma_logits)
    slope = 0.25  # of the sigmoid at 0
    expected = torch.stack([-q.norm().log() * s.sum(), -d.norm().log() * s.sum()]) * slope
    assert torch.allclose(grad, expected)


def test_dnorm_gradient_is_scaled_by_the_query_norm() -> None:  # proposition 4.2
    q, d = pair(3)
    unit = F.normalize(d).requires_grad_()
    logits = SCALE * q[:1] @ unit.T
    in_batch_loss(logits / SCALE).backward()
    p = logits.softmax(dim=1)[0, 0]
    assert torch.allclose(unit.grad[0], -SCALE * (1 - p) * q[0])
    assert torch.allclose(
        -SCALE * (1 - p) * q[0], -(q[0].norm() * SCALE) * (1 - p) * F.normalize(q)[0]
    )


def test_cosine_has_no_radial_gradient_and_qnorm_has() -> None:
    for variant, radial in (("cosine", False), ("qnorm", True)):
        q, d = pair(4)
        d.requires_grad_()
        in_batch_loss(MagnitudeScore(variant)(q, d)).backward()
        along = (d.grad * d).sum(dim=1).abs()
        assert bool((along > 1e-6).all()) is radial


def test_loss_by_hand_with_repeats_masked() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.0, 0.1, 0.5], [0.2, 0.2, 0.4]])
    loss = in_batch_loss(scores, document_ids=torch.tensor([7, 7, 8]), scale=2.0)
    e = (2 * scores).exp()
    rows = [
        -torch.log(e[0, 0] / (e[0, 0] + e[0, 2])),  # column 1 repeats row 0's positive
        -torch.log(e[1, 1] / (e[1, 1] + e[1, 2])),
        -torch.log(e[2, 2] / e[2].sum()),
    ]
    assert loss.item() == pytest.approx(float(sum(rows)) / 3, rel=1e-6)


def test_loss_takes_hard_negatives_and_frequencies() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.3], [0.2, 0.4, 0.6]])
    log_q = torch.tensor([0.5, -1.0, 0.0])
    expected = F.cross_entropy(20 * scores - log_q, torch.tensor([0, 1]))
    assert in_batch_loss(scores, log_frequency=log_q).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match="positive column per row"):
        in_batch_loss(scores.T)


def test_zero_vectors_score_zero_with_finite_gradients() -> None:
    for variant in VARIANTS:
        q = torch.zeros(2, 3, requires_grad=True)
        d = torch.ones(2, 3, requires_grad=True)
        loss = in_batch_loss(MagnitudeScore(variant)(q, d))
        loss.backward()
        assert loss.item() == pytest.approx(np.log(2))
        assert torch.isfinite(q.grad).all()
        assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1e-8])
def test_a_document_without_direction_pulls_no_harder_than_the_others(
    dtype: torch.dtype, size: float
) -> None:
    q, d = (side.to(dtype) for side in pair(5))
    d[2] = size
    d.requires_grad_()
    for variant in VARIANTS:
        score = MagnitudeScore(variant).to(dtype)
        d.grad = None
        in_batch_loss(score(q, d)).backward()
        pulls = d.grad.norm(dim=1)
        assert torch.isfinite(pulls).all()
        assert 0 < pulls[2] < 10 * pulls[[0, 1, 3, 4]].max()
        if score.gamma_logits is not None:
            assert torch.isfinite(score.gamma_logits.grad).all()


def test_half_precision_holds_norms_and_logits_beyond_its_range() -> None:
    d = torch.full((2, 64), 30_000.0, dtype=torch.float16)  # its norm is 240,000
    unit = MagnitudeScore("cosine").documents(d)
    assert unit.norm(dim=1).tolist() == pytest.approx([1, 1], rel=1e-3)
    scores = torch.tensor([[60_000.0, 0], [0, 60_000.0]], dtype=torch.float16, requires_grad=True)
    in_batch_loss(scores).backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("gamma", [1.0, 0.5, torch.tensor(0.3)])
def test_other_vectors_are_divided_by_their_norm_to_the_bit(gamma: float | torch.Tensor) -> None:
    v = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    v = (v * torch.logspace(-5, 8, 64)[:, None]).requires_grad_()
    found, expected = shrink(v, gamma), v / v.norm(dim=1, keepdim=True) ** gamma
    assert torch.equal(found, expected)
    grads = [torch.autograd.grad(x.sin().sum(), v)[0] for x in (found, expected)]
    assert torch.equal(*grads)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of cosine, dot"):
        MagnitudeScore("euclid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        MagnitudeContrastiveLoss(torch.nn.Identity(), scale=0)


# --- sentence-transformers --------------------------------------------------------------------

WORDS = ["lamp", "chair", "drill", "rope", "vase", "boot"]


def tiny_model(folder: Path, *, normalise: bool = False):  # type: ignore[no-untyped-def]
    """A BERT of one layer over a vocabulary of a dozen words, made on the spot."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "buy", "a", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder))
    modules = [transformer, Pooling(16)] + ([Normalize()] if normalise else [])
    return SentenceTransformer(modules=modules, device="cpu")


def features(model, *columns: list[str]):  # type: ignore[no-untyped-def]
    return [model.preprocess(column) for column in columns]


def test_equal_texts_are_no_negatives(tmp_path: Path) -> None:
    model = tiny_model(tmp_path).eval()
    loss = MagnitudeContrastiveLoss(model, variant="dot", scale=0.5)
    queries, documents = ["buy lamp", "buy a lamp", "buy rope"], ["lamp", "lamp", "a rope"]
    found = loss(features(model, queries, documents), None)
    q, d = (torch.from_numpy(model.encode(texts)) for texts in (queries, documents))
    expected = in_batch_loss(q @ d.T, document_ids=torch.tensor([0, 0, 1]), scale=0.5)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert found.item() != pytest.approx(in_batch_loss(q @ d.T, scale=0.5).item(), rel=1e-3)
    assert torch.allclose(loss.similarity(q.numpy(), d.numpy()), q @ d.T)


def test_labels_number_documents_when_asked(tmp_path: Path) -> None:
    model = tiny_model(tmp_path).eval()
    columns = features(model, ["lamp", "rope"], ["a lamp", "buy lamp"], ["boot", "vase"])
    q, d, n = (model(dict(f))["sentence_embedding"] for f in columns)
    plain = MagnitudeContrastiveLoss(model, variant="cosine")
    by_label = MagnitudeContrastiveLoss(model, variant="cosine", labels_are_documents=True)
    scores = MagnitudeScore("cosine")(q, torch.cat([d, n]))
    same, none = torch.tensor([3, 3, 4, 5]), torch.tensor([0, 1, 2, 3])
    labels = torch.tensor([3, 3])
    assert by_label(columns, labels).item() == pytest.approx(
        in_batch_loss(scores, document_ids=same).item(), rel=1e-5
    )
    assert plain(columns, labels).item() == pytest.approx(
        in_batch_loss(scores, document_ids=none).item(), rel=1e-5
    )
    with pytest.raises(ValueError, match="whole numbers"):
        by_label(columns, None)


def test_a_model_that_normalises_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, normalise=True)
    with pytest.raises(ValueError, match="drop the Normalize module"):
        MagnitudeContrastiveLoss(model, variant="qnorm")
    MagnitudeContrastiveLoss(model, variant="cosine")


def test_trains_by_the_trainer_with_a_learning_rate_for_the_exponents(tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    model = tiny_model(tmp_path)
    loss = MagnitudeContrastiveLoss(model, variant="learn")
    before = loss.score.gamma_logits.detach().clone()
    pairs = Dataset.from_dict(
        {"query": [f"buy {w}" for w in WORDS], "item": [f"a {w}" for w in WORDS]}
    )
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=20,
        per_device_train_batch_size=6,
        learning_rate=3e-3,
        learning_rate_mapping={GAMMA_PATTERN: 0.1},
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=pairs, loss=loss)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    rates = {g["lr"] for g in trainer.optimizer.param_groups if g["params"]}
    assert rates == {3e-3, 0.1}
    assert (loss.score.gamma_logits.detach().cpu() - before).abs().min() > 0.05
    assert loss.get_config_dict() == {
        "variant": "learn",
        "scale": 20.0,
        "labels_are_documents": False,
    }
