"""The full-size recipe: it plans anywhere, its header is true, and it runs with tiny models.

The tiny models are random ones of the architectures that the recipe names: Qwen3-VL for captions and
for embedding, Qwen3 for interests and as the LoRA base.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
    processing_utils,
)
from transformers.models.auto import video_processing_auto
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from genrec import Pipeline
from genrec.recipe import load

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "amazon" / "trialigngr.yaml"
HEADER = RECIPE.read_text(encoding="utf-8").partition("\nprepare:")[0]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
IDS = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}"
    "{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
ITEMS, USERS, SIDE = 24, 40, 64
SIZE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32}
SIZE |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the header names, of a category of 24 items; item 0 has no image."""
    folder = tmp_path / "data" / "amazon"
    (folder / "Tiny.images").mkdir(parents=True)
    items = {
        f"i{n}": {"title": f"bag {n}", "description": f"A bag, no. {n}."} for n in range(ITEMS)
    }
    users = {f"u{n}": [f"i{(n * 7 + k * k) % ITEMS}" for k in range(6)] for n in range(USERS)}
    (folder / "Tiny.item.json").write_text(json.dumps(items))
    (folder / "Tiny.inter.json").write_text(json.dumps(users))
    for n in range(1, ITEMS):
        image = Image.new("RGB", (SIDE, SIDE), (10 * n, 255 - 10 * n, 90))
        image.save(folder / "Tiny.images" / f"i{n}.jpg")
    monkeypatch.setenv("GENREC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("AMAZON_CATEGORY", "Tiny")
    return folder


def hub_names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, part in value.items():
            named = key in ("model", "name") and isinstance(part, str) and part.count("/") == 1
            yield from [part] if named else hub_names(part)


def test_it_plans_without_torch_or_a_hub(data: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom genrec import Pipeline\n"
        f"pipeline = Pipeline.load({str(RECIPE)!r}, 'runtime.store={tmp_path / 'store'}')\n"
        "print([p.key for p in pipeline.plan() if p.status in ('run', 'blocked')])\n"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    planned, heavy = done.stdout.splitlines()
    for stage in ("prepare", "caption", "mine", "embed", "train", "recommend", "evaluate"):
        assert f"'{stage}'" in planned
    assert heavy == "[]"


def test_every_hub_name_is_in_the_headers_list_once() -> None:
    used = list(hub_names(load(RECIPE).model_dump()))
    listed = re.findall(r"^#   ([\w-]+/[\w.-]+) +\d+\.\d  \w+$", HEADER, flags=re.M)
    assert len(used) == 4
    assert sorted(used) == sorted(listed)


def test_the_headers_commands_name_what_there_is(data: Path) -> None:
    missing = load(RECIPE, ["prepare.source.items=x"]).prepare.source
    assert missing.interactions == str(data / "Tiny.inter.json")
    for field in re.findall(r"(?<=[ (])((?:train|embed)\.\w+=[\w./-]+)", HEADER):
        load(RECIPE, [field])
    engine = "{kind: openai, base_url: 'http://x', key: null, concurrency: 512"
    options = "extra: {chat_template_kwargs: {enable_thinking: false}}"
    load(RECIPE, [f"mine.engine={engine}, model: Qwen/Qwen3-8B, {options}}}"])


def test_all_eight_tasks_have_rate_one_and_four_levels_of_1024_codes() -> None:
    recipe = load(RECIPE)
    assert (recipe.quantize.levels, recipe.quantize.codes) == (4, 1024)
    tasks = recipe.compose.active(("prepare", "caption", "mine", "quantize"))
    assert len(tasks) == 8
    assert {options["rate"] for options in tasks.values()} == {1.0}
    assert {name for name, task in tasks.items() if task.get("expand") == "prefix"} == {
        "history_to_title",
        "titles_to_title",
        "titles_to_sid",
    }
    assert recipe.embed.text.fields == ("title", "description", "caption", "interests")


def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [*SPECIAL, *VISION]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(["a red bag"], trainer)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    found = PreTrainedTokenizerFast(tokenizer_object=bpe, **names, padding_side="left")
    found.add_special_tokens({"additional_special_tokens": special[1:]})
    found.chat_template = TEMPLATE
    return found


def vision_config() -> Qwen3VLConfig:
    words = tokenizer()
    rope = {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    vision |= {"patch_size": 16, "out_hidden_size": 64, "num_position_embeddings": 16}
    return Qwen3VLConfig(
        text_config=SIZE | {"vocab_size": len(words), "rope_scaling": rope},
        vision_config=vision | {"deepstack_visual_indexes": [0]},
        tie_word_embeddings=False,
        **dict(zip(IDS, words.convert_tokens_to_ids(list(VISION)), strict=True)),
    )


def save(
    model: torch.nn.Module, words: Any, folder: Path, *, stops: list[int] | None = None
) -> str:
    if hasattr(model, "generation_config"):
        model.generation_config.eos_token_id = stops or 2
        model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Qwen3VLProcessor:
    """Qwen3-VL's; transformers asks for torchvision, for the sake of videos, which nobody shows."""
    if find_spec("torchvision") is None:

        class Videos:
            @staticmethod
            def from_pretrained(*args: Any, **options: Any) -> Qwen3VLVideoProcessor:
                return Qwen3VLVideoProcessor()

        lookup = processing_utils.transformers_module
        for name in ("BaseVideoProcessor", "VideoProcessorMixin"):
            monkeypatch.setattr(lookup, name, BaseVideoProcessor, raising=False)
        monkeypatch.setattr(video_processing_auto, "AutoVideoProcessor", Videos)
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    eye = Qwen2VLImageProcessorPil(patch_size=16, size=sizes)
    videos = Qwen3VLVideoProcessor()
    return Qwen3VLProcessor(eye, tokenizer(), videos, chat_template=TEMPLATE)


@pytest.fixture
def tiny_models(processor: Qwen3VLProcessor, tmp_path: Path) -> dict[str, str]:
    torch.manual_seed(0)
    config = vision_config()
    embedder = tmp_path / "embedder"
    save(Qwen3VLModel(config), processor, embedder / "base")
    modules = [Transformer(str(embedder / "base")), Pooling(64, pooling_mode="lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(embedder / "model"))
    # A reply of the random captioner ends at the first token that is no letter: some have words.
    names = enumerate(tokenizer().convert_ids_to_tokens(range(len(tokenizer()))))
    stops = [token for token, name in names if not (name.isascii() and name.isalpha())]
    seer = Qwen3VLForConditionalGeneration(config)
    text = Qwen3Config(vocab_size=len(tokenizer()), tie_word_embeddings=True, **SIZE)
    return {
        "vlm": save(seer, processor, tmp_path / "vlm", stops=stops),
        "lm": save(Qwen3ForCausalLM(text), tokenizer(), tmp_path / "lm"),
        "embedder": str(embedder / "model"),
    }


@pytest.mark.e2e
def test_it_runs_to_the_end_with_tiny_models(
    data: Path, tiny_models: dict[str, str], tmp_path: Path
) -> None:
    off = "chat_options: {enable_thinking: false}"
    pipeline = Pipeline.load(
        RECIPE,
        f"caption.engine={{kind: hf, model: {tiny_models['vlm']}}}",
        f"mine.engine={{kind: hf, model: {tiny_models['lm']}, {off}}}",
        f"embed.model={tiny_models['embedder']}",
        f"train.model.name={tiny_models['lm']}",
        *("caption.max_tokens=20", "caption.seed=4", "mine.max_tokens=40", "mine.retries=1"),
        *("embed.image_size=64", "quantize.codes=8", "quantize.epochs=5", "quantize.hidden=[32]"),
        *("train.epochs=0.2", "train.eval_every=20", "train.eval_users=8", "train.model.rank=2"),
        *("recommend.num_beams=10", "recommend.k=10", "evaluate.ks=[5, 10]"),
        *("evaluate.samples=100", "runtime.device=cpu", f"runtime.store={tmp_path / 'store'}"),
    )
    pipeline.run()
    captions, mined = pipeline["caption"].load(), pipeline["mine"].load("summary.json")
    assert (captions["caption"][0], captions["error"][0]) == (None, None)
    made = pipeline["caption"].load("summary.json")
    assert made["answered"] + made["failed"] == ITEMS - made["without_image"] == ITEMS - 1
    assert made["answered"] > 0
    assert made["failures"].keys() <= {"no words"}
    assert mined["failed"] + mined["answered"] == ITEMS
    assert mined["failed"] > ITEMS / 2  # random models write no JSON to its end
    assert mined["failures"].keys() <= {"cut off at max_tokens", "breaks the schema"}
    assert pipeline["quantize"].load().shape == (ITEMS, 4)
    tasks = set(pipeline["compose"].load()["task"].unique())
    assert tasks == set(load(RECIPE).compose.active(("caption", "mine")))
    assert (pipeline["train"] / "adapter" / "adapter_model.safetensors").is_file()
    lists = pipeline["recommend"].load()
    assert lists["user"].n_unique() >= USERS
    assert "generative" in json.dumps(pipeline["evaluate"].load())
