"""What the engine refuses: what is no model, tokens that do not fit, bad prompts."""

import numpy as np
import pytest
import torch

from genrec.decode import BeamEngine
from genrec.sid.trie import SIDTrie


def test_other_models_are_refused(make):
    trie, tokens = SIDTrie(make.codes()), make.tokens()
    with pytest.raises(ValueError, match="no transformers config"):
        BeamEngine(torch.nn.Linear(2, 2), trie, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:2], "2 levels; the SIDs of the trie have 3"),
        (lambda t: [t[0][:4], *t[1:]], r"code_tokens\[0\] has 4 tokens, but .* has code 4"),
        (lambda t: [t[0], np.append(t[1][1:], 97), t[2]], r"code_tokens\[1\] .* 0 to 96"),
        (lambda t: [t[0], np.append(t[1][1:], -1), t[2]], r"code_tokens\[1\] has token ids -1"),
        (lambda t: [*t[:2], np.append(t[2][:5], t[2][1])], r"\[2\] gives codes \[1, 5\] one"),
        (lambda t: [t[0], np.append(t[1][1:], t[0][0]), t[2]], "codes of two levels"),
        (lambda t: [t[0].astype(float), *t[1:]], "float64"),
        (lambda t: [t[0][:, None], *t[1:]], "shape"),
    ],
)
def test_bad_tokens(make, change, message):
    with pytest.raises(ValueError, match=message):
        BeamEngine(make.model(), SIDTrie(make.codes()), change(make.tokens()))


IDS, MASK = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 1, 1], [0, 0, 1]])


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS, torch.tensor([[1, 1, 1], [1, 1, 0]]), "prompt 1 .* left padding"),
        (IDS, torch.tensor([[1, 1, 1], [1, 0, 1]]), "prompt 1 .* left padding"),
        (IDS, torch.tensor([[0, 0, 0], [0, 1, 1]]), "prompt 0 is empty"),
        (IDS, MASK * 2, "other values"),
        (IDS, MASK[:, :2], "the same"),
        (IDS[0], MASK[0], "the same"),
        (IDS[:0], MASK[:0], "neither of them 0"),
        (IDS.float(), MASK, "float32"),
        (IDS - 2, MASK, "integers of 0 or more"),
        (IDS + 91, MASK, "token 97; the model has 0 to 96"),
        (torch.ones(1, 62, dtype=int), torch.ones(1, 62), "a prompt has 62 tokens"),
    ],
)
def test_bad_prompts(setup, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        setup.engine.search(ids, mask, num_beams=3)


def test_the_longest_prompt_fits(setup):
    """61 tokens and 3 codes fill 64 positions; padding counts for nothing."""
    ids, mask = torch.ones(1, 70, dtype=int), torch.ones(1, 70, dtype=int)
    mask[:, :9] = 0
    assert setup.engine.search(ids, mask, num_beams=3).valid.all()


@pytest.mark.parametrize(("num_beams", "k"), [(0, None), (3, 4), (3, 0), (-1, -1)])
def test_bad_widths(setup, num_beams, k):
    with pytest.raises(ValueError, match="1 <= k <= num_beams"):
        setup.engine.search(IDS, MASK, num_beams=num_beams, k=k)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error(make, value):
    model = make.model()
    engine = BeamEngine(model, SIDTrie(make.codes()), make.tokens())
    model.lm_head.weight.data[50] = value
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        engine.search(IDS, MASK, num_beams=3)
    assert not model.training
    BeamEngine(model, SIDTrie(make.codes()), make.tokens())  # weights may be loaded later
