"""Trains genrec/assets/tiny-vlm: a small Idefics3 that captions the demo's kind of pictures.

    python -m recipes.assets.tiny_vlm [--out genrec/assets/tiny-vlm] [--work DIR]

First the vision tower alone learns to tell category, colour, pattern and silhouette apart by four
linear heads, which are then thrown away; it would take far longer to learn that through the text.
Then the whole model learns captions. One thread, no GPU; about 25 minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from genrec.demo.catalogue import Product
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES
from genrec.prompts import load_chat
from recipes.assets import captions
from recipes.assets.chat import (
    AROUND,
    BOS,
    END,
    GLOBAL,
    IMAGE,
    TEMPLATE,
    Row,
    batches,
    chat,
    collate,
    encode,
    fit,
    train_tokenizer,
)
from recipes.assets.pictures import SIDE, Shop, render, varied

SEEDS = range(
    1000, 1010
)  # catalogues to learn from; the demo's own is 7, held-out ones 2000 and up
PER_SEED = 800
PATCH, SCALE, WIDTH = 8, 2, 128
SHIPPED = load_chat("caption/product")
IMAGE_TOKENS = (SIDE // PATCH // SCALE) ** 2


def main() -> None:
    """Trains and saves the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--out", type=Path, default=Path("genrec/assets/tiny-vlm"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "genrec-assets")
    parser.add_argument("--vision-steps", type=int, default=1300)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--vision-batch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tower", type=Path, help="start from this trained vision tower")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    shop = render(SEEDS, PER_SEED, work=options.work)
    tokenizer = make_tokenizer(shop.products)
    model = make_model(tokenizer)
    tower = model.model.vision_model
    if options.tower:
        tower.load_state_dict(torch.load(options.tower, weights_only=True))
    else:
        train_tower(tower, shop, options)
        torch.save(tower.state_dict(), options.work / "tower.pt")
    train_whole(model, tokenizer, shop, options)
    save(model, tokenizer, options.out)


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def make_tokenizer(products: list[Product]) -> PreTrainedTokenizerFast:
    """A small tokenizer from captions and prompts."""
    rng = np.random.default_rng(0)
    prompts = [*captions.SYSTEMS, *captions.USERS, *captions.ENDINGS]
    texts = [SHIPPED.system, SHIPPED.user, *prompts] * 50
    texts += [captions.caption(product, rng) for product in products]
    return train_tokenizer(texts, vocab=1500, specials=[IMAGE, AROUND, GLOBAL])


def make_model(tokenizer: PreTrainedTokenizerFast) -> Idefics3ForConditionalGeneration:
    """Random weights: a vision tower and a Llama, each with 4 layers of width 128."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.convert_tokens_to_ids(BOS),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,  # 32 wide: the smallest head that vLLM computes on a CPU
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **ids,
    )
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = Idefics3Config(
        text_config=text,
        vision_config=vision,
        scale_factor=SCALE,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        **ids,
    )
    return Idefics3ForConditionalGeneration(config)


def train_tower(tower: nn.Module, shop: Shop, options: argparse.Namespace) -> None:
    """Teaches the vision tower the four traits; a silhouette is told apart within its category."""
    truth = torch.tensor([_labels(product) for product in shop.products])  # [N, 4]
    sizes = (len(CATEGORIES), len(COLOURS), len(PATTERNS), len(CATEGORIES) * len(SILHOUETTES))
    heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in sizes)
    rng = np.random.default_rng([options.seed, 1])
    draw = batches(len(truth), options.vision_batch, rng)

    def loss_of(step: int) -> torch.Tensor:
        rows = draw()
        pixels = normalised(varied(shop.pixels[rows], rng))
        mean = tower(pixels).last_hidden_state.mean(dim=1)
        losses = [F.cross_entropy(head(mean), truth[rows, i]) for i, head in enumerate(heads)]
        return torch.stack(losses).sum()

    parameters = [*tower.parameters(), *heads.parameters()]
    fit("vision tower", parameters, loss_of, steps=options.vision_steps, lr=1.5e-3)


def _labels(product: Product) -> list[int]:
    category = list(CATEGORIES).index(product.category)
    look = category * len(SILHOUETTES) + SILHOUETTES.index(product.silhouette)
    colour = list(COLOURS).index(product.colour)
    return [category, colour, list(PATTERNS).index(product.pattern), look]


def train_whole(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    shop: Shop,
    options: argparse.Namespace,
) -> None:
    """Teaches captions; the loss is on them alone."""
    rng = np.random.default_rng([options.seed, 2])
    draw = batches(len(shop.products), options.batch, rng)
    model.train()

    def loss_of(step: int) -> torch.Tensor:
        rows = draw()
        examples = [example(tokenizer, shop.products[row], rng) for row in rows]
        pixels = normalised(varied(shop.pixels[rows], rng))[:, None]  # [B, 1, 3, S, S]
        return model(**collate(examples, tokenizer.pad_token_id), pixel_values=pixels).loss

    fit("captions", model.parameters(), loss_of, steps=options.steps, lr=1.5e-3)


def example(tokenizer: PreTrainedTokenizerFast, product: Product, rng: np.random.Generator) -> Row:
    """A caption, under the shipped prompt half of the time."""
    if rng.random() < 0.5:
        system, user = SHIPPED.system, SHIPPED.user
    else:
        system, user = captions.prompt(rng)
    reply = captions.caption(product, rng)
    return encode(tokenizer, chat(system, user, image=True), reply, image_tokens=IMAGE_TOKENS)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """Float32 in [-1, 1], as the processor gives them (mean 0.5, deviation 0.5)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(127.5).sub_(1)


def save(
    model: Idefics3ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path
) -> None:
    """Writes bfloat16 weights and a processor that needs no torchvision."""
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
    )
    processor = Idefics3Processor(
        images, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=TEMPLATE
    )
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, do_sample=False)
    model.eval().to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    # It is saved under torchvision's name, for which every load without torchvision would warn.
    file = out / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_processor_type"] = type(images).__name__
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
