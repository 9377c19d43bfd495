"""The five scores of `magnitude` in and out of domain, on cold items and in a symmetric task.

    python -m recipes.bench.magnitude [--store store] [--seeds 0 1 2] [--json FILE] [--threads 1] ...

On `recipes/scientific.yaml`, its `prepare` and `embed` built in the store. A seed draws the weights, the
order and what is held out of training:
- out of domain: a whole category, another one for each seed, its texts and interactions;
- cold: of the other items a tenth, their texts and interactions (and a twentieth for validation);
- in domain: another quarter of them, their texts (and a twelfth for validation).
One model per seed and variant learns (title, item), (two words of the title, item) and (history, next
item) from what is left, on the frozen text view; its epoch is chosen by validation texts and histories
of known items together. The whole catalogue is ranked, with one right item: for two words of a title
that training did not see, or for a test user's history. The symmetric task has models of its own, with
one tower for both sides and a fixed number of epochs: neighbours in the sequences of 70 % of the users,
both ways round; asked are pairs of other users that training did not see. Its AUC sets such pairs
against random ones by the score alone, over all queries at once: there the query's norm counts.
`popularity_correction` is 0, the paper's loss. `encoder` ranks by the text view as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from genrec.analysis.side_selection import choose_side
from genrec.enrich import encode_texts, load_views
from genrec.pipeline import Pipeline
from genrec.retrieve import Validation, histories_of, training_sequences
from genrec.retrieve.base import by_scores, in_blocks
from genrec.retrieve.magnitude import VARIANTS, Magnitude, norm_report
from genrec.retrieve.magnitude.towers import Towers
from genrec.store import RowCache
from recipes.bench.magnitude_tables import SYMMETRIC, TASKS, paired, show, table

CATEGORIES = ("Industrial Electrical", "Additive Manufacturing Products", "Tapes")  # the largest
WORDS = 2  # of the title; with three the encoder alone finds 57 % of the gain there is
RULED = ("dot", "qnorm", "dnorm")
SAMPLE = 2 * 384  # queries that the rules of the side look at, as in `compare_sides`

Floats = NDArray[np.floating]
Ints = NDArray[Any]
Bools = NDArray[np.bool_]
Found = dict[str, list[dict[str, Any]]]


class World(NamedTuple):
    """The data: text view [N, D], each item's category, whole sequences, text queries [N, D]."""

    view: Floats
    category: NDArray[np.str_]
    train: list[Ints]
    valid: Validation
    test: Validation
    titles: Floats
    words: list[Floats]


class Asked(NamedTuple):
    """Queries with one right item each.

    `unit` numbers the users or items that queries belong to, which the bootstrap draws; `seen` are
    items that no list holds: the history that asks, unless `texts` [n, D] do.
    """

    targets: Ints
    unit: Ints
    seen: list[Ints]
    texts: Floats | None = None


class Split(NamedTuple):
    """What one seed holds out: disjoint sets of items, as bool [N]."""

    away: Bools
    cold: Bools
    cold_valid: Bools
    text: Bools
    text_valid: Bools

    @property
    def unknown(self) -> Bools:
        """Items that training sees neither by text nor by interactions."""
        return self.away | self.cold | self.cold_valid


class OneTower(Magnitude):
    """A `Magnitude` whose text queries go through the documents' tower and nothing after it."""

    def _towers(self, dims: Mapping[str, int], num_items: int) -> Towers:
        net = super()._towers(dims, num_items)
        assert net.text_head is not None, "the view is the text"
        net.text_head.requires_grad_(False)  # it stays the identity that it begins as
        return net


