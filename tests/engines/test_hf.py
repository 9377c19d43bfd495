"""The engine of transformers: batches, seeds, schemas, images, on tiny random models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from genrec.engines import EngineError, HFEngine, Message, Reply, Request

SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "minLength": 1, "maxLength": 5},
        "sure": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["word", "sure"],
    "additionalProperties": False,
}


def ask(engine: HFEngine, requests: list[Request]) -> list[Reply]:
    found = dict(engine.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[row] for row in range(len(requests))]


def says(text: str, **options: object) -> Request:
    messages = (Message("system", "be brief"), Message("user", text))
    return Request(messages, max_tokens=12, **options)  # type: ignore[arg-type]


def test_a_reply_does_not_depend_on_its_neighbours(tiny_lm: Path) -> None:
    requests = [says("red " * n) for n in (1, 9, 4)]
    requests += [says("red " * n, temperature=1.0, seed=n) for n in (5, 1, 30)]
    together = ask(HFEngine(str(tiny_lm), batch_size=3), requests)
    alone = ask(HFEngine(str(tiny_lm), batch_size=1), requests)
    assert together == alone
    assert len({reply.text for reply in together}) > 3


def test_the_seed_decides_what_is_sampled(tiny_lm: Path) -> None:
    engine = HFEngine(str(tiny_lm))
    warm = says("a bag", temperature=1.0)
    replies = ask(engine, [replace(warm, seed=seed) for seed in (1, 1, 2, 3)])
    assert replies[0] == replies[1]
    assert len({reply.text for reply in replies}) == 3
    cold = ask(engine, [replace(warm, temperature=0.0, seed=seed) for seed in (1, 2)])
    assert cold[0] == cold[1]


def test_sampling_has_the_softmax_odds() -> None:
    import torch

    from genrec.engines.hf import _GumbelNoise

    logits = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])
    counts = torch.zeros(4)
    draw = _GumbelNoise([0], 0.5)
    for _ in range(4000):
        counts[draw(torch.empty(0), logits).argmax()] += 1
    expected = torch.softmax(logits[0] / 0.5, dim=0)
    assert torch.allclose(counts / 4000, expected, atol=0.02)
    assert counts[3] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_holds_even_a_random_model(tiny_lm: Path, temperature: float) -> None:
    requests = [
        replace(says(f"bag {n}", schema=SCHEMA), max_tokens=80, temperature=temperature, seed=n)
        for n in range(5)
    ]
    for reply in ask(HFEngine(str(tiny_lm), batch_size=3), requests):
        assert reply.finish == "stop"
        found = json.loads(reply.text, strict=False)
        assert list(found) == ["word", "sure"]
        assert 1 <= len(found["word"]) <= 5
        assert 0 <= found["sure"] <= 1


def test_a_cut_reply_says_so(tiny_lm: Path) -> None:
    (reply,) = ask(HFEngine(str(tiny_lm)), [replace(says("a", schema=SCHEMA), max_tokens=3)])
    assert reply.finish == "length"
    assert reply.text


def test_images_are_seen(tiny_vlm: Path, tmp_path: Path) -> None:
    from PIL import Image

    paths = []
    for colour in ("red", "white", "blue"):
        paths.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (50, 30), colour).save(paths[-1])
    requests = [Request((Message("user", "what?", path),), max_tokens=12) for path in paths]
    requests.append(Request((Message("user", "what?"),), max_tokens=12))
    together = ask(HFEngine(str(tiny_vlm), batch_size=4), requests)
    assert together == ask(HFEngine(str(tiny_vlm), batch_size=1), requests)
    assert len({reply.text for reply in together}) > 1


def test_a_bad_image_fails_its_own_row_only(tiny_vlm: Path, red: Path, bomb: Path) -> None:
    asked = [Request((Message("user", "what?", path),), max_tokens=4) for path in (bomb, red)]
    bad, good = ask(HFEngine(str(tiny_vlm)), asked)
    assert (bad.finish, bad.permanent) == ("error", True)
    assert "bomb.png" in str(bad.error)
    assert good.finish != "error"


def test_a_batch_is_of_one_kind_and_the_longest_come_first(red: Path) -> None:
    from genrec.engines.hf import _batches

    with_image = Request((Message("user", "x", red),), max_tokens=12)
    requests = [
        says("x"),
        with_image,
        says("xx"),
        says("x", schema=SCHEMA),
        says("x", temperature=1),
    ]
    requests += [says("xxx"), replace(with_image, max_tokens=13)]
    assert sorted(_batches(requests, 2)) == [[0], [1], [3], [4], [5, 2], [6]]


def test_a_text_model_is_shown_no_image(tiny_lm: Path, red: Path) -> None:
    with pytest.raises(EngineError, match="sees no images"):
        list(HFEngine(str(tiny_lm)).generate([Request((Message("user", "?", red),))]))


def test_a_prompt_beyond_the_context_fails_its_own_row(tiny_lm: Path) -> None:
    long, short = ask(HFEngine(str(tiny_lm)), [says("red bag " * 2000), says("red")])
    assert long.permanent
    assert "prompt too long" in str(long.error)
    assert "the model holds 2048" in str(long.error)
    assert short.finish != "error"


def test_identity_is_of_content_and_settings(tiny_lm: Path, tiny_vlm: Path) -> None:
    base = HFEngine(str(tiny_lm))
    assert base.identity == HFEngine(str(tiny_lm), batch_size=3).identity
    others = [
        HFEngine(str(tiny_vlm)),
        HFEngine(str(tiny_lm), dtype="bfloat16"),
        HFEngine(str(tiny_lm), chat_options={"shout": True}),
    ]
    assert len({engine.identity for engine in (base, *others)}) == 4
    assert ask(base, [says("a bag")]) != ask(others[2], [says("a bag")])


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        HFEngine("./nowhere")
    with pytest.raises(FileNotFoundError, match="asset:nothing: no such model ships"):
        HFEngine("asset:nothing")
