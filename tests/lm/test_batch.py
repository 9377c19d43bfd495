"""Encoding: ids and labels by hand, hostile titles, trimming of whole SIDs, left padding."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from genrec.lm import batch
from genrec.lm.batch import IGNORED
from genrec.lm.corpus import encode_examples
from genrec.lm.model import build_scratch
from genrec.schema import Example, Segment

HOSTILE = "lamp <a_1><b_7> <s></s><pad> <|im_end|><|endoftext|> é 灯"
LEVELS, CODES = 2, 8


def scratch_tokenizer():
    return build_scratch(
        texts=[HOSTILE] * 3, levels=LEVELS, codes=CODES, hidden=8, layers=1, heads=1
    )[1]


def chat_tokenizer():
    """Like a pretrained LLM's: chat tokens, one of them put before every text, no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [HOSTILE, "a b c " * 5],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    batch.add_sid_tokens(fast, [CODES] * LEVELS)
    return fast


@pytest.fixture(scope="module", params=[scratch_tokenizer, chat_tokenizer])
def tokenizer(request):
    return request.param()


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return batch.code_token_ids(tokenizer, [CODES] * LEVELS)


def sid(*codes):
    return Segment(sid=codes)


def text(words):
    return Segment(text=words)


def start(tokenizer):
    return [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []


def encode(tokenizer, tokens, prompt, completion, max_length=100):
    example = Example("t", tuple(prompt), tuple(completion))
    return batch.encode_example(tokenizer, tokens, example, max_length=max_length)


def test_each_code_has_its_token(tokenizer, tokens):
    assert [len(ids) for ids in tokens] == [CODES] * LEVELS
    assert len(np.unique(np.concatenate(tokens))) == LEVELS * CODES
    assert tokenizer.convert_ids_to_tokens(int(tokens[1][7])) == "<b_7>"
    assert batch.add_sid_tokens(tokenizer, [CODES] * LEVELS) == 0, "adding again adds nothing"


def test_a_missing_token_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"no token <b_8> \(1 of 9 are missing on level 1\)"):
        batch.code_token_ids(tokenizer, [CODES, CODES + 1])


def test_ids_and_labels_by_hand(tokenizer, tokens):
    out = encode(tokenizer, tokens, [text("a b "), sid(1, 2)], [sid(3, 4)])
    words = tokenizer("a b ", add_special_tokens=False)["input_ids"]
    head = [*start(tokenizer), *words, tokens[0][1], tokens[1][2]]
    assert out["input_ids"] == [*head, tokens[0][3], tokens[1][4]]
    assert out["labels"] == [IGNORED] * len(head) + [tokens[0][3], tokens[1][4]]
    assert out["length"] == len(out["input_ids"])
    assert out["task"] == "t"


def test_a_text_completion_ends_with_eos_and_a_sid_does_not(tokenizer, tokens):
    out = encode(tokenizer, tokens, [sid(1, 2)], [text("a b")])
    words = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert out["labels"][-len(words) - 1 :] == [*words, tokenizer.eos_token_id]
    assert encode(tokenizer, tokens, [text("a")], [sid(1, 2)])["labels"][-1] == tokens[1][2]


def test_a_title_never_becomes_special_tokens(tokenizer, tokens):
    special = set(np.concatenate(tokens).tolist()) | set(tokenizer.all_special_ids)
    plain = tokenizer(HOSTILE, add_special_tokens=False)["input_ids"]
    assert special & set(plain), "the title is not hostile enough to show anything"

    out = encode(tokenizer, tokens, [text(HOSTILE)], [sid(1, 7)])
    title = out["input_ids"][len(start(tokenizer)) : -2]
    assert not special & set(title)
    assert tokenizer.decode(title) == HOSTILE

    out = encode(tokenizer, tokens, [sid(1, 7)], [text(HOSTILE)])
    title = [label for label in out["labels"] if label != IGNORED][:-1]
    assert not special & set(title)


