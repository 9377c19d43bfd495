"""Probabilities read off engines: odds of two words, likelihood of a text, against one plain pass."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from genrec.data.images import open_image
from genrec.engines import EngineError, HFEngine, Judge, Message, Reader, Request, Score, judge
from genrec.engines.judge import listed_odds, word_tokens


def asks(text: str, image: Path | None = None, **options: Any) -> Request:
    return Request((Message("user", text, image),), max_tokens=20, **options)


def collected(found: Any, count: int) -> list[Score]:
    scores = dict(found)
    assert sorted(scores) == list(range(count))
    return [scores[row] for row in range(count)]


def values(found: Any, count: int) -> list[float]:
    return [score.value for score in collected(found, count) if score.value is not None]


def chances(folder: Path, request: Request, reply: list[int]) -> torch.Tensor:
    """Log-probabilities after the prompt and each token of a reply: one row, one pass, no cache."""
    (message,) = request.messages
    if message.image is None:
        speaker, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM
        content: Any = message.text
    else:
        speaker, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText
        image = open_image(message.image, longest_side=request.longest_side)
        content = [{"type": "image", "image": image}, {"type": "text", "text": message.text}]
    inputs = speaker.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = torch.cat([inputs["input_ids"], torch.tensor([reply], dtype=torch.long)], dim=1)
    pixels = {name: inputs[name] for name in inputs if name.startswith("pixel_values")}
    with torch.inference_mode():
        out = model.from_pretrained(folder).eval()(input_ids=ids, **pixels)
    return out.logits[0, inputs["input_ids"].shape[1] - 1 :].log_softmax(dim=-1)


def test_odds_are_those_of_one_plain_pass(tiny_lm: Path) -> None:
    requests = [asks("red bag " * n) for n in (1, 9, 3)]
    found = values(HFEngine(str(tiny_lm), batch_size=3).log_odds(requests, yes="a", no="r"), 3)
    words = AutoTokenizer.from_pretrained(tiny_lm)
    yes, no = (
        [t for t in range(len(words)) if words.decode([t]).strip().lower() == w] for w in "ar"
    )
    assert len(yes) > 1, "upper and lower case count"
    for request, value in zip(requests, found, strict=True):
        (row,) = chances(tiny_lm, request, [])
        assert value == pytest.approx(float(row[yes].logsumexp(0) - row[no].logsumexp(0)), abs=1e-3)
    assert len(set(found)) == 3


def test_the_likelihood_is_that_of_one_plain_pass(tiny_lm: Path) -> None:
    requests = [asks("red bag " * n) for n in (1, 9, 1, 1)]
    replies = ["a red bag", "bag <|im_end|> x", "r", "bag, bag, bag, bag"]
    engine = HFEngine(str(tiny_lm), batch_size=4)
    found = values(engine.log_likelihoods(requests, replies), 4)
    words = AutoTokenizer.from_pretrained(tiny_lm)
    for request, reply, value in zip(requests, replies, found, strict=True):
        ids = words(reply, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows = chances(tiny_lm, request, ids)
        expected = sum(float(rows[place, token]) for place, token in enumerate(ids))
        assert value == pytest.approx(expected, abs=1e-3)
    (cut,) = values(engine.log_likelihoods([replace(requests[0], max_tokens=1)], replies[:1]), 1)
    first = words(replies[0], add_special_tokens=False)["input_ids"][0]
    assert cut == pytest.approx(float(chances(tiny_lm, requests[0], [])[0, first]), abs=1e-3)


def test_no_prompt_is_padded_where_a_text_is_read(
    tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every architecture takes positions from the mask when it is called plainly."""
    seen: list[list[int]] = []

    def watch(model: Any, tokenizer: Any, inputs: Any, said: Any) -> list[Score]:
        assert inputs["attention_mask"].all()
        seen.append([len(text) for text, _ in said])
        return [Score(0.0)] * len(said)

    monkeypatch.setattr(judge, "likelihoods", watch)
    requests = [asks("red bag " * n) for n in (1, 9, 1, 1)]
    replies = ["a" * n for n in (1, 2, 3, 4)]
    collected(HFEngine(str(tiny_lm), batch_size=4).log_likelihoods(requests, replies), 4)
    assert sorted(seen) == [[1, 3, 4], [2]]


def test_images_change_both(tiny_vlm: Path, tmp_path: Path) -> None:
    from PIL import Image

    requests = []
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{colour}.png")
        requests.append(asks("what?", tmp_path / f"{colour}.png"))
    engine = HFEngine(str(tiny_vlm), batch_size=2)
    odds = values(engine.log_odds(requests, yes="a", no="r"), 2)
    likely = values(engine.log_likelihoods(requests, ["a bag", "a red bag"]), 2)
    words = AutoTokenizer.from_pretrained(tiny_vlm)
    for request, reply, value in zip(requests, ["a bag", "a red bag"], likely, strict=True):
        ids = words(reply, add_special_tokens=False)["input_ids"]
        rows = chances(tiny_vlm, request, ids)
        assert value == pytest.approx(sum(float(rows[i, t]) for i, t in enumerate(ids)), abs=1e-3)
    assert odds[0] != pytest.approx(odds[1], abs=1e-4)


def test_a_bad_image_fails_its_own_row_only(tiny_vlm: Path, red: Path, bomb: Path) -> None:
    requests = [asks("what?", bomb), asks("what?", red)]
    engine = HFEngine(str(tiny_vlm))
    for found in (
        engine.log_odds(requests, yes="a", no="r"),
        engine.log_likelihoods(requests, ["a", "b"]),
    ):
        bad, good = collected(found, 2)
        assert bad.value is None
        assert "bomb.png" in str(bad.error)
        assert good.error is None


def test_a_word_that_is_no_token_is_refused(tiny_lm: Path) -> None:
    with pytest.raises(EngineError, match=r"no token for 'yes'.*method: likelihood"):
        list(HFEngine(str(tiny_lm)).log_odds([asks("a")]))
    words = AutoTokenizer.from_pretrained(tiny_lm)
    assert {words.decode([t]) for t in word_tokens(words, "r")} == {"r", "R"}


def test_listed_odds_by_hand() -> None:
    top = [("Yes", math.log(0.5)), (" yes", math.log(0.1)), ("no", math.log(0.2)), ("x", -9.0)]
    assert listed_odds(top, "yes", "no") == Score(pytest.approx(math.log(0.6 / 0.2)))
    assert listed_odds(top[:2], "yes", "no") == Score(
        pytest.approx(math.log(0.6 / 0.1)), bound=True
    )
    assert listed_odds(top[2:], "yes", "no") == Score(pytest.approx(-9 - math.log(0.2)), bound=True)
    nothing = listed_odds([("x", -1.0), ("maybe", -2.0)], "yes", "no")
    assert nothing.value is None
    assert "neither 'yes' nor 'no' among the likeliest: 'x', 'maybe'" in str(nothing.error)


def test_which_engine_can_do_what(tiny_lm: Path) -> None:
    from genrec.engines import OpenAIEngine, VLLMEngine

    hf, others = (
        HFEngine(str(tiny_lm)),
        [VLLMEngine("a/b"), OpenAIEngine("http://x", "m", key=None)],
    )
    assert isinstance(hf, Judge)
    assert isinstance(hf, Reader)
    assert all(isinstance(engine, Judge) for engine in others)
    assert not any(isinstance(engine, Reader) for engine in others)