def main() -> None:
    """Trains, measures and prints; writes JSON where asked."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    world = _world(args)
    found: Found = {"queries": [], "norms": [], "sides": []}
    for seed in args.seeds:
        _one_seed(world, seed, args, found)
        _symmetric(world, seed, args, found)
    tables = {
        "settings": {k: v for k, v in vars(args).items() if not isinstance(v, Path)},
        "metrics": table(found["queries"], args.variants),
        "norms": found["norms"],
        "sides": found["sides"],
    }
    show(tables)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", default="recipes/scientific.yaml")
    add("--store", type=Path, default=Path("store"))
    add("--rows", type=Path, help="where vectors of queries are kept; STORE/rows.sqlite")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each takes another category")
    add("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    add("--dim", type=int, default=384, help="the encoder's width keeps its geometry at first")
    add("--lr", type=float, default=3e-4)
    add("--epochs", type=int, default=10, help="at most")
    add("--patience", type=int, default=3)
    add("--pair-epochs", type=int, default=3, help="of the symmetric task, always all of them")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--json", type=Path, help="also write the tables here")
    return parser.parse_args()


def _world(args: argparse.Namespace) -> World:
    pipeline = Pipeline.load(args.recipe, f"runtime.store={args.store}")
    prepared, embedded = pipeline["prepare"], pipeline["embed"]
    names = ("train", "valid", "test", "items")
    train, valid, test, items = (pl.read_parquet(prepared.path / f"{n}.parquet") for n in names)
    view = load_views(embedded.path)["text"]
    model = pipeline.recipe.embed.text.model  # type: ignore[union-attr]
    cache = RowCache(args.rows or args.store / "rows.sqlite")
    titles = items["title"].to_list()
    second = pl.col("categories").fill_null("").str.split(",").list.get(1, null_on_oob=True)
    return World(
        view,
        items.select(second.fill_null("")).to_series().to_numpy().astype(np.str_),
        training_sequences(train),
        Validation(histories_of(valid), valid["target"].to_numpy()),
        Validation(histories_of(test), test["target"].to_numpy()),
        encode_texts(titles, model=model, cache=cache),
        [encode_texts(_words(titles, seed), model=model, cache=cache) for seed in (0, 1)],
    )


def _words(titles: Sequence[str], seed: int) -> list[str]:
    """Some words of each title, in order; the whole title where it has none of three letters."""
    rng, texts = np.random.default_rng(seed), []
    for title in titles:
        words = list(dict.fromkeys(re.findall(r"[^\W\d_]{3,}", title))) or [title]
        kept = np.sort(rng.permutation(len(words))[:WORDS])
        texts.append(" ".join(words[i] for i in kept))
    return texts


def _split(world: World, seed: int) -> Split:
    away = world.category == CATEGORIES[seed % len(CATEGORIES)]
    rest = np.random.default_rng(seed).permutation(np.flatnonzero(~away))
    ends = (len(rest) * np.cumsum([1 / 10, 1 / 20, 1 / 4, 1 / 12])).astype(int)
    masks = [np.isin(np.arange(len(away)), part) for part in np.split(rest, ends)[:-1]]
    return Split(away, *masks)


def _fit(
    world: World, split: Split, variant: Any, seed: int, args: argparse.Namespace
) -> Magnitude:
    valid = _by_history(world.valid, ~split.unknown)
    told = np.flatnonzero(~(split.unknown | split.text | split.text_valid))
    texts = {"title": world.titles, "words": world.words[0], "other words": world.words[1]}
    chosen_by = np.flatnonzero(split.text_valid)
    model = Magnitude(**_settings(variant, seed, args), epochs=args.epochs, patience=args.patience)
    model.fit(
        _known(world, split),
        num_items=len(world.view),
        features={"text": world.view},
        queries={name: (vectors[told], told) for name, vectors in texts.items()},
        valid=Validation(valid.seen, valid.targets),
        valid_queries={"words": (world.words[0][chosen_by], chosen_by)},
    )
    found = [epoch["valid"] for epoch in model.log_]
    print(f"# seed {seed}, {variant}: epoch {np.argmax(found) + 1} of {len(found)}", flush=True)
    return model


def _settings(variant: Any, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    settings = {"variant": variant, "seed": seed, "dim": args.dim, "lr": args.lr}
    return {**settings, "popularity_correction": 0.0, "device": "cpu"}


def _known(world: World, split: Split) -> list[Ints]:
    return [row[~split.unknown[row]] for row in world.train]


def _by_text(world: World, mask: Bools) -> Asked:
    items = np.flatnonzero(mask)
    return Asked(items, items, [items[:0]] * len(items), world.words[0][items])


def _by_history(users: Validation, mask: Bools) -> Asked:
    rows = np.flatnonzero(mask[users.targets])
    histories = [np.asarray(users.histories[int(u)]) for u in rows]
    return Asked(users.targets[rows].astype(np.int64), rows, histories)


def _queries(world: World, split: Split) -> tuple[dict[str, Asked], dict[str, Asked]]:
    """What is asked on test, by task, and on validation, by kind."""
    test = {
        "text, in domain": _by_text(world, split.text),
        "text, out of domain": _by_text(world, split.away),
        "history, in domain": _by_history(world.test, ~split.unknown),
        "history, out of domain": _by_history(world.test, split.away),
        "history, cold item": _by_history(world.test, split.cold),
    }
    valid = {
        "text": _by_text(world, split.text_valid),
        "history": _by_history(world.valid, ~split.unknown),
        "cold": _by_history(world.valid, split.cold_valid),
    }
    return test, valid


def _one_seed(world: World, seed: int, args: argparse.Namespace, found: Found) -> None:
    """All tasks but the symmetric one: a model per variant."""
    split = _split(world, seed)
    popularity = np.bincount(np.concatenate(_known(world, split)), minlength=len(world.view))
    test, valid = _queries(world, split)
    models: dict[str, Magnitude] = {}
    for variant in args.variants:
        models[variant] = model = _fit(world, split, variant, seed, args)
        for task, asked in test.items():
            named = {"task": task, "variant": variant, "seed": seed}
            found["queries"].append(named | _answers(asked, model))
            found["norms"].append(named | _norms(model, asked.targets, popularity))
    for task, asked in test.items():
        if asked.texts is not None:
            named = {"task": task, "variant": "encoder", "seed": seed}
            found["queries"].append(named | _gains(asked.texts, world.view, asked))
    if models.keys() >= {*RULED}:
        rules = {kind: _rules(models, asked) for kind, asked in valid.items()}
        for task, kind in TASKS.items():
            truth = _truth(found["queries"], task, seed)
            found["sides"].append({"task": task, "seed": seed} | truth | {"rules": rules[kind]})


def _ask(asked: Asked, model: Magnitude, *, raw: bool = False) -> Floats:
    if asked.texts is not None:
        return model.query_vectors(texts=asked.texts, raw=raw)
    return model.query_vectors(asked.seen, raw=raw)


def _answers(asked: Asked, model: Magnitude) -> dict[str, Any]:
    return _gains(_ask(asked, model), model.item_vectors(), asked)


def _gains(queries: Floats, documents: Floats, asked: Asked) -> dict[str, Any]:
    """NDCG@10 and recall@10 of every query, float64 [n, 2], and the queries' units."""
    left, right = torch.from_numpy(queries), torch.from_numpy(documents).T
    count = len(documents)
    rank = by_scores(lambda part, _: left[part] @ right, k=10)
    top = in_blocks(rank, asked.seen, num_items=count, k=10, step="top 10")
    hits = top.items == asked.targets[:, None]
    ndcg = hits @ (1 / np.log2(np.arange(10) + 2))
    return {"gains": np.stack([ndcg, hits.any(axis=1)], axis=1), "unit": asked.unit}