def test_a_reloaded_tokenizer_is_as_safe(tokenizer, tokens, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    arguments = ([text(HOSTILE), sid(0, 1)], [sid(1, 7)])
    assert encode(again, tokens, *arguments) == encode(tokenizer, tokens, *arguments)


def test_a_corpus_is_encoded_like_its_examples(tokenizer, tokens):
    examples = [
        Example("t", (text("a"),), (sid(0, 1),)),
        Example("u", (sid(0, 1),), (text("b a"),)),
        Example("t", (text("a"),), (sid(2, 3),)),
    ]
    encoded = encode_examples(tokenizer, tokens, examples, max_length=50)
    assert encoded.trimmed == 0
    assert list(encoded.data) == [
        batch.encode_example(tokenizer, tokens, e, max_length=50) for e in examples
    ]


HISTORY = [sid(i, i) for i in range(6)]


def test_long_prompts_lose_their_oldest_items(tokenizer, tokens):
    spare = len(start(tokenizer))
    out = encode(tokenizer, tokens, HISTORY[:5], HISTORY[5:], max_length=spare + 7)
    assert out == encode(tokenizer, tokens, HISTORY[3:5], HISTORY[5:]), "3 SIDs fit into 7 tokens"


def test_long_streams_lose_their_oldest_items_and_keep_one_as_prompt(tokenizer, tokens):
    spare = len(start(tokenizer))
    out = encode(tokenizer, tokens, HISTORY[:1], HISTORY[1:], max_length=spare + 9)
    assert out == encode(tokenizer, tokens, HISTORY[2:3], HISTORY[3:])


def test_long_texts_lose_their_middle_or_their_end(tokenizer, tokens):
    spare = len(start(tokenizer))
    letters = "q w x z j k v"  # one token per letter and space at most
    words = tokenizer(letters, add_special_tokens=False)["input_ids"]
    out = encode(tokenizer, tokens, [text(letters)], [sid(1, 2)], max_length=spare + 6)
    assert out["input_ids"][spare:-2] == words[:2] + words[-2:]

    out = encode(tokenizer, tokens, [sid(1, 2)], [text(letters)], max_length=spare + 6)
    assert out["labels"][spare + 2 :] == words[:4], "a cut title has no EOS"


def test_what_cannot_be_trimmed_says_what_it_needs(tokenizer, tokens):
    with pytest.raises(ValueError, match=r"max_length=3: too short"):
        encode(tokenizer, tokens, [sid(1, 2)], [sid(1, 2)], max_length=3)


def test_trimmed_examples_are_counted(tokenizer, tokens):
    examples = [Example("t", tuple(HISTORY[:n]), (sid(0, 0),)) for n in (1, 2, 5, 6)]
    limit = len(start(tokenizer)) + 6
    assert encode_examples(tokenizer, tokens, examples, max_length=limit).trimmed == 2


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(
        st.one_of(st.integers(0, 7), st.text("ab <_1>", max_size=9)), min_size=1, max_size=9
    ),
    streamed=st.integers(1, 4),
    limit=st.integers(5, 25),
)
def test_trimming_keeps_the_limit_and_whole_sids(parts, streamed, limit):
    tokenizer = _CACHE.setdefault("tokenizer", scratch_tokenizer())
    tokens = batch.code_token_ids(tokenizer, [CODES] * LEVELS)
    prompt = [sid(p, p) if isinstance(p, int) else text(p) for p in parts]
    completion = [sid(i, i) for i in range(streamed)]
    try:
        out = encode(tokenizer, tokens, prompt, completion, max_length=limit)
    except ValueError:
        assert limit < 5 + 2 * sum(isinstance(p, str) for p in parts)
        return
    whole = encode(tokenizer, tokens, prompt, completion, max_length=10**6)
    assert len(out["input_ids"]) == len(out["labels"]) == min(limit, out["length"])
    level = {int(t): n for n, ids in enumerate(tokens) for t in ids}
    levels = [level[t] for t in out["input_ids"] if t in level]
    assert levels == [0, 1] * (len(levels) // 2), "a SID was cut"
    assert out["input_ids"][-2:] == whole["input_ids"][-2:], "the newest item is the last target"
    assert all(
        label in (IGNORED, token)
        for label, token in zip(out["labels"], out["input_ids"], strict=True)
    )


_CACHE: dict[str, object] = {}


@pytest.mark.parametrize("target", [text("next"), sid(3, 4)], ids=["title", "sid"])
def test_a_long_history_of_titles_loses_its_oldest_whole(tokenizer, tokens, target):
    titles = [f"lamp {'abc'[i % 3] * 4} {i}\n" for i in range(6)]
    parts = [Segment(text=title, entry=True) for title in titles]

    def prompt(kept):
        return [text("Bought: "), *kept, text("Next: ")]

    whole = [encode(tokenizer, tokens, prompt(parts[i:]), [target]) for i in range(6)]
    for older, newer in pairwise(whole):
        for limit in (newer["length"], older["length"] - 1):
            out = encode(tokenizer, tokens, prompt(parts), [target], max_length=limit)
            assert out == newer


def test_titles_before_a_sid_leave_the_target_a_target(tokenizer, tokens):
    parts = [Segment(text=f"lamp {i}\n", entry=True) for i in range(4)]
    short = encode(tokenizer, tokens, parts[-1:], [sid(1, 2)])
    cut = encode(tokenizer, tokens, parts, [sid(1, 2)], max_length=short["length"] - 1)
    assert [label for label in cut["labels"] if label != IGNORED] == [tokens[0][1], tokens[1][2]]


def test_prompts_are_padded_on_the_left(tokenizer, tokens, caplog):
    prompts = [(sid(1, 2),), (text("a "), sid(1, 2), sid(3, 4))]
    input_ids, mask = batch.encode_prompts(tokenizer, tokens, prompts, max_length=50)
    long = encode(tokenizer, tokens, prompts[1], [sid(0, 0)])["input_ids"][:-2]
    short = encode(tokenizer, tokens, prompts[0], [sid(0, 0)])["input_ids"][:-2]
    pad = len(long) - len(short)
    assert input_ids.tolist() == [[tokenizer.pad_token_id] * pad + short, long]
    assert mask.tolist() == [[0] * pad + [1] * len(short), [1] * len(long)]
    assert not caplog.records


def test_long_prompts_are_trimmed_and_said_so(tokenizer, tokens, caplog):
    spare = len(start(tokenizer))
    with caplog.at_level(logging.WARNING, logger="genrec"):
        input_ids, _ = batch.encode_prompts(
            tokenizer, tokens, [tuple(HISTORY)], max_length=spare + 5
        )
    assert input_ids[0, spare:].tolist() == [tokens[i % 2][4 + i // 2] for i in range(4)]
    assert "1 of 1 prompts trimmed" in caplog.text


def test_an_empty_prompt_is_bos_or_an_error():
    with_bos, without = scratch_tokenizer(), chat_tokenizer()
    tokens = batch.code_token_ids(with_bos, [CODES] * LEVELS)
    assert batch.encode_prompts(with_bos, tokens, [()], max_length=9)[0].tolist() == [
        [with_bos.bos_token_id]
    ]
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        batch.encode_prompts(
            without, batch.code_token_ids(without, [CODES] * LEVELS), [()], max_length=9
        )
