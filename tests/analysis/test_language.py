"""What a model can do beside recommending: the perplexity by hand, and replies that are accepted."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec.analysis.language import followed, perplexity
from genrec.engines import Reply, Request
from genrec.prompts import Instruction, load_language
from genrec.weights import find_weights

TEXTS = ["A lamp of brass for the hall.", "Wool is warm."]


@pytest.fixture(scope="module")
def folder() -> str:
    return find_weights("asset:tiny-lm")


def surprises(folder: str, without: Sequence[str] = ()) -> list[float]:
    """-log p of every token but the first of each text, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    found = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        for place in range(1, len(ids)):
            with torch.no_grad():
                logits = model(torch.tensor([ids[:place]])).logits[0, -1]
            odds = logits.softmax(dim=-1)
            left = 1 - sum(float(odds[tokenizer.get_vocab()[token]]) for token in without)
            found.append(-math.log(float(odds[ids[place]]) / left))
    return found


def test_perplexity_is_that_of_each_next_token(folder: str) -> None:
    each = surprises(folder)
    found = perplexity(folder, TEXTS, dtype="float32")
    assert found == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-4)


def test_tokens_that_are_left_out_take_no_probability(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    used = {token for text in TEXTS for token in tokenizer(text)["input_ids"]}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    unused = [token for token, number in vocabulary if number not in used][:500]
    each = surprises(folder, unused)
    without = perplexity(folder, TEXTS, without=[*unused, "no token"], dtype="float32")
    assert without == pytest.approx(math.exp(sum(each) / len(each)), rel=1e-4)
    assert without < perplexity(folder, TEXTS, dtype="float32")


@pytest.mark.parametrize(("texts", "message"), [([], "no texts"), (["a"], "'a': one token has no")])
def test_nothing_to_read(folder: str, texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perplexity(folder, texts)


class Fake:
    """Says the same to everything, and fails once; answers last things first."""

    identity = "fake"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        assert all(request.temperature == 0 for request in requests)
        for row in reversed(range(len(requests))):
            failed = requests[row].messages[0].text == "fail"
            yield row, Reply.failed("broken") if failed else Reply("It is PARIS, not Rome.", "stop")

    def close(self) -> None:
        pass


def test_a_reply_is_accepted_by_its_own_expression() -> None:
    asked = [("a", r"\bparis\b"), ("b", r"\bpar\b"), ("fail", "."), ("d", "(?-i:Paris)")]
    found = followed(Fake(), [Instruction(ask=ask, accepts=regex) for ask, regex in asked])
    assert [right for right, _ in found] == [True, False, False, False]
    assert [reply.error for _, reply in found] == [None, None, "broken", None]


def test_what_ships_accepts_good_replies_and_no_silence() -> None:
    template = load_language("language/general")
    assert len(template.instructions) == 50
    assert len({one.ask for one in template.instructions}) == 50
    silent = [one.ask for one, (right, _) in _answers(template.instructions, "") if right]
    assert silent == []
    good = {"What is 2 plus 2?": "Four.", "Name three colours.": "Red, green\nand blue."}
    for one in template.instructions:
        if one.ask in good:
            assert _answers([one], good[one.ask])[0][1][0]


def _answers(
    instructions: Sequence[Instruction], text: str
) -> list[tuple[Instruction, tuple[bool, Reply]]]:
    class Says(Fake):
        def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
            yield from enumerate([Reply(text, "stop")] * len(requests))

    return list(zip(instructions, followed(Says(), instructions), strict=True))
