"""Joint embeddings: two towers by hand, both at once by hand, resumed to the bit, hostile titles."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    Idefics3Config,
    Idefics3Model,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from genrec.enrich import joint
from genrec.enrich.joint import encode_joint, load_joint_encoder
from genrec.enrich.text import encode_texts

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<fake_token_around_image>", "<global-img>"]
WORDS = [*SPECIAL, "<end_of_utterance>", "red", "blue", "saw", "pump", "disc", "User", ":"]
SIZE = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
TEXTS = ["red saw", "", "blue disc pump saw", "red disc", "blue", "pump saw", "", "red saw pump"]


def tokenizer(**options):
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names, **options)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A folder with a CLIP: reads texts, and images, and never both."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    text = SIZE | {"num_hidden_layers": 2, "vocab_size": len(WORDS), "max_position_embeddings": 16}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = SIZE | {"num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(projection_dim=12, text_config=text, vision_config=vision)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, tokenizer(model_max_length=16)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A folder with a vision-language model that embeds a message by its last token."""
    folder = tmp_path_factory.mktemp("fused")
    torch.manual_seed(0)
    config = Idefics3Config(
        image_token_id=WORDS.index("<image>"),
        pad_token_id=0,
        scale_factor=2,
        vision_config=SIZE | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
        text_config=SIZE
        | {"model_type": "llama", "num_hidden_layers": 2, "num_key_value_heads": 2}
        | {"vocab_size": len(WORDS), "max_position_embeddings": 128, "pad_token_id": 0},
    )
    Idefics3Model(config).save_pretrained(folder / "base")
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": 32},
        max_image_size={"longest_edge": 32},
    )
    template = (
        "{% for m in messages %}User: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>{% endfor %}"
    )
    words = tokenizer(additional_special_tokens=WORDS[4:8], padding_side="left")
    Idefics3Processor(images, words, image_seq_len=4, chat_template=template).save_pretrained(
        folder / "base"
    )
    base = Transformer(str(folder / "base"))
    pooled = Pooling(16, pooling_mode="lasttoken")
    SentenceTransformer(modules=[base, pooled], device="cpu").save(str(folder / "model"))
    return str(folder / "model")


@pytest.fixture
def items(images):
    """Eight items: words and image, image alone, words alone, and nothing at all."""
    paths = [*images.values(), None]
    return TEXTS, [*paths[:4], None, *paths[4:6], None]


def encode(items, model, cache=None, **options):
    options = {"batch_size": 2, "image_size": 32} | options
    return encode_joint(*items, model=model, cache={} if cache is None else cache, **options)


def unit(vector):
    return vector / np.linalg.norm(vector)


def square(path):
    return ImageOps.pad(Image.open(path).convert("RGB"), (32, 32), color="white")


def test_two_towers_are_averaged(towers, items):
    out = encode(items, towers)
    assert out.dtype == np.float32
    model = SentenceTransformer(towers, device="cpu")
    for text, path, row in zip(*items, out, strict=True):
        parts = []
        parts += [unit(model.encode({"text": text}))] if text else []
        parts += [unit(model.encode({"image": square(path)}))] if path else []
        expected = unit(sum(parts)) if parts else np.zeros(12)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_model_of_both_gets_both_at_once(fused, items):
    out = encode(items, fused)
    model = SentenceTransformer(fused, device="cpu")
    for text, path, row in zip(*items, out, strict=True):
        item = ({"image": square(path)} if path else {}) | ({"text": text} if text else {})
        expected = unit(model.encode(item)) if item else np.zeros(16)
        np.testing.assert_allclose(row, expected, atol=1e-5)
    averaged = encode(items, fused, mode="mean")
    assert np.abs(averaged[0] - out[0]).max() > 1e-3
    np.testing.assert_array_equal(averaged[4], out[4])  # words alone: nothing to fuse


