"""AnchorRec's network and losses: every formula against numpy, and what gradients reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from genrec.retrieve.anchorrec import training as losses
from genrec.retrieve.anchorrec.model import AnchorRecModule, knn_graph
from genrec.retrieve.anchorrec.settings import AnchorRecSettings
from genrec.retrieve.anchorrec.training import Epochs, Triples, anchored, direct, total, views_of
from genrec.retrieve.lightgcn import history_block, item_degrees, normalised_graph


def small_module(
    features: dict[str, np.ndarray], **settings: Any
) -> tuple[AnchorRecModule, list[list[int]]]:
    sequences = [[0, 1, 4], [2, 3], [], [1, 5, 0, 0]]
    torch.manual_seed(0)
    defaults: dict[str, Any] = {
        "dim": 4,
        "id_layers": 2,
        "view_layers": 2,
        "neighbours": 3,
        "trained_users": False,
    }
    module = AnchorRecModule(
        normalised_graph(sequences, 7),
        history_block(sequences, item_degrees(sequences, 7)),
        views_of(features, 7) if features else {},
        **(defaults | settings),
    )
    return module, sequences


def small_features(image: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {"text": rng.normal(size=(7, 5)).astype("f4")}
    if image:
        found["image"] = rng.normal(size=(7, 3)).astype("f4")
        found["image"][6] = 0
    return found


def weights(**changed: Any) -> AnchorRecSettings:
    start: dict[str, Any] = {
        "l2": 0.3,
        "aal": 0.5,
        "amp": 0.7,
        "temperature": 0.25,
        "alignment": "anchor",
    }
    return AnchorRecSettings(**(start | {"batch_size": 8} | changed))


# --- the losses -------------------------------------------------------------------------------


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])


def numpy_info_nce(a: np.ndarray, b: np.ndarray, t: float) -> float:
    e = np.exp(cosines(a, b) / t)
    return float(-np.log(np.diag(e) / e.sum(axis=1)).mean())


def test_losses_are_the_formulas() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 5, 4))
    x, y, z = (torch.from_numpy(v) for v in (a, b, c))
    assert float(losses.info_nce(x, y, temperature=0.3)) == pytest.approx(numpy_info_nce(a, b, 0.3))
    expected = np.sqrt(((a @ a.T - cosines(b, b)) ** 2).sum()) / 5
    assert float(losses.gram(x, y)) == pytest.approx(expected)
    score = (a * b).sum(1) - (a * c).sum(1)
    assert float(losses.bpr(x, y, z)) == pytest.approx(-np.log(1 / (1 + np.exp(-score))).mean())
    margin = 0.2 + (1 - np.diag(cosines(a, b))) - (1 - np.diag(cosines(a, c)))
    assert float(losses.hinge(x, y, z)) == pytest.approx(np.maximum(margin, 0).mean())
    squares = 0.5 * (a**2).sum() / 100 + 0.5 * (b**2).sum() / 100
    assert float(losses.half_squares(x, y, batch_size=100)) == pytest.approx(squares)


def test_gram_leaves_out_items_without_the_view_and_targets_take_no_gradient() -> None:
    learned = torch.randn(4, 3, requires_grad=True)
    raw = torch.randn(4, 2)
    raw[1] = 0
    raw.requires_grad_()
    rows = [0, 2, 3]
    losses.gram(learned, raw).backward()
    torch.testing.assert_close(losses.gram(learned, raw), losses.gram(learned[rows], raw[rows]))
    assert raw.grad is None
    assert not learned.grad[1].any()  # type: ignore[index]
    assert float(losses.gram(learned, torch.zeros(4, 2))) == 0


def test_smoothness_is_the_mean_over_edges() -> None:
    graph = torch.tensor([[0.5, 0.2], [0.0, 1.0]]).to_sparse().coalesce()
    vectors = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert float(losses.smoothness(graph, vectors)) == pytest.approx(0.2 * (4 + 9) / 3)


def test_users_take_no_gradient_in_the_hinge() -> None:
    users, liked, others = (torch.randn(3, 2, requires_grad=True) for _ in range(3))
    losses.hinge(users, liked, others).backward()
    assert users.grad is None
    assert liked.grad is not None


# --- the graphs and the forward pass ----------------------------------------------------------


def brute_knn(x: np.ndarray, k: int) -> np.ndarray:
    a = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        cosine = [
            x[i] @ y / max(np.linalg.norm(x[i]) * np.linalg.norm(y), 1e-12) if i != j else 2.0
            for j, y in enumerate(x)
        ]
        for j in sorted(range(len(x)), key=lambda j: -cosine[j])[:k]:
            a[i, j] = min(max(cosine[j], 0), 1)
    root = 1 / np.sqrt(a.sum(axis=1))
    return root[:, None] * a * root


def test_item_graph_is_the_brute_force_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(5).normal(size=(20, 4))
    x[9] = 0
    for cells in (2**24, 60):  # whole, and three rows at a time
        monkeypatch.setattr("genrec.retrieve.anchorrec.model._MAX_CELLS", cells)
        found = knn_graph(torch.from_numpy(x), 5).to_dense().numpy()
        np.testing.assert_allclose(found, brute_knn(x, 5), atol=1e-6)
    copies = knn_graph(torch.ones(9, 2), 3).to_dense()
    assert (copies.diagonal() > 0).all()  # each is still a neighbour of its own
    assert np.flatnonzero(found[9]).tolist() == [9]
    assert not np.allclose(found, found.T)  # directed
    assert knn_graph(torch.eye(3), 10).to_dense().equal(torch.eye(3))


def numpy_head(head: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    p = {n: v.detach().numpy() for n, v in head.named_parameters()}
    hidden = np.maximum(x @ p["0.weight"].T + p["0.bias"], 0)
    return hidden @ p["2.weight"].T + p["2.bias"]


def test_forward_is_the_paper_in_numpy() -> None:
    module, sequences = small_module(small_features())
    found = module()
    e = module.items.detach().numpy()
    graph = normalised_graph(sequences, 7).to_dense().numpy()
    block = graph[:4, 4:]
    zero = np.concatenate([block @ e, e])
    c = (zero + graph @ zero + graph @ graph @ zero) / 3
    s = {}
    for name, x in views_of(small_features(), 7).items():
        linear, gate = module.linear[name], module.gate[name]
        f = x.numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()  # type: ignore[operator]
        g = f @ gate.weight.detach().numpy().T + gate.bias.detach().numpy()  # type: ignore[operator]
        near = brute_knn(x.numpy(), 3)
        s[name] = near @ near @ (e / (1 + np.exp(-g)))
    decoded = 5e-4 * numpy_head(
        module.heads["decoder"], numpy_head(module.heads["multimodal"], s["multimodal"])
    )
    both = s["multimodal"] + s["text"]  # never the image
    for ours, theirs in (
        (found.users, c[:4] + block @ both),
        (found.items, c[4:] + both + decoded),
        (found.ids.items, c[4:]),
        (found.views["image"], s["image"]),
        (block @ found.ids.history.detach().numpy(), c[:4]),
    ):
        np.testing.assert_allclose(torch.as_tensor(ours).detach(), theirs, atol=1e-5)
    assert set(found.view_users) == {"multimodal", "text"}


def test_trained_users_are_layer_zero_and_histories_go_without() -> None:
    module, sequences = small_module({}, trained_users=True)
    found, e = module(), module.items.detach().numpy()
    graph = normalised_graph(sequences, 7).to_dense().numpy()
    assert module.users is not None
    own = module.users.detach().numpy()
    zero = np.concatenate([own, e])
    c = (zero + graph @ zero + graph @ graph @ zero) / 3
    np.testing.assert_allclose(found.users.detach(), c[:4], atol=1e-6)
    np.testing.assert_allclose(found.items.detach(), c[4:], atol=1e-6)
    served = graph[:4, 4:] @ found.ids.history.detach().numpy()
    np.testing.assert_allclose(served, c[:4] - own / 3, atol=1e-6)


def test_total_is_the_sum_with_the_published_weights() -> None:
    module, _ = small_module(small_features())
    found, triple = (
        module(),
        (torch.tensor([0, 1, 3]), torch.tensor([1, 2, 5]), torch.tensor([2, 4, 4])),
    )
    u, i, j = found.users[triple[0]], found.items[triple[1]], found.items[triple[2]]
    liked = triple[1]
    s, raw = found.views, {n: module.raw(n) for n in found.views}
    aal = anchored(module, found, liked, weights())
    amp = sum(
        w * losses.gram(s[n][liked], raw[n][liked])
        for n, w in (("multimodal", 1), ("text", 0.03), ("image", 0.01))
    )
    expected = (
        losses.bpr(u, i, j)
        + 0.01 * losses.hinge(u, i, j)
        + 0.3 * 0.5 * (u.square().sum() + i.square().sum() + j.square().sum()) / 8
        + 0.5 * aal
        + 0.7 * amp
        + 0.1 * losses.smoothness(module.near("multimodal"), s["multimodal"])
    )
    torch.testing.assert_close(total(module, found, triple, weights()), expected)
    none = total(module, found, triple, weights(alignment="none"))
    torch.testing.assert_close(none, expected - 0.5 * aal)
    other = total(module, found, triple, weights(alignment="direct"))
    torch.testing.assert_close(other, none + 0.5 * direct(found, triple[0], liked))


def test_alignment_to_the_anchor_by_hand() -> None:
    module, _ = small_module(small_features())
    found, liked = module(), torch.tensor([0, 6, 2])  # item 6 has no image
    s = found.views["multimodal"][liked].detach().numpy()
    anchor = numpy_head(module.heads["multimodal"], s)
    ids = numpy_head(module.heads["id"], found.ids.items[liked].detach().numpy())
    text = numpy_head(module.heads["text"], module.raw("text")[liked].numpy())
    image = numpy_head(module.heads["image"], module.raw("image")[liked].numpy())
    mixed = 0.75 * text + 0.25 * image * [[1], [0], [1]]
    expected = numpy_info_nce(anchor, ids, 0.25) + numpy_info_nce(anchor, mixed, 0.25)
    assert anchored(module, found, liked, weights()).item() == pytest.approx(expected, rel=1e-4)


def test_direct_alignment_by_hand() -> None:
    module, _ = small_module(small_features())
    found, users, liked = module(), torch.tensor([0, 1, 3]), torch.tensor([1, 2, 5])
    n = {k: v.detach().numpy() for k, v in found.views.items()}
    s_users = found.view_users["multimodal"].detach().numpy()
    c_users, c_items = found.ids.users.detach().numpy(), found.ids.items.detach().numpy()
    expected = numpy_info_nce(n["multimodal"][liked], c_items[liked], 0.2)
    expected += numpy_info_nce(s_users[users], c_users[users], 0.2)
    assert direct(found, users, liked).item() == pytest.approx(expected, rel=1e-4)


def test_epochs_lower_the_rate_and_take_every_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, sequences = small_module({})
    triples = Triples(sequences, 7)
    epochs = Epochs(module, triples, weights(batch_size=3, lr=0.1), seed=0)
    rates, pairs = [], []

    def noted(
        module: Any, found: Any, triple: tuple[torch.Tensor, ...], given: AnchorRecSettings
    ) -> Any:
        rates.append(epochs._optimizer.param_groups[0]["lr"])
        pairs.extend(zip(*(t.tolist() for t in triple[:2]), strict=True))
        return total(module, found, triple, given)

    monkeypatch.setattr("genrec.retrieve.anchorrec.training.total", noted)
    for epoch in (0, 25, 50):
        pairs.clear()
        epochs(epoch)
        assert sorted(pairs) == list(zip(triples.user, triples.item, strict=True))
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(0.096)
    assert rates[3] == pytest.approx(0.1 * 0.96**0.5)


def second_term_reaches(anchor_gradient: bool) -> set[str]:
    """Parameters that move when only the views' heads change the loss: its difference of two terms."""
    module, _ = small_module(small_features())
    found, liked = module(), torch.tensor([0, 1, 2, 3])
    ids_only = losses.info_nce(
        module.heads["multimodal"](found.views["multimodal"][liked]),
        module.heads["id"](found.ids.items[liked]),
        temperature=0.25,
    )
    loss = anchored(module, found, liked, weights(anchor_gradient=anchor_gradient)) - ids_only
    names, parameters = zip(*module.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    moved = {n for n, g in zip(names, grads, strict=True) if g is not None and g.abs().max() > 1e-6}
    return {name.rsplit(".", 2)[0] for name in moved}


def test_text_and_image_reach_the_scores_only_with_anchor_gradient() -> None:
    assert second_term_reaches(False) == {"heads.text", "heads.image"}
    assert {"items", "heads.multimodal"} <= second_term_reaches(True)


def test_targets_stay_when_the_trained_features_move() -> None:
    module, _ = small_module(small_features())
    before = {name: module.raw(name).clone() for name in module.names}
    triple = (torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([2, 4]))
    optimizer = torch.optim.SGD(module.parameters(), lr=10.0)
    total(module, module(), triple, weights()).backward()
    optimizer.step()
    for name in module.names:
        assert not torch.equal(module.features[name], before[name])
        assert torch.equal(module.raw(name), before[name])


def test_the_multimodal_view() -> None:
    features = small_features()
    found = views_of(features, 7)
    assert list(found) == ["multimodal", "text", "image"]
    unit = [
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        for x in (features["image"], features["text"])
    ]
    both = np.concatenate(unit, axis=1)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(found["multimodal"], both, atol=1e-6)
    joint = np.ones((7, 2), dtype="f4")
    given = views_of({"text": features["text"], "joint": joint}, 7)
    assert list(given) == ["multimodal", "text"]
    np.testing.assert_array_equal(given["multimodal"], joint)


# --- triples ----------------------------------------------------------------------------------

NUM_ITEMS = 7
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=8), min_size=1, max_size=6)


