"""What a model writes unheld, against decoding by hand; and that it can be taught to write."""

import numpy as np
import pytest
import torch

from genrec.lm.batch import code_token_ids, encode_prompts
from genrec.lm.compose import questions
from genrec.lm.tasks import Corpus
from genrec.lm.write import Writer
from genrec.schema import Segment

LEVELS, CODES = 2, 8


@pytest.fixture
def made(scratch):
    model, tokenizer, *_ = scratch()
    tokens = code_token_ids(tokenizer, [CODES] * LEVELS)
    return model.eval(), tokenizer, tokens


def prompts(*lengths: int) -> list[tuple[Segment, ...]]:
    return [tuple(Segment(sid=(i % 8, n % 8)) for i in range(n)) for n in lengths]


def by_hand(model, tokenizer, tokens, prompt, *, new: int) -> list[int]:
    """Greedy decoding, one prompt, no cache, no padding."""
    ids, _ = encode_prompts(tokenizer, tokens, [prompt], max_length=64)
    for _ in range(new):
        with torch.inference_mode():
            following = model(input_ids=ids).logits[:, -1].argmax(dim=-1)
        ids = torch.cat([ids, following[None]], dim=1)
    return ids[0, -new:].tolist()


def test_greedy_sids_are_those_by_hand(made) -> None:
    model, tokenizer, tokens = made
    asked = prompts(1, 5, 3)
    found = Writer(*made, max_length=64, batch_size=2).sids(asked, num_beams=1)
    assert found.shape == (3, 1, LEVELS)
    code_of = [{int(t): c for c, t in enumerate(level)} for level in tokens]
    for row, prompt in zip(found[:, 0], asked, strict=True):
        written = by_hand(model, tokenizer, tokens, prompt, new=LEVELS)
        expected = [codes.get(t, -1) for codes, t in zip(code_of, written, strict=True)]
        assert row.tolist() == expected


def test_beams_are_the_best_of_the_whole_vocabulary(made) -> None:
    model, tokenizer, tokens = made
    (prompt,) = prompts(4)
    size = len(tokenizer)
    (found,) = Writer(*made, max_length=64).sids([prompt], num_beams=size)  # no beam is lost
    ids, _ = encode_prompts(tokenizer, tokens, [prompt], max_length=64)
    with torch.inference_mode():
        first = model(input_ids=ids).logits[0, -1, :size].log_softmax(-1)
        rows = torch.cat([ids.expand(size, -1), torch.arange(size)[:, None]], dim=1)
        both = first[:, None] + model(input_ids=rows).logits[:, -1, :size].log_softmax(-1)
    best = both.flatten().topk(10).indices
    code_of = [{int(t): c for c, t in enumerate(level)} for level in tokens]
    expected = [
        [code_of[0].get(int(i) // size, -1), code_of[1].get(int(i) % size, -1)] for i in best
    ]
    assert found[:10].tolist() == expected


def follow(model, script: list[int], *, start: int) -> None:
    """Makes a model write a script after prompts of so many tokens, whatever it reads."""
    forward = model.forward

    def scripted(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits[:] = 0
        out.logits[:, -1, script[kwargs["attention_mask"].shape[1] - start]] = 9
        return out

    model.forward = scripted


def test_texts_stop_at_eos_and_hold_no_sids(made) -> None:
    model, tokenizer, tokens = made
    words = tokenizer(" blue thing", add_special_tokens=False)["input_ids"]
    script = [*words, int(tokens[0][3]), *words, tokenizer.eos_token_id, *words]
    start = encode_prompts(tokenizer, tokens, prompts(1, 3), max_length=64)[0].shape[1]
    follow(model, script, start=start)
    calls: list[tuple[str, int, int]] = []
    found = Writer(*made, max_length=64).texts(
        prompts(1, 3), max_tokens=len(script), progress=lambda *call: calls.append(call)
    )
    assert found == ["blue thing blue thing"] * 2
    assert calls == [("write", 2, 2)]
    cut = Writer(*made, max_length=64).texts(prompts(1, 3), max_tokens=len(words))
    assert cut == ["blue thing"] * 2


@pytest.mark.parametrize("num_beams", [1, 3])
def test_eos_where_a_sid_should_stand_is_a_token_as_any(made, num_beams: int) -> None:
    model, tokenizer, tokens = made
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.repetition_penalty = 50.0
    start = encode_prompts(tokenizer, tokens, prompts(2), max_length=64)[0].shape[1]
    follow(model, [tokenizer.eos_token_id, int(tokens[1][5])], start=start)
    found = Writer(*made, max_length=64).sids(prompts(2), num_beams=num_beams)
    assert found.shape == (1, num_beams, LEVELS)
    assert found[0, 0].tolist() == [-1, 5]
    assert model.generation_config.repetition_penalty == 50.0, "its own settings are back"


def test_questions_are_the_first_words_of_a_task_in_order(corpus: Corpus) -> None:
    asked = questions("sid_to_title", corpus, style="instruct")
    assert len(asked) == corpus.items.height
    assert {example.prompt[0].text for example in asked} == {"What is the item "}
    assert [e.prompt[1].sid for e in asked] == [tuple(map(int, sid)) for sid in corpus.sids]
    assert asked[7].completion == (Segment(text="thing number 7 <a_1> blue"),)
    captions = questions("caption_to_sid", corpus, style="compact", max_text=12)
    assert [e.prompt[0].text for e in captions][:2] == ["seen: a blue\n"] * 2
    assert len(captions) == sum(map(bool, corpus.captions or ()))
    with pytest.raises(KeyError, match="did you mean 'sid_to_title'"):
        questions("sid_to_titel", corpus, style="compact")


def test_codes_are_int64(made) -> None:
    assert Writer(*made, max_length=64).sids(prompts(2), num_beams=2).dtype == np.int64
