"""The oracles: every score and list against brute force, and against transformers' generate."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft import LoraConfig, get_peft_model

from genrec.decode import BeamEngine
from genrec.sid.trie import SIDTrie

K = 12


def test_infinite_width_is_the_full_sort(setup, make):
    items = len(setup.codes)
    out = setup.engine.search(setup.ids, setup.mask, num_beams=items)
    assert out.valid.all()
    assert out.exact.all()
    for user, scores in enumerate(setup.scores):
        assert out.items[user].tolist() == make.expected(scores, setup.codes, items)
    torch.testing.assert_close(out.scores, setup.scores.gather(1, out.items), atol=1e-4, rtol=0)
    assert (out.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9, 20, 45])
def test_every_score_is_the_oracles_and_certified_lists_are_right(setup, make, width):
    k = min(width, K)
    out = setup.engine.search(setup.ids, setup.mask, num_beams=width, k=k)
    assert out.valid.all()
    torch.testing.assert_close(out.scores, setup.scores.gather(1, out.items), atol=1e-4, rtol=0)
    for user, scores in enumerate(setup.scores):
        items = out.items[user].tolist()
        assert len(set(items)) == k
        assert out.sids[user].tolist() == setup.codes[items].tolist()
        if out.exact[user]:
            assert items == make.expected(scores, setup.codes, k)


def test_the_certificate_tells_right_from_wrong(setup, make):
    """Over many widths some lists are proven, and whatever is wrong is never proven."""
    proven, wrong = 0, 0
    for width in range(1, 40):
        out = setup.engine.search(setup.ids, setup.mask, num_beams=width, k=1)
        for user, scores in enumerate(setup.scores):
            right = out.scores[user, 0] >= scores.max() - 1e-4
            proven += bool(out.exact[user])
            wrong += not right
            assert right or not out.exact[user]
    assert proven > 20
    assert wrong > 0, "the models are too easy to tell anything"


@pytest.mark.parametrize("width", [4, 10])
def test_equals_generate_with_a_prefix_function(setup, width):
    names = np.stack([t[setup.codes[:, i]] for i, t in enumerate(setup.tokens)], axis=1)
    after = {}
    for row in names.tolist():
        for level in range(3):
            after.setdefault(tuple(row[:level]), set()).add(row[level])
    length = setup.ids.shape[1]
    generated = setup.model.generate(
        input_ids=setup.ids,
        attention_mask=setup.mask,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=3,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(after[tuple(ids[length:].tolist())]),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    theirs = generated.sequences[:, length:].view(len(setup.ids), width, 3)

    unique = np.unique(setup.codes, axis=0)  # one item per SID, as generate returns sequences
    engine = BeamEngine(setup.model, SIDTrie(unique), setup.tokens)
    out = engine.search(setup.ids, setup.mask, num_beams=width)
    ours = np.stack([t[out.sids[..., i].numpy()] for i, t in enumerate(setup.tokens)], axis=-1)
    # With 5 codes on level 0, generate's spare beams hold nothing real; the lists must still agree.
    assert ours.tolist() == theirs.tolist()
    scores = generated.sequences_scores.view(len(setup.ids), width)
    torch.testing.assert_close(out.scores, scores, atol=1e-4, rtol=0)


def test_alone_or_in_a_batch_is_the_same(setup, make):
    together = setup.engine.search(setup.ids, setup.mask, num_beams=15, k=K)
    for user, prompt in enumerate(setup.prompts):
        alone = setup.engine.search(*make.pad_left([prompt]), num_beams=15, k=K)
        assert alone.items[0].tolist() == together.items[user].tolist()
        assert alone.exact[0] == together.exact[user]
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-4, rtol=0)


def test_items_of_one_sid_are_neighbours_with_one_score(make):
    codes = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 3, 2], [1, 1, 1]])
    engine = BeamEngine(make.model(), SIDTrie(codes), make.tokens())
    out = engine.search(*make.pad_left([[5, 6]]), num_beams=5)
    items, scores = out.items[0].tolist(), out.scores[0].tolist()
    at = items.index(0)
    assert items[at : at + 3] == [0, 2, 4]
    assert len(set(scores[at : at + 3])) == 1
    short = engine.search(*make.pad_left([[5, 6]]), num_beams=5, k=at + 2)
    assert short.items[0].tolist() == items[: at + 2]


def test_equal_scores_of_different_sids_go_by_sid(make):
    """A model without weights is flat: every SID scores alike, and order is by SID, then item."""
    model, codes = make.model(), make.codes()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    engine = BeamEngine(model, SIDTrie(codes), make.tokens())
    by_sid = sorted(range(len(codes)), key=lambda i: (tuple(codes[i]), i))
    for width in (3, 8, len(codes)):
        out = engine.search(*make.pad_left([[5, 6]]), num_beams=width, k=3)
        assert out.items[0].tolist() == by_sid[:3]
        assert out.scores[0].tolist() == pytest.approx([-3 * np.log(make.vocab)] * 3, abs=1e-4)


def test_fewer_items_than_asked_are_not_valid(make):
    codes = np.array([[0, 1, 2], [4, 3, 5], [4, 3, 5]])
    engine = BeamEngine(make.model(), SIDTrie(codes), make.tokens())
    out = engine.search(*make.pad_left([[1, 2], [3]]), num_beams=10, k=7)
    assert out.valid.tolist() == [[True] * 3 + [False] * 4] * 2
    assert (out.items[:, 3:] == -1).all()
    assert (out.scores[:, 3:] == -torch.inf).all()
    assert (out.sids[:, 3:] == -1).all()
    assert out.exact.all()
    assert [sorted(row) for row in out.items[:, :3].tolist()] == [[0, 1, 2]] * 2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_catalogues_equal_brute_force(make, data):
    levels = data.draw(st.integers(1, 3))
    row = st.tuples(*[st.integers(0, data.draw(st.sampled_from([0, 1, 4])))] * levels)
    codes = np.array(data.draw(st.lists(row, min_size=1, max_size=25)))
    width = data.draw(st.integers(1, 30))
    k = data.draw(st.integers(1, width))
    model, tokens = make.model(), make.tokens(sizes=(5,) * levels)
    out = BeamEngine(model, SIDTrie(codes), tokens).search(
        *make.pad_left([[1, 2, 3], [4]]), num_beams=width, k=k
    )
    oracle = make.oracle(model, [[1, 2, 3], [4]], codes, tokens)
    for user, scores in enumerate(oracle):
        found = out.items[user][out.valid[user]].tolist()
        torch.testing.assert_close(
            out.scores[user][out.valid[user]], scores[found], atol=1e-4, rtol=0
        )
        if out.exact[user] or width >= len(codes):
            assert found == make.expected(scores, codes, k)


def test_works_on_peft_models_in_training(make):
    """An adapted model scores with its adapter, without dropout, and trains on afterwards."""
    model, codes, tokens = make.model(), make.codes(), make.tokens()
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, lora_dropout=0.5)
    peft = get_peft_model(model, lora)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    peft.train()
    model.model.norm.eval()  # a submodule that somebody froze stays so
    prompts = [[1, 2, 3], [4]]
    out = BeamEngine(peft, SIDTrie(codes), tokens).search(*make.pad_left(prompts), num_beams=60)
    assert peft.training
    assert not model.model.norm.training
    assert model.model.layers[0].training
    loss = peft(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss
    loss.backward()

    oracle = make.oracle(peft.eval(), prompts, codes, tokens)
    torch.testing.assert_close(out.scores, oracle.gather(1, out.items), atol=1e-4, rtol=0)
    with peft.disable_adapter():
        assert (make.oracle(peft, prompts, codes, tokens) - oracle).abs().max() > 0.1


def test_bfloat16_scores_are_close(make):
    model, codes, tokens = make.model(), make.codes(), make.tokens()
    oracle = make.oracle(model, [[1, 2, 3]], codes, tokens)
    for attention in ("sdpa", "eager"):
        half = make.model(attention=attention).to(torch.bfloat16)
        out = BeamEngine(half, SIDTrie(codes), tokens).search(
            *make.pad_left([[1, 2, 3]]), num_beams=60
        )
        assert out.scores.dtype == torch.float32
        assert (out.scores - oracle.gather(1, out.items)).abs().mean() < 0.5


def test_results_can_be_written_to(setup):
    out = setup.engine.search(setup.ids, setup.mask, num_beams=2)
    for tensor in (out.items, out.scores, out.valid, out.exact, out.sids):
        tensor[0] = 0  # an inference tensor would refuse