def _norms(model: Magnitude, targets: Ints, popularity: Ints) -> dict[str, float]:
    """Norms of item vectors before normalisation; popularity among the items that training knew."""
    vectors, known = model.item_vectors(raw=True), popularity > 0
    relevant = np.isin(np.arange(len(vectors)), targets)
    found = norm_report(vectors, relevant=relevant, popularity=popularity)
    among = norm_report(vectors[known], relevant=relevant[known], popularity=popularity[known])
    gammas = dict(zip(("gamma_query", "gamma_document"), model.gammas_, strict=True))
    return found._asdict() | {"popularity": among.popularity} | gammas


def _rules(models: Mapping[str, Magnitude], asked: Asked) -> dict[str, Any]:
    """What the three rules of the side say from validation queries of one kind."""
    texts = None if asked.texts is None else asked.texts[:SAMPLE]
    some = Asked(asked.targets[:SAMPLE], asked.unit[:SAMPLE], asked.seen[:SAMPLE], texts)
    items = np.unique(some.targets)
    compared = choose_side(
        {v: _ask(some, models[v], raw=True) for v in RULED},
        {v: models[v].item_vectors(raw=True)[items] for v in RULED},
        {v: float(_answers(asked, models[v])["gains"][:, 0].mean()) for v in models},
    )
    return {r.name: {"choice": r.choice, "clear": r.clear, **r.values} for r in compared}


