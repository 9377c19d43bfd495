"""The loss in blocks: the values and gradients of the whole, whatever the head, and never more cells."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from genrec.lm.batch import IGNORED, code_token_ids
from genrec.lm.callbacks import read_log
from genrec.lm.loss import TargetLoss
from genrec.lm.model import load_pretrained, save_merged
from genrec.lm.sampler import Collator
from genrec.lm.train import train

TASKS = ["history_to_sid", "sid_to_title", "title_to_sid"]
WIDTH = 32  # of the scratch model
ROWS = (0, 1, 5, 45, 50, 80, 84)


def batch_of(data):
    return Collator(0, TASKS)([data[i] for i in ROWS])


def reference(model, batch, smoothing):
    """Everything materialised, as transformers would."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        batch["labels"][:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal_to_the_plain_loss(model, batch, *, smoothing=0.0, blocks=7):
    targets = int((batch["labels"][:, 1:] != IGNORED).sum())
    vocabulary = model.config.get_text_config().vocab_size
    whole = reference(model, batch, smoothing)
    expected = gradients(model, whole)
    assert expected
    for max_logits in (10**9, vocabulary * (targets // blocks)):
        loss = TargetLoss(model, max_logits=max_logits)
        losses, tasks = loss(model, batch, smoothing=smoothing)
        assert losses.shape == tasks.shape == (targets,)
        torch.testing.assert_close(losses.sum(), whole, atol=1e-5 * targets, rtol=1e-6)
        found = gradients(model, losses.sum())
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=0)
    return loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_blocks_give_the_plain_loss(scratch, smoothing):
    model, _, data, _ = scratch(dropout=0.0)
    assert_equal_to_the_plain_loss(model, batch_of(data), smoothing=smoothing)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_trained_token_rows_and_tied_heads_too(scratch, tmp_path, tied, smoothing):
    base, tokenizer, data, _ = scratch(dropout=0.0)
    base.config.tie_word_embeddings = tied
    if not tied:
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach() * 0.9)
    save_merged(base, tokenizer, tmp_path)
    model, _ = load_pretrained(str(tmp_path), levels=2, codes=8, rank=4, dropout=0.0)
    loss = assert_equal_to_the_plain_loss(model, batch_of(data), smoothing=smoothing)
    rows = [
        n for n, p in model.named_parameters() if "trainable_tokens" in n and p.grad is not None
    ]
    assert len(rows) == (1 if tied else 2)
    assert loss._known


def families(size):
    shape = {"vocab_size": size, "hidden_size": 16, "intermediate_size": 32, "head_dim": 8}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    yield Gemma2ForCausalLM(Gemma2Config(**shape, final_logit_softcapping=0.5))
    yield Cohere2ForCausalLM(Cohere2Config(**shape, logit_scale=0.3))
    yield GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=3.0))


@pytest.mark.parametrize("index", range(3), ids=["gemma2", "cohere2", "granite"])
def test_what_families_do_after_the_head_is_done_in_blocks(scratch, index):
    _, tokenizer, data, _ = scratch()
    model = list(families(len(tokenizer)))[index].eval()
    assert assert_equal_to_the_plain_loss(model, batch_of(data))._known


def double_logits(model):
    """Makes a model do after its head what no family is known to do."""
    forward = model.forward

    def odd(**inputs):
        out = forward(**inputs)
        out.logits = out.logits * 2
        return out

    model.forward = odd


