"""The engine of vLLM: what it hands over, against a stand-in; and the real one where it is there."""

import importlib.util
import json
import math
import os
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from genrec.engines import EngineError, HFEngine, Message, Reply, Request, Score, VLLMEngine

REAL = importlib.util.find_spec("vllm") is not None


@dataclass
class Params:
    max_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    structured_outputs: Any = None
    grammar: str = ""
    logprob_token_ids: Any = None


@dataclass
class LLM:
    """Stands in for `vllm.LLM`: echoes the last words, and refuses long prompts as vLLM does."""

    options: dict[str, Any]
    batches: list[Any] = field(default_factory=list)

    def chat(self, chats: Any, params: Any, **options: Any) -> list[Any]:
        self.batches.append((chats, params, options))
        words = [c[-1]["content"] for c in chats]
        words = [w if isinstance(w, str) else w[-1]["text"] for w in words]
        if any("long" in w for w in words):
            raise ValueError("longer than the maximum model length")
        if any("die" in w for w in words):
            raise OSError("engine core is dead")
        finish = ["abort" if "abort" in w else "stop" for w in words]
        return [
            types.SimpleNamespace(outputs=[types.SimpleNamespace(text=w, finish_reason=f)])
            for w, f in zip(words, finish, strict=True)
        ]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    found: list[LLM] = []

    def build(**options: Any) -> LLM:
        found.append(LLM(options))
        return found[-1]

    module: Any = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = build, Params
    inner: Any = types.ModuleType("vllm.sampling_params")
    inner.StructuredOutputsParams = Params
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    return found


def says(text: str, image: Path | None = None, **options: Any) -> Request:
    return Request((Message("system", "be brief"), Message("user", text, image)), **options)


def test_conversations_go_over_in_batches(made: list[LLM]) -> None:
    engine = VLLMEngine(
        "x/y",
        batch_size=2,
        chat_options={"enable_thinking": False},
        options={"quantization": "fp8"},
        placement={"tensor_parallel_size": 2},
    )
    schema = {"type": "object"}
    requests = [says(f"t{n}", schema=schema, max_tokens=9, seed=n) for n in range(3)]
    found = dict(engine.generate(requests))
    assert [found[n].text for n in range(3)] == ["t0", "t1", "t2"]
    (llm,) = made
    assert llm.options == {
        "model": "x/y",
        "seed": 0,
        "dtype": "auto",
        "quantization": "fp8",
        "tensor_parallel_size": 2,
    }
    assert [len(chats) for chats, _, _ in llm.batches] == [2, 1]
    chats, params, options = llm.batches[0]
    assert chats[1] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "t1"},
    ]
    assert (params[1].max_tokens, params[1].seed) == (9, 1)
    assert "root ::=" in params[1].structured_outputs.grammar
    assert options["chat_template_kwargs"] == {"enable_thinking": False}


def test_images_and_bad_ones(made: list[LLM], red: Path, bomb: Path) -> None:
    requests = [says("a", bomb), says("b", red, longest_side=20)]
    found = dict(VLLMEngine("x/y").generate(requests))
    assert found[0].permanent
    assert found[1].text == "b"
    assert made[0].options["limit_mm_per_prompt"] == {"image": 1}
    part = made[0].batches[0][0][0][-1]["content"][0]
    assert part["type"] == "image_pil"
    assert part["image_pil"].size == (20, 10)
    assert part["uuid"].endswith(":20")


def test_one_refused_prompt_costs_one_row(made: list[LLM]) -> None:
    found = dict(VLLMEngine("x/y").generate([says("a"), says("long"), says("abort"), says("b")]))
    assert [found[n].text for n in (0, 3)] == ["a", "b"]
    assert found[1] == Reply.failed(
        "refused by vLLM: longer than the maximum model length", permanent=True
    )
    assert found[2].error == "vLLM ended with 'abort'"