def test_triples_hold_each_pair_once_and_every_negative_is_as_likely() -> None:
    triples = Triples([[1, 1, 4], [0, 2, 5], [], [0, 1, 2, 4, 5]], NUM_ITEMS)  # 3, 6 untrained
    assert list(zip(triples.user, triples.item, strict=True)) == [
        *((0, 1), (0, 4)),
        *((1, 0), (1, 2), (1, 5)),
    ]  # user 3 has every trained item
    users = np.repeat([0, 1], 30_000)
    drawn = triples.negatives(users, np.random.default_rng(0))
    counts = [np.bincount(drawn[users == u], minlength=NUM_ITEMS) / 30_000 for u in (0, 1)]
    third, half = 1 / 3, 1 / 2
    np.testing.assert_allclose(counts[0], [third, 0, third, 0, 0, third, 0], atol=0.02)
    np.testing.assert_allclose(counts[1], [0, half, 0, 0, half, 0, 0], atol=0.02)


@settings(max_examples=50, deadline=None)
@given(SEQUENCES)
def test_negatives_are_trained_and_not_the_users(sequences: list[list[int]]) -> None:
    try:
        triples = Triples(sequences, NUM_ITEMS)
    except ValueError:
        trained = {i for s in sequences for i in s}
        assert all(not s or set(s) == trained for s in sequences)
        return
    drawn = triples.negatives(triples.user, np.random.default_rng(1))
    for user, item in zip(triples.user, drawn, strict=True):
        assert item not in sequences[user]
        assert any(item in s for s in sequences)


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected users with different items"):
        Triples([[0, 1], [1, 0], []], NUM_ITEMS)
