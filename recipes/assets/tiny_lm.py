"""Trains genrec/assets/tiny-lm: a small Qwen3 that knows catalogue language and mines interests.

    python -m recipes.assets.tiny_lm [--out genrec/assets/tiny-lm]

Each batch is of one kind: plain pages (next token), pages under short questions, or pages under the
shipped prompt of `prompts/interests/motives.yaml`, whose length makes it the dearest. The first
stage learns the task under short questions, the second moves on to the shipped one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from genrec.demo.catalogue import Product, make_products
from genrec.demo.interests import INTERESTS
from genrec.prompts import load_chat
from recipes.assets import motives
from recipes.assets.captions import pick
from recipes.assets.chat import BOS, END, Row, chat, collate, encode, fit, train_tokenizer

SEEDS = range(
    1000, 1020
)  # catalogues to learn from; the demo's own is 7, held-out ones 2000 and up
PER_SEED = 1000
SHIPPED = load_chat("interests/motives", placeholders=("title", "description", "caption"))
FIRST = {"plain": 0.25, "short": 0.75, "shipped": 0.0}  # shares of batches
SECOND = {"plain": 0.15, "short": 0.15, "shipped": 0.7}


def main() -> None:
    """Trains and saves the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("genrec/assets/tiny-lm"))
    parser.add_argument("--first-steps", type=int, default=900)
    parser.add_argument("--second-steps", type=int, default=450)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    products = [p for seed in SEEDS for p in make_products(PER_SEED, seed=seed)]
    rng = np.random.default_rng([options.seed, 4])
    maker = Maker(products, rng)
    model = make_model(maker.tokenizer)
    model.train()
    stages = (
        ("short questions", options.first_steps, FIRST, 3e-3),
        ("shipped prompt", options.second_steps, SECOND, 1.5e-3),
    )
    for name, steps, shares, lr in stages:

        def loss_of(step: int, shares: dict[str, float] = shares) -> torch.Tensor:
            kind = str(rng.choice(list(shares), p=list(shares.values())))
            rows = [maker.row(kind) for _ in range(options.batch)]
            return model(**collate(rows, maker.tokenizer.pad_token_id)).loss

        fit(name, model.parameters(), loss_of, steps=steps, lr=lr)
    model.generation_config.update(eos_token_id=maker.tokenizer.eos_token_id, do_sample=False)
    model.eval().to(torch.bfloat16).save_pretrained(options.out)
    maker.tokenizer.save_pretrained(options.out)


class Maker:
    """Makes training rows, and the tokenizer, from products."""

    def __init__(self, products: list[Product], rng: np.random.Generator) -> None:
        self.products, self._rng = products, rng
        self._typical = motives.typical_interests(products)
        self.tokenizer = train_tokenizer(self._texts(), vocab=3000)

    def row(self, kind: str) -> Row:
        """One row of "plain", "short" or "shipped"."""
        product = self.products[int(self._rng.integers(len(self.products)))]
        if kind == "plain":
            ids = self.tokenizer.encode(f"{BOS}{self._plain(product)}{END}")
            return Row(tuple(ids), 1)
        read = vars(motives.page(product, self._rng))
        if kind == "shipped":
            messages = chat(SHIPPED.system, SHIPPED.fill(**read))
        else:
            asked = SHIPPED.model_copy(update={"user": pick(motives.SHORT_USERS, self._rng)})
            messages = chat(pick(motives.SHORT_SYSTEMS, self._rng), asked.fill(**read))
        reply = motives.reply(product, self._typical, self._rng)
        return encode(self.tokenizer, messages, reply)

    def _plain(self, product: Product) -> str:
        """A page as running text, its parts in two orders."""
        read = motives.page(product, self._rng)
        parts = [read.title, product.description, read.caption or ""]
        if self._rng.random() < 0.3:
            parts.reverse()
        return "\n".join(part for part in parts if part)

    def _texts(self) -> list[str]:
        """What the tokenizer is made from: pages, replies, and the prompts many times over."""
        fixed = [*motives.SHORT_USERS, *motives.SHORT_SYSTEMS, SHIPPED.system, SHIPPED.user]
        some = self.products[:4000]
        replies = [motives.reply(p, self._typical, self._rng) for p in some]
        wordings = [interest.wording for interest in INTERESTS.values()]
        return [*(fixed * 300), *map(self._plain, some), *replies, *wordings]


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights: 4 layers of width 128, embeddings tied."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,  # the smallest that vLLM computes on a CPU
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.convert_tokens_to_ids(BOS),
            eos_token_id=tokenizer.eos_token_id,
        )
    )


if __name__ == "__main__":
    main()