@pytest.mark.parametrize("name", ["towers", "fused"])
def test_interrupted_grown_and_shuffled_equal_undisturbed_bitwise(
    name, items, request, monkeypatch
):
    model, (texts, paths) = request.getfixturevalue(name), items
    undisturbed = encode(items, model)
    for first in range(1, 8):
        cache = {}
        encode((texts[:first], paths[:first]), model, cache)
        told = []
        order = [5, 2, 0, 7, 1, 4, 6, 3]
        shuffled = encode(
            ([texts[i] for i in order], [paths[i] for i in order]),
            model,
            cache,
            progress=lambda *step, told=told: told.append(step),
        )
        assert told[0][:2] == (
            "encode items",
            len({*zip(texts[:first], paths[:first], strict=True)}),
        )
        assert (shuffled == undisturbed[order]).all()
    monkeypatch.setattr(joint, "SentenceTransformer", None)  # all is there: nothing is loaded
    assert (encode(items, model, cache) == undisturbed).all()


def test_what_a_row_depends_on(towers, items, tmp_path):
    cache = {}
    encode(items, towers, cache)
    count = len(cache)
    texts, paths = items
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    encode(([texts[0]], [copy]), towers, cache)
    assert len(cache) == count, "the content counts, not the place"
    for changed in (
        {"mode": "mean"},
        {"instruction": "red"},
        {"image_size": 16},
        {"max_tokens": 1},
        {"batch_size": 3},
    ):
        before = len(cache)
        encode(([texts[0]], [paths[0]]), towers, cache, **changed)
        assert len(cache) == before + 1, changed


def test_texts_are_cut_at_max_tokens(fused, items):
    paths = [items[1][0]] * 2
    cut = encode((["red saw", "red pump"], paths), fused, max_tokens=1)
    assert (cut[0] == cut[1]).all()
    whole = encode((["red saw", "red pump"], paths), fused, max_tokens=2)
    assert np.abs(whole[0] - whole[1]).max() > 1e-4
    np.testing.assert_allclose(cut[0], encode((["red"], paths[:1]), fused)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["towers", "fused"])
def test_an_instruction_is_heard(name, items, request):
    model = request.getfixturevalue(name)
    plain, told = encode(items, model), encode(items, model, instruction="blue pump ")
    assert np.abs(plain[4] - told[4]).max() > 1e-4


@pytest.mark.parametrize("name", ["towers", "fused"])
def test_a_title_that_is_an_address_is_only_a_title(name, images, request):
    """The library opens strings that look like images; ours must never reach it bare."""
    model = request.getfixturevalue(name)
    path = images["red disc"]
    hostile = [str(path), "http://127.0.0.1:9/x.png", "data:image/png;base64,AAAA"]
    out = encode((hostile, [None] * 3), model)
    assert np.isfinite(out).all()
    seen = encode(([""], [path]), model)
    assert np.abs(out[0] - seen[0]).max() > 1e-3
    texts = encode_texts(hostile, model=model, batch_size=2, cache={})
    assert texts.shape[0] == 3


def test_what_cannot_be_encoded_is_refused(text_model, towers, items, tmp_path):
    with pytest.raises(ValueError, match=r"reads text, not text and image.*mode=fused"):
        encode(items, text_model)
    assert encode((["red saw"], [None]), text_model).shape == (1, 16)  # words alone it can
    with pytest.raises(ValueError, match="1 texts and 2 images"):
        encode((["red"], [None, None]), towers)
    with pytest.raises(ValueError, match="none of the 2 items"):
        encode((["", ""], [None, None]), towers)
    with pytest.raises(ValueError, match=r"item 0: the image .*none\.png cannot be read"):
        encode((["red"], [tmp_path / "none.png"]), towers)
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        encode(items, str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["towers", "fused"])
def test_words_of_requests_lie_where_items_without_image_do(name, request):
    model, texts = request.getfixturevalue(name), [text for text in TEXTS if text]
    rows = encode_joint(texts, [None] * len(texts), model=model, max_tokens=2, cache={})
    encode = load_joint_encoder(model=model, max_tokens=2)
    np.testing.assert_allclose(encode(texts), rows, atol=1e-5)
    np.testing.assert_allclose(encode(texts[:1]), rows[:1], atol=1e-5)
