"""Chat on the demo's ground truth: wishes that are met, refinements that are respected.

    python -m recipes.bench.chat [--store store] [--recipe recipes/demo.yaml] [--wishes 100] ...

The demo's artifacts must be finished in the store. A wish names known traits of an item ("blue striped
mug for a camper") in words of our own; right are the items that have all of them by the truth, which the
served shop does not see. hit@5: one of the first five is right. found@5: how many of the first five are
right, of those that could be. Each system answers twice: alone, by the wish's words over the whole
catalogue, and in the chat, which reads traits into filters. Then each list is refined, and every item
that is shown is held against the truth: `respected` is the share of items that meet the refinement,
`kind` the share that is still what was wished for, `items` the mean length of the list, `empty` the
share of answers without items. Intervals are 95 % of bootstrap samples over wishes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.pipeline import Pipeline
from genrec.recommendations import SEARCH, WRITTEN, ListRequest, known_systems
from genrec.serve.chat.listing import Asker
from genrec.serve.chat.messages import Message
from genrec.serve.chat.reply import Reply, respond
from genrec.serve.models import ModelRegistry, ModelVersion
from genrec.serve.settings import Settings
from recipes.bench.chat_wishes import NOUNS, SAID, Wish, make_wishes

K = 5
Row = dict[str, Any]
Check = Callable[[Mapping[str, Any]], bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--store", default="store")
    parser.add_argument("--wishes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    pipeline = Pipeline.load(options.recipe, f"runtime.store={options.store}")
    measured = asyncio.run(measure(pipeline, count=options.wishes, seed=options.seed))
    for name, rows in measured.items():
        print(f"\n{name}")
        with pl.Config(
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
            tbl_rows=50,
            tbl_cols=-1,
            tbl_width_chars=200,
            fmt_str_lengths=40,
        ):
            print(pl.DataFrame(rows))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


async def measure(pipeline: Pipeline, *, count: int, seed: int) -> dict[str, list[Row]]:
    """Returns the tables `wishes` and `refinements`."""
    limits = Settings(max_queue=100_000, timeout=600)
    registry = ModelRegistry(lambda: pipeline.bundle().open(), limits)
    await registry.start()
    async with registry.current() as served:
        truth = true_items(pipeline, served)
        wishes = make_wishes(truth, count=count, seed=seed)
        measured = {
            "wishes": await wished(served, wishes),
            "refinements": await refined(served, truth, wishes, seed=seed),
        }
    await registry.close()
    return measured


def true_items(pipeline: Pipeline, served: ModelVersion) -> pl.DataFrame:
    """Returns the truth of the served items, row i is item i, with their prices."""
    items = served.bundle.items.select("item_id", pl.col("price").cast(pl.Float64))
    truth = pl.read_parquet(pipeline["prepare"] / "truth" / "items.parquet")
    return items.join(truth, on="item_id", how="left", maintain_order="left")


async def wished(served: ModelVersion, wishes: Sequence[Wish]) -> list[Row]:
    """Returns hit@5 and found@5 by system, alone and in the chat."""
    systems: list[str | None] = ["popular", SEARCH, WRITTEN, None]
    rows = []
    for system in systems:
        if system is not None and system not in known_systems(served.bundle):
            continue
        requests = [ListRequest((), K, text=wish.text, system=system) for wish in wishes]
        alone = await asyncio.gather(*(served.recommend(ask) for ask in requests))
        rows.append(_scored(system, "alone", [[r.item for r in one] for one in alone], wishes))
        asker = Asker(k=K, system=system)
        said = [[Message(role="user", content=wish.text)] for wish in wishes]
        answers = await asyncio.gather(*(respond(served, one, asker) for one in said))
        lists = [[r.item for r in answer.found] for answer in answers]
        rows.append(_scored(system, "in the chat", lists, wishes))
    return rows


def _scored(
    system: str | None, how: str, lists: Sequence[Sequence[int]], wishes: Sequence[Wish]
) -> Row:
    right = [len(wish.items & set(items)) for wish, items in zip(wishes, lists, strict=True)]
    could = np.array([min(K, len(wish.items)) for wish in wishes])
    hits = np.array(right) > 0
    by_traits = {
        "+".join(t[:3] for t in traits): round(float(hits[own].mean()), 2)
        for traits in dict.fromkeys(tuple(wish.traits) for wish in wishes)
        if (own := np.array([tuple(wish.traits) == traits for wish in wishes])).any()
    }
    return {
        "system": system or "fused",
        "how": how,
        "hit@5": _interval(hits),
        "found@5": _interval(np.array(right) / could),
        **by_traits,
    }


async def refined(
    served: ModelVersion, truth: pl.DataFrame, wishes: Sequence[Wish], *, seed: int
) -> list[Row]:
    """Returns how far each kind of refinement is respected."""
    rng = np.random.default_rng([seed, 7])
    first = await asyncio.gather(
        *(respond(served, [Message(role="user", content=wish.text)], Asker(k=K)) for wish in wishes)
    )
    found: dict[str, list[Row]] = {}
    for wish, answer in zip(wishes, first, strict=True):
        for name, text, holds, kind in _refinements(truth, wish, answer, rng):
            messages = [
                Message(role="user", content=wish.text),
                Message(role="assistant", content=answer.text),
                Message(role="user", content=text),
            ]
            second = await respond(served, messages, Asker(k=K))
            shown = [truth.row(one.item, named=True) for one in second.found]
            found.setdefault(name, []).append(
                {
                    "respected": [holds(item) for item in shown],
                    "kind": [item["category"] == kind for item in shown],
                }
            )
    total = [answer for answers in found.values() for answer in answers]
    return [_respected(name, answers) for name, answers in [*found.items(), ("all", total)]]


def _refinements(
    truth: pl.DataFrame, wish: Wish, answer: Reply, rng: np.random.Generator
) -> list[tuple[str, str, Check, str]]:
    """Refinements of one list: a name, what is said, what must hold, and the kind wished for."""
    shown = [truth.row(one.item, named=True) for one in answer.found]
    kind = wish.traits["category"]
    colour, pattern = (str(rng.choice([item[n] for item in shown])) for n in ("colour", "pattern"))
    other = str(rng.choice([c for c in NOUNS if c != kind]))
    another = str(rng.choice([c for c in truth["colour"].unique().sort() if c != colour]))
    middle = float(np.median([item["price"] for item in shown]))
    limit = int(np.ceil(middle))
    not_said, looks = SAID[colour][0], SAID[pattern][0]
    return [
        ("not colour", f"not {not_said}", lambda i: i["colour"] != colour, kind),
        ("no pattern", f"nothing {looks}, please", lambda i: i["pattern"] != pattern, kind),
        ("in colour", f"in {SAID[another][0]}", lambda i: i["colour"] == another, kind),
        ("only kind", f"only {other}s", lambda i: i["category"] == other, other),
        ("cheaper", "cheaper", lambda i: i["price"] < middle, kind),
        ("under", f"under {limit}", lambda i: i["price"] <= limit, kind),
        (
            "two at once",
            f"something cheaper and not {not_said}",
            lambda i: i["price"] < middle and i["colour"] != colour,
            kind,
        ),
    ]


def _respected(name: str, answers: Sequence[Row]) -> Row:
    lengths = np.array([len(answer["respected"]) for answer in answers])
    respected = np.array([sum(answer["respected"]) for answer in answers])
    kept = sum(sum(answer["kind"]) for answer in answers)
    return {
        "refinement": name,
        "respected": round(float(respected.sum() / max(1, lengths.sum())), 4),
        "kind": round(kept / max(1, int(lengths.sum())), 4),
        "items": round(float(lengths.mean()), 2),
        "empty": round(float((lengths == 0).mean()), 3),
        "answers": len(answers),
    }


def _interval(values: np.ndarray) -> str:
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