def test_odds_are_those_of_the_words_tokens(
    made: list[LLM], monkeypatch: pytest.MonkeyPatch, red: Path
) -> None:
    spelt = ["no", "x", "Yes", " yes", "maybe"]

    class Words:
        def __len__(self) -> int:
            return len(spelt)

        def batch_decode(self, rows: list[list[int]]) -> list[str]:
            return [spelt[token] for (token,) in rows]

    def chat(self: LLM, chats: Any, params: Any, **_: Any) -> list[Any]:
        self.batches.append((chats, params, {}))
        chances = {0: -2.0, 2: -1.0, 3: -3.0, 1: -0.1}  # the sampled token comes too
        top = {
            t: types.SimpleNamespace(logprob=p, decoded_token=spelt[t]) for t, p in chances.items()
        }
        return [types.SimpleNamespace(outputs=[types.SimpleNamespace(logprobs=[top])])] * len(chats)

    monkeypatch.setattr(LLM, "get_tokenizer", lambda self: Words(), raising=False)
    monkeypatch.setattr(LLM, "chat", chat)
    found = dict(VLLMEngine("x/y").log_odds([says("a", red), says("b", Path("nowhere.png"))]))
    assert found[0] == Score(pytest.approx(math.log(math.exp(-1) + math.exp(-3)) + 2))
    assert "nowhere.png" in str(found[1].error)
    (asked,) = made[0].batches[0][1]
    assert (asked.max_tokens, sorted(asked.logprob_token_ids)) == (1, [0, 2, 3])


def test_a_dead_process_stops_the_run(made: list[LLM]) -> None:
    with pytest.raises(EngineError, match=r"OSError: engine core is dead.*run again"):
        list(VLLMEngine("x/y").generate([says("a"), says("die")]))


def test_nothing_starts_without_requests(made: list[LLM]) -> None:
    assert list(VLLMEngine("x/y").generate([])) == []
    assert not made


def test_without_vllm_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EngineError, match="pip install vllm"):
        list(VLLMEngine("x/y").generate([says("a")]))


def test_identity_is_of_what_changes_replies() -> None:
    base = VLLMEngine("x/y").identity
    assert base == VLLMEngine("x/y", batch_size=1, placement={"tensor_parallel_size": 8}).identity
    others = [
        VLLMEngine("x/z"),
        VLLMEngine("x/y", dtype="float32"),
        VLLMEngine("x/y", options={"quantization": "fp8"}),
        VLLMEngine("x/y", chat_options={"a": 1}),
    ]
    assert len({base, *(e.identity for e in others)}) == 5


@pytest.mark.skipif(
    not (REAL and os.environ.get("GENREC_SLOW")), reason="vLLM absent, or GENREC_SLOW not set"
)
def test_the_real_one(tiny_lm: Path, tiny_vlm: Path, red: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "minLength": 1, "maxLength": 5}},
        "required": ["word"],
        "additionalProperties": False,
    }
    engine = VLLMEngine(
        str(tiny_lm), dtype="float32", options={"max_model_len": 512, "enforce_eager": True}
    )
    held = [says(f"t{n}", schema=schema, max_tokens=60) for n in range(3)]
    found = dict(engine.generate([*held, says("long " * 600, max_tokens=4), says("a")]))
    assert all(len(json.loads(found[n].text, strict=False)["word"]) <= 5 for n in range(3))
    assert found[3].permanent
    assert found[4].finish in ("stop", "length")
    engine.close()
    engine = VLLMEngine(
        str(tiny_vlm), dtype="float32", options={"max_model_len": 512, "enforce_eager": True}
    )
    replies = dict(engine.generate([says("what?", red, max_tokens=8)] * 2))
    assert replies[0] == replies[1]
    assert replies[0].finish in ("stop", "length")
    odds = dict(engine.log_odds([says("what?", red)], yes="a", no="r"))
    held_against = HFEngine(str(tiny_vlm), dtype="float32")
    same = dict(held_against.log_odds([says("what?", red)], yes="a", no="r"))
    assert odds[0].value == pytest.approx(same[0].value, abs=1e-3)
    engine.close()
