"""Rendered products for training and for the held-out figures, as the model's processor sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from genrec.demo.catalogue import Product, make_products
from genrec.demo.shop import draw

SIDE = 64  # pixels; what the model sees
DRAWN = (64, 96, 96, 128)  # pixels; the demo draws 96, people may choose otherwise


@dataclass(frozen=True)
class Shop:
    """Products and their pictures, uint8 [N, 3, SIDE, SIDE]."""

    products: list[Product]
    pixels: np.ndarray


def render(seeds: Sequence[int], count: int, *, work: Path) -> Shop:
    """Draws `count` products for each catalogue seed; drawn ones are kept in `work`."""
    shops = [_render(seed, count, work / f"pictures-{seed}-{count}.npy") for seed in seeds]
    products = [product for shop in shops for product in shop.products]
    return Shop(products, np.concatenate([shop.pixels for shop in shops]))


def _render(seed: int, count: int, kept: Path) -> Shop:
    products = make_products(count, seed=seed)
    if not kept.exists():
        rng = np.random.default_rng([seed, 3])
        sizes = rng.choice(DRAWN, size=count)
        drawn = [draw(p, size=int(s), seed=seed) for p, s in zip(products, sizes, strict=True)]
        small = [image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for image in drawn]
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack([np.asarray(image).transpose(2, 0, 1) for image in small]))
    return Shop(products, np.load(kept))


def varied(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors about half of the pictures uint8 [B, 3, S, S] and shifts all by up to 3 pixels."""
    mirrored = np.where(rng.random((len(pixels), 1, 1, 1)) < 0.5, pixels[..., ::-1], pixels)
    down, right = rng.integers(-3, 4, size=2)
    padded = np.pad(mirrored, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="edge")
    return padded[:, :, 3 + down : 3 + down + SIDE, 3 + right : 3 + right + SIDE]
