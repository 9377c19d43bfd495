"""Tiny random models made on the spot, and images of known content."""

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

WORDS = [
    *("red", "green", "blue", "steel", "brass", "small", "large"),
    *("saw", "drill", "pump", "valve", "tube"),
]
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = LAYERS | {"intermediate_size": 24, "image_size": 16, "patch_size": 8}


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """A folder with a sentence-transformers model of 64 positions."""
    folder = tmp_path_factory.mktemp("text")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=64, intermediate_size=24, **LAYERS
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder / "bert")
    encoder = Transformer(str(folder / "bert"), max_seq_length=48)
    model = SentenceTransformer(modules=[encoder, Pooling(16)], device="cpu")
    model.save(str(folder / "model"))
    return str(folder / "model")


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """A folder with a ViT and its processor."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    ViTModel(ViTConfig(**VISION)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A folder with a CLIP and its processor; images have 12 dimensions."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    text = LAYERS | {"intermediate_size": 24, "vocab_size": 32, "bos_token_id": 0}
    text |= {"eos_token_id": 1, "pad_token_id": 1}
    CLIPModel(
        CLIPConfig(projection_dim=12, text_config=text, vision_config=VISION)
    ).save_pretrained(folder)
    crop = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=crop).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Seven images: discs and stripes, red and blue, and some noise."""
    folder = tmp_path_factory.mktemp("images")
    y, x = np.mgrid[:48, :48]
    masks = {"disc": (x - 24) ** 2 + (y - 24) ** 2 < 300, "stripes": x // 6 % 2 == 0}
    colours = {"red": (220, 20, 20), "blue": (20, 20, 220)}
    paths = {}
    for shape, mask in masks.items():
        for colour, rgb in colours.items():
            pixels = np.where(mask[..., None], rgb, 255).astype(np.uint8)
            paths[f"{colour} {shape}"] = folder / f"{colour}-{shape}.png"
            Image.fromarray(pixels).save(paths[f"{colour} {shape}"])
    rng = np.random.default_rng(0)
    for i in range(3):
        paths[f"noise {i}"] = folder / f"noise-{i}.jpg"
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(paths[f"noise {i}"])
    return paths