def _truth(queries: list[dict[str, Any]], task: str, seed: int) -> dict[str, Any]:
    """Which side is better on test, by NDCG@10, and whether that is more than chance."""
    rows = {r["variant"]: r for r in queries if (r["task"], r["seed"]) == (task, seed)}
    gain = rows["qnorm"]["gains"] - rows["dnorm"]["gains"]
    mean, low, high, _ = (float(end[0]) for end in paired(gain[:, :1], rows["qnorm"]["unit"]))
    better, clear = "qnorm" if mean > 0 else "dnorm", low * high > 0
    return {"difference": mean, "low": low, "high": high, "better": better, "clear": clear}


def _symmetric(world: World, seed: int, args: argparse.Namespace, found: Found) -> None:
    """The symmetric task: models of its own."""
    whole = [np.append(h, t) for h, t in zip(*world.test, strict=True)]
    order, view = np.random.default_rng(seed).permutation(len(whole)), world.view
    cut, count = len(order) * 7 // 10, len(view)
    known, new = (_pairs([whole[u] for u in users]) for users in (order[:cut], order[cut:]))
    keys = np.setdiff1d(new @ [count, 1], known @ [count, 1])  # each pair once, none of training's
    left, right = np.divmod(keys, count)
    asked = Asked(right, left, list(left[:, None]), view[left])
    random = np.random.default_rng(seed).integers(count, size=len(left))
    popularity = np.bincount(known[:, 0], minlength=count)
    named = {"task": SYMMETRIC, "seed": seed}
    auc = {"auc": _auc(view[left], view, right, random)}
    found["queries"].append(named | {"variant": "encoder"} | _gains(view[left], view, asked) | auc)
    for variant in args.variants:
        model = OneTower(**_settings(variant, seed, args), epochs=args.pair_epochs)
        queries = {"pair": (view[known[:, 0]], known[:, 1])}
        model.fit([], num_items=count, features={"text": view}, queries=queries)
        named |= {"variant": variant}
        auc = {"auc": _auc(_ask(asked, model), model.item_vectors(), right, random)}
        found["queries"].append(named | _answers(asked, model) | auc)
        found["norms"].append(named | _norms(model, right, popularity))


def _pairs(sequences: Sequence[Ints]) -> Ints:
    """Neighbours in time, both ways round; int64 [n, 2]."""
    pairs = np.concatenate([np.stack([s[:-1], s[1:]], axis=1) for s in sequences]).astype(np.int64)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.concatenate([pairs, pairs[:, ::-1]])


def _auc(queries: Floats, documents: Floats, right: Ints, random: Ints) -> float:
    scores = [np.einsum("nd,nd->n", queries, documents[items]) for items in (right, random)]
    truth = np.repeat([1, 0], [len(right), len(random)])
    return float(roc_auc_score(truth, np.concatenate(scores)))


if __name__ == "__main__":
    main()
