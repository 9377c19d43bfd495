"""Item features: the rows are what the formula says, in training, validation and on disk."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from genrec.lm import features
from genrec.lm.batch import code_token_ids
from genrec.lm.features import attach, code_features, merge, merged, of_head
from genrec.lm.loss import TargetLoss
from genrec.lm.model import save_merged
from genrec.lm.sampler import Collator
from genrec.lm.train import check_sharding, train
from genrec.sid import SIDSets

TASKS = ["history_to_sid", "sid_to_title", "title_to_sid"]
CODES = [np.array([3, 4]), np.array([5, 6])]  # tokens of two codes on two levels
SIDS = SIDSets([np.array([[0, 0], [0, 1], [1, 1]])])


def test_a_code_has_the_mean_of_its_items() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    table = code_features(vectors, SIDS, CODES, dim=9, vocab_size=8).numpy()
    width = 2  # three centred points span a plane
    assert table.shape == (8, 2 * width)
    assert not table[[0, 1, 2, 7]].any()
    assert not table[3:5, width:].any(), "a level has columns of its own"
    assert not table[5:7, :width].any()
    items = np.stack([table[5, width:], table[4, :width]])  # items 0 and 2 have a code alone
    np.testing.assert_allclose(table[3, :width], (items[0] - items[1] - items[0]) / 2, atol=1e-6)
    np.testing.assert_allclose(table[6, width:], -items[0] / 2, atol=1e-6)  # the mean of all is 0


def test_what_is_near_stays_near_in_few_components() -> None:
    rng = np.random.default_rng(1)
    vectors = np.repeat(rng.normal(size=(2, 16)), 20, axis=0) + 0.1 * rng.normal(size=(40, 16))
    sids = SIDSets([np.arange(40)[:, None]])
    table = code_features(vectors, sids, [np.arange(40)], dim=3, vocab_size=40).numpy()
    assert table.shape == (40, 3)
    assert np.square(table).sum(1).mean() == pytest.approx(1)
    same = np.linalg.norm(table[:20] - table[:20].mean(0), axis=1).max()
    assert same < np.linalg.norm(table[:20].mean(0) - table[20:].mean(0)) / 2


def test_sets_have_features_for_their_own_codes() -> None:
    vectors = np.eye(3)
    both = SIDSets([SIDS.own(0), SIDS.own(0)[:, :1]])
    tokens = [np.array([0, 1, 2, 3]), np.array([4, 5])]
    table = code_features(vectors, both, tokens, dim=2, vocab_size=6).numpy()
    np.testing.assert_allclose(table[2:4], table[0:2])
    assert table[2:4].any()


@pytest.fixture
def made(scratch):
    """A model with features, the same with the sums written out by hand, and a batch."""

    def make(tied=True):
        model, tokenizer, data, _ = scratch(dropout=0.0)
        plain, *_ = scratch(dropout=0.0)
        plain.load_state_dict(model.state_dict())
        for each in () if tied else (model, plain):
            each.config.tie_word_embeddings = False
            each.lm_head.weight = torch.nn.Parameter(each.lm_head.weight.detach() * 0.9)
        sids = SIDSets([np.array([[item // 8, item % 8] for item in range(30)])])
        tokens = code_token_ids(tokenizer, [8, 8])
        vectors = np.random.default_rng(0).normal(size=(30, 12))
        table = code_features(vectors, sids, tokens, dim=6, vocab_size=len(tokenizer))
        attach(model, table, seed=3)
        with torch.no_grad():
            parts = model.item_features
            plain.model.embed_tokens.weight += table @ parts[0].projection
            if not tied:
                plain.lm_head.weight += table @ parts[1].projection
        batch = Collator(0, TASKS)([data[i] for i in (0, 1, 45, 50, 80)])
        return model, plain, batch, tokens, tokenizer

    return make


@pytest.mark.parametrize("tied", [True, False])
def test_they_are_in_the_rows(made, tied):
    model, plain, batch, _, _ = made(tied)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = plain(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    own = model.model.embed_tokens.weight.detach().clone()
    with merged(model):
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        head = model.get_output_embeddings().weight
        torch.testing.assert_close(head, plain.get_output_embeddings().weight)
        assert of_head(model) is None
    assert torch.equal(model.model.embed_tokens.weight, own), "as it was, to the last bit"
    assert of_head(model) is not None
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    merge(model)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    assert not [name for name, _ in model.named_parameters() if features.NAME in name]


@pytest.mark.parametrize("among_codes", [True, False])
@pytest.mark.parametrize("max_logits", [10**9, 50])
def test_the_loss_sees_them_and_what_they_learn(made, among_codes, max_logits):
    model, plain, batch, tokens, _ = made()
    options = {"max_logits": max_logits, "code_groups": tokens if among_codes else None}
    expected, _ = TargetLoss(plain, **options)(plain, batch)
    losses, _ = TargetLoss(model, **options)(model, batch)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    expected.sum().backward()
    losses.sum().backward()
    gradient = plain.model.embed_tokens.weight.grad
    torch.testing.assert_close(model.model.embed_tokens.weight.grad, gradient, atol=1e-4, rtol=0)
    part = model.item_features[0]
    torch.testing.assert_close(
        part.projection.grad, part.features.T @ gradient, atol=1e-3, rtol=1e-4
    )


def test_training_goes_on_after_a_kill_and_saves_a_plain_model(made, tmp_path, scratch):
    settings = {"tokens_per_batch": 300, "log_every": 2, "eval_every": 4, "save_every": 4}
    settings |= {"metric": "loss", "device": "cpu", "ema": 0.9, "patience": 99}
    _, _, train_data, valid_data = scratch(dropout=0.0)
    whole, *_, tokens, tokenizer = made()
    options = {**settings, "code_groups": tokens}
    before = whole.item_features[0].projection.detach().clone()
    train(whole, tokenizer, train_data, valid_data, out=tmp_path / "a", max_steps=8, **options)
    assert not torch.equal(whole.item_features[0].projection, before)

    class Killed(Exception):
        pass

    def killed(_, step, __):
        if step == 6:
            raise Killed

    first, *_ = made()
    with pytest.raises(Killed):
        train(
            *(first, tokenizer, train_data, valid_data),
            out=tmp_path / "b",
            max_steps=8,
            progress=killed,
            **options,
        )
    again, *_ = made()
    train(again, tokenizer, train_data, valid_data, out=tmp_path / "b", max_steps=8, **options)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parameter, again.get_parameter(name), msg=name)

    ids = torch.tensor([[5, 6, 7, int(tokens[0][1]), int(tokens[1][2])]])
    expected = whole(input_ids=ids).logits
    merge(whole)
    save_merged(whole, tokenizer, tmp_path / "merged")
    loaded, notes = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not notes["unexpected_keys"]
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_shared_out_weights_are_refused(made):
    model, *_ = made()
    with pytest.raises(ValueError, match=r"train.model.item_features.*item_features=0"):
        check_sharding(model, fsdp=True, deepspeed=False, ema=0)
    check_sharding(model, fsdp=False, deepspeed=False, ema=0.9)