def among_own_codes(model, batch, groups, smoothing):
    """Every target by itself, with the logits of all other groups taken away."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    losses = []
    for row, column in (batch["labels"][:, 1:] != IGNORED).nonzero().tolist():
        wanted, own = int(batch["labels"][row, column + 1]), logits[row, column]
        for tokens in groups:
            if wanted in tokens:
                own, wanted = own[torch.as_tensor(tokens)], list(tokens).index(wanted)
                break
        losses.append(F.cross_entropy(own, torch.tensor(wanted), label_smoothing=smoothing))
    return torch.stack(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["whole", "lora", "gemma2", "cohere2", "granite"])
def test_codes_may_be_learned_among_their_level(scratch, tmp_path, kind, smoothing):
    model, tokenizer, data, _ = scratch(dropout=0.0)
    if kind == "lora":
        save_merged(model, tokenizer, tmp_path)
        model, _ = load_pretrained(str(tmp_path), levels=2, codes=8, rank=4, dropout=0.0)
    elif kind != "whole":
        names = ["gemma2", "cohere2", "granite"]
        model = list(families(len(tokenizer)))[names.index(kind)].eval()
    groups, batch = code_token_ids(tokenizer, [8, 8]), batch_of(data)
    groups[1] = groups[1][::-1].copy()  # any order
    expected = among_own_codes(model, batch, groups, smoothing)
    assert (expected - among_own_codes(model, batch, [], smoothing)).abs().max() > 0.1
    wanted = gradients(model, expected.sum())
    for max_logits in (10**9, 40):
        loss = TargetLoss(model, max_logits=max_logits, code_groups=groups)
        losses, _ = loss(model, batch, smoothing=smoothing)
        torch.testing.assert_close(losses, expected, atol=2e-5, rtol=1e-5)
        assert loss._known
        for name, gradient in gradients(model, losses.sum()).items():
            scale = max(1.0, wanted[name].abs().max().item())
            torch.testing.assert_close(gradient, wanted[name], atol=2e-5 * scale, rtol=0)
    assert loss._rows == (kind != "lora")


def test_a_model_that_is_not_known_has_groups_too(scratch):
    model, tokenizer, data, _ = scratch(dropout=0.0)
    double_logits(model)
    groups, batch = code_token_ids(tokenizer, [8, 8]), batch_of(data)
    loss = TargetLoss(model, code_groups=groups)
    expected = among_own_codes(model, batch, groups, 0.0)
    for _ in range(2):
        torch.testing.assert_close(loss(model, batch)[0], expected, atol=2e-5, rtol=1e-5)
    assert loss._known is False


def test_among_codes_no_logits_of_the_vocabulary_are_held(scratch):
    model, tokenizer, data, _ = scratch(dropout=0.0)
    rows = [i for i, task in enumerate(data["task"]) if task.endswith("to_sid")][:20]
    batch = Collator(0, TASKS)([data[i] for i in rows])
    loss = TargetLoss(model, code_groups=code_token_ids(tokenizer, [8, 8]))
    loss(model, batch)
    with Largest(len(tokenizer)) as seen:
        loss(model, batch)[0].sum().backward()
    assert seen.cells == len(tokenizer)  # of one row, that the model's own forward asks for


def test_a_model_that_is_not_known_is_computed_whole_and_says_so(scratch, caplog):
    model, _, data, _ = scratch(dropout=0.0)
    double_logits(model)
    loss = assert_equal_to_the_plain_loss(model, batch_of(data))
    loss(model, batch_of(data))
    assert loss._known is False
    assert [r.message.split(":")[0] for r in caplog.records] == [
        f"max_logits={loss.max_logits} has no effect"
    ]


class Largest(TorchDispatchMode):
    """Notes the most cells that any tensor over the vocabulary has had, forwards and backwards."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.cells = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            logits = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self.vocabulary,)
            if logits and tensor.shape != (WIDTH, self.vocabulary):  # the head's weight, transposed
                self.cells = max(self.cells, tensor.numel())
        return out


def test_no_more_logits_than_allowed_are_ever_held(scratch):
    model, tokenizer, data, _ = scratch(dropout=0.0)
    batch = batch_of(data)
    targets = int((batch["labels"][:, 1:] != IGNORED).sum())
    assert targets < batch["labels"].numel() / 2
    for allowed, held in ((targets, targets), (targets - 1, targets - 1), (5, 5), (1, 1)):
        loss = TargetLoss(model, max_logits=allowed * len(tokenizer))
        with Largest(len(tokenizer)) as seen:
            loss(model, batch)[0].sum().backward()
        assert seen.cells == held * len(tokenizer)


def test_the_trainer_takes_the_bound(scratch, tmp_path):
    settings = {"max_steps": 4, "tokens_per_batch": 300, "log_every": 1, "eval_every": 4}
    settings |= {"metric": "loss", "device": "cpu", "label_smoothing": 0.1}
    logs = []
    for name, bound in (("whole", 10**9), ("blocks", 2000)):
        model, tokenizer, *rest = scratch(dropout=0.0)
        with Largest(len(tokenizer)) as seen:
            train(model, tokenizer, *rest, out=tmp_path / name, max_logits=bound, **settings)
        assert (seen.cells <= 2000) == (name == "blocks")
        logs.append(read_log(tmp_path / name / "log.jsonl"))
    for whole, blocks in zip(*logs, strict=True):
        assert whole.get("loss") == pytest.approx(blocks.get("loss"), abs=1e-5)
        assert whole.get("valid") == pytest.approx(blocks.get("valid"), abs=1e-5)
