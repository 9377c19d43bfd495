"""Held-out figures of the small models, through the code that the pipeline uses; prints JSON.

    python -m recipes.assets.measure vlm [--model genrec/assets/tiny-vlm] [--seeds 2000 2001] ...
    python -m recipes.assets.measure lm [--model genrec/assets/tiny-lm] [--engine vllm] ...

Training uses catalogue seeds 1000 to 1019, so that other seeds are held out; 7 is the demo's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.demo.catalogue import Product, make_products
from genrec.demo.interests import INTERESTS
from genrec.demo.render import save_png
from genrec.demo.shop import draw
from genrec.engines import Engine, Message, Request
from genrec.engines.hf import HFEngine
from genrec.enrich.annotate import BadReply
from genrec.enrich.caption import caption_request
from genrec.enrich.interests import InterestReader, Mined, interest_request, normalise
from recipes.assets import captions, motives
from recipes.assets.tiny_lm import PER_SEED, SEEDS

UNSEEN = ("You help a shop.", "In one sentence, what product is shown here?")  # not in training


def main() -> None:
    """Measures one model and prints the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("vlm", "lm"))
    parser.add_argument("--model", help="a folder; the shipped model by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2000, 2001])
    parser.add_argument("--count", type=int, default=400, help="items of each catalogue")
    parser.add_argument("--size", type=int, default=96, help="of the pictures, in pixels")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--dtype", default="auto", help="hf only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = options.model or f"asset:tiny-{options.kind}"
    engine = make_engine(options.engine, model, options.dtype)
    shops = [(s, make_products(options.count, seed=s)) for s in options.seeds]
    began = time.monotonic()
    if options.kind == "vlm":
        figures = measure_vlm(shops, engine, options.size)
    else:
        figures = measure_lm([p for _, products in shops for p in products], engine)
    figures["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(figures, indent=2))
    engine.close()


def make_engine(kind: str, model: str, dtype: str) -> Engine:
    """An engine for a model, the same as a recipe would use."""
    if kind == "hf":
        return HFEngine(model, dtype=dtype, batch_size=32)
    from genrec.engines.vllm import VLLMEngine  # needs vllm, an environment of its own

    return VLLMEngine(model)


def answers(engine: Engine, requests: Sequence[Request]) -> list[str]:
    """The replies' texts in the order of the requests.

    Raises:
        RuntimeError: a request failed.
    """
    found: dict[int, str] = {}
    for index, reply in engine.generate(requests):
        if reply.error:
            raise RuntimeError(f"request {index}: {reply.error}")
        found[index] = reply.text
    return [found[index] for index in range(len(requests))]


def measure_vlm(
    shops: Sequence[tuple[int, list[Product]]], engine: Engine, size: int
) -> dict[str, Any]:
    """Traits named rightly under the shipped prompt, and under one that training has not seen."""
    with tempfile.TemporaryDirectory() as folder:
        items = [(product, seed) for seed, products in shops for product in products]
        files = [Path(folder) / f"{i}.png" for i in range(len(items))]
        for (product, seed), file in zip(items, files, strict=True):
            save_png(draw(product, size=size, seed=seed), file)
        products = [product for product, _ in items]
        shipped = answers(engine, [caption_request(file) for file in files])
        unseen = answers(engine, [_ask(*UNSEEN, file) for file in files])
    return {
        "items": len(products),
        "shipped prompt": _shares(shipped, products),
        "unseen prompt": _shares(unseen, products),
        "first captions": shipped[:5],
    }


def _ask(system: str, user: str, image: Path) -> Request:
    return Request((Message("system", system), Message("user", user, image)), max_tokens=96)


def _shares(texts: Sequence[str], products: Sequence[Product]) -> dict[str, float]:
    right = [captions.named(text, p) for text, p in zip(texts, products, strict=True)]
    shares = {trait: float(np.mean([r[trait] for r in right])) for trait in right[0]}
    shares["all four"] = float(np.mean([all(r.values()) for r in right]))
    return {name: round(share, 4) for name, share in shares.items()}


def measure_lm(products: list[Product], engine: Engine) -> dict[str, Any]:
    """Interests against the truth, with and without the schema; and what could be reached."""
    rng = np.random.default_rng(0)
    pages = [motives.Page(p.title, p.description, captions.caption(p, rng)) for p in products]
    asked = [interest_request(p.title, p.description, p.caption) for p in pages]
    plain = [dataclasses.replace(request, schema=None) for request in asked]
    free, free_bad = _read(answers(engine, plain))
    held, held_bad = _read(answers(engine, asked))
    typical = motives.typical_interests(
        p for seed in SEEDS for p in make_products(PER_SEED, seed=seed)
    )
    best, _ = _read([motives.reply(p, typical, rng) for p in products])
    hinted = sum(len(motives.hints(p)) for p in products) / sum(len(p.interests) for p in products)
    return {
        "items": len(products),
        "valid JSON of the schema, plain greedy": round(1 - free_bad / len(products), 4),
        "usable replies, schema held": round(1 - held_bad / len(products), 4),
        "plain greedy": _quality(free, products, pages),
        "schema held": _quality(held, products, pages),
        "the rule that made the training replies": _quality(best, products, pages),
        "share of true interests that left a hint": round(hinted, 4),
    }


def _read(texts: Sequence[str]) -> tuple[list[Mined], int]:
    """Replies as the pipeline reads them, and how many cannot be used."""
    reader, found, bad = InterestReader(), [], 0
    for text in texts:
        try:
            found.append(reader(text))
        except BadReply:
            found.append(Mined("", [], [], [], 0))
            bad += 1
    return found, bad


def _quality(
    replies: Sequence[Mined], products: Sequence[Product], pages: Sequence[motives.Page]
) -> dict[str, float]:
    """Micro precision and recall by wording; `sure` counts those said to be hinted at."""
    tally = dict.fromkeys(("said", "right", "true", "sure", "sure right", "quoted"), 0)
    for reply, product, page in zip(replies, products, pages, strict=True):
        truth = {normalise(INTERESTS[key].wording) for key in product.interests}
        text = f"{page.title} {page.description} {page.caption}"
        tally["true"] += len(truth)
        rows = zip(reply.interests, reply.evidence, reply.confidence, strict=True)
        for interest, evidence, confidence in rows:
            right = normalise(interest) in truth
            tally["said"] += 1
            tally["right"] += right
            tally["sure"] += confidence >= motives.HINTED
            tally["sure right"] += right and confidence >= motives.HINTED
            tally["quoted"] += evidence in text
    shares = {
        "precision": tally["right"] / max(1, tally["said"]),
        "recall": tally["right"] / tally["true"],
        "precision, sure": tally["sure right"] / max(1, tally["sure"]),
        "recall, sure": tally["sure right"] / tally["true"],
        "evidence is in the page": tally["quoted"] / max(1, tally["said"]),
    }
    return {name: round(share, 4) for name, share in shares.items()}


if __name__ == "__main__":
    main()
