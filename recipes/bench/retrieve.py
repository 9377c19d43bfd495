"""SASRec's quality beside RecTools', and seconds of every retriever beside a library's.

    python -m recipes.bench.retrieve [quality] [speed] [--store store] [--threads 1] ...
    python -m recipes.bench.retrieve speed --only ease itemknn --repeats 5

`quality` and `speed` read what `genrec run recipes/scientific.yaml --to embed` built. RecTools, with
`implicit` inside, is no dependency of this package and below Python 3.13 wants numpy 1.26, so give it
an environment of its own: pip install "rectools[torch]" "torch>=2.11,<2.14" "pyarrow==21.*" polars
httpx pyyaml rich click jinja2 filelock safetensors pillow scikit-learn; then run this with its python.
Its SASRec is set as the full example of its Advanced Training Guide ("guide") or the smaller one there
("small"): the epoch is chosen by NDCG@10 of validation users, patience 5. Both sides learn from the same
training sequences, see validation targets to choose the epoch and nothing else, and are measured by the
same code. Seconds are the processor's: a busy machine distorts others. RecTools' EASE multiplies by the
transpose of the weights that the paper gives, so its lists differ.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from genrec import Pipeline, evaluate, retrieve, schema
from genrec.enrich import load_views
from genrec.retrieve.anchorrec import AnchorRec
from genrec.retrieve.ease import EASE
from genrec.retrieve.graph import Graph
from genrec.retrieve.itemknn import ItemKNN
from genrec.retrieve.magnitude import Magnitude
from genrec.retrieve.norm_concat import NormConcat
from genrec.retrieve.sasrec import SASRec

K = 20
SLOW = 20.0  # seconds; what takes longer to fit is fitted once
LENGTH = 20  # of RecTools' histories, all padded to it: the guide's 50 takes 2.5 times as long
VALID = 2048  # the guide's validation users; ours looks at its default of 5000
MAKE: dict[str, Callable[[int], Any]] = {
    "popular": lambda seed: retrieve.Popular(),
    "cooccurrence": lambda seed: retrieve.Cooccurrence(),
    "itemknn": lambda seed: ItemKNN(shrink=0),  # implicit's cosine has no shrinkage
    "ease": lambda seed: EASE(),
    "graph": lambda seed: Graph(),
    "sasrec": lambda seed: SASRec(seed=seed),
    "anchorrec": lambda seed: AnchorRec(seed=seed),
    "magnitude": lambda seed: Magnitude(seed=seed),
    "norm_concat": lambda seed: NormConcat(seed=seed),
}
THEIRS = {
    "popular": "RecTools PopularModel",
    "itemknn": "implicit CosineRecommender in RecTools",
    "ease": "RecTools EASEModel, same l2",
    "sasrec": "RecTools SASRecModel",
}
SIZES = {"guide": {"n_factors": 256, "n_heads": 4}, "small": {"n_factors": 64, "n_heads": 2}}


class Data(NamedTuple):
    """The split of `scientific`, and the text view of its items."""

    train: list[NDArray[np.int32]]
    valid: pl.DataFrame
    test: pl.DataFrame
    texts: NDArray[np.float32]


class System(NamedTuple):
    """One side of a comparison: `fit` gives the model that ranks; `table` is not timed."""

    fit: Callable[[], Any]
    lists: Callable[[Any], Any]
    table: Callable[[Any], pl.DataFrame]
    epochs: Callable[[Any], int] = lambda model: len(getattr(model, "log_", []))


class Timed(NamedTuple):
    """Seconds of each repeat, and the last result."""

    fit: list[float]
    lists: list[float]
    table: pl.DataFrame
    epochs: int


def main() -> None:
    """Runs the parts that are named."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        print(
            f"torch {torch.__version__}, numpy {np.__version__}; {args.threads} threads of "
            f"{os.cpu_count()} cores; processor seconds",
            flush=True,
        )
        data = _data(args)
        known = _quality(data, args) if "quality" in args.parts else {}
        if "speed" in args.parts:
            _speed(data, known, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, parts = parser.add_argument, ["quality", "speed"]
    add("parts", nargs="*", default=parts, help="quality or speed; both if none is named")
    add("--recipe", default="recipes/scientific.yaml")
    add("--store", default="store", help="where the recipe was run up to embed")
    add("--seeds", type=int, nargs="+", default=[1], help="of quality; speed takes the first")
    add("--library", nargs="+", choices=list(SIZES), default=["guide"], help="its SASRec's size")
    add("--only", nargs="+", choices=list(MAKE), default=list(MAKE), help="retrievers of speed")
    add("--repeats", type=int, default=3, help=f"in turn; fits of {SLOW:.0f} s or more run once")
    add("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(parts):
        parser.error(f"unknown: {sorted(unknown)}; expected some of {parts}")
    return args


def _data(args: argparse.Namespace) -> Data:
    pipeline = Pipeline.load(args.recipe, f"runtime.store={args.store}")
    prepared, embedded = pipeline["prepare"], pipeline["embed"]
    texts = load_views(embedded.path)["text"]
    train = retrieve.training_sequences(prepared.load("train.parquet"))
    print(
        f"scientific: {len(train)} users, {len(texts)} items, {sum(map(len, train))} training "
        "interactions"
    )
    return Data(train, prepared.load("valid.parquet"), prepared.load("test.parquet"), texts)


def _ours(name: str, data: Data, *, seed: int) -> System:
    """A retriever of this package with its defaults."""
    more: dict[str, Any] = {}
    if name in ("sasrec", "anchorrec", "magnitude", "norm_concat"):
        targets = data.valid["target"].to_numpy()
        more["valid"] = retrieve.Validation(retrieve.histories_of(data.valid), targets)
    if name in ("graph", "anchorrec", "magnitude", "norm_concat"):
        more["features"] = {"text": data.texts}
    histories, users = retrieve.histories_of(data.test), data.test["user"].to_numpy()
    return System(
        lambda: MAKE[name](seed).fit(data.train, num_items=len(data.texts), **more),
        lambda model: model.recommend(histories, k=K),
        lambda lists: lists.to_table(users),
    )


def _theirs(name: str, data: Data, args: argparse.Namespace, *, seed: int, size: str) -> System:
    """The library's model that comes nearest; its tables are made outside the clock."""
    learn: list[Any] = list(data.train)
    if name == "sasrec":  # `_newest` keeps these users' newest items out of training again
        targets = data.valid["target"].to_numpy()
        learn[:VALID] = [np.append(learn[user], targets[user]) for user in range(VALID)]
    items, users = len(data.texts), data.test["user"].to_numpy()
    learned, seen = (_dataset(s, items) for s in (learn, retrieve.histories_of(data.test)))

    def fit() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            model = _library(name, args, seed=seed, size=size, folder=folder).fit(learned)
            if name == "sasrec":
                best = model.fit_trainer.checkpoint_callback.best_model_path
                model.load_weights_from_checkpoint(best)
        return model

    def table(found: Any) -> pl.DataFrame:
        columns = {"user": "user_id", "item": "item_id", "score": "score", "rank": "rank"}
        rows = pl.DataFrame({ours: found[theirs].to_numpy() for ours, theirs in columns.items()})
        return rows.cast(dict(schema.RECOMMENDATIONS)).sort("user", "rank", "item")  # type: ignore[arg-type]

    return System(
        fit,
        lambda model: model.recommend(users=users, dataset=seen, k=K, filter_viewed=True),
        table,
        lambda model: model.fit_trainer.current_epoch if name == "sasrec" else 0,
    )


def _dataset(sequences: Sequence[Any], items: int) -> Any:
    """Sequences as RecTools takes them, in our numbers; a place is a second."""
    try:
        import pandas as pd
        from rectools.dataset import Dataset, IdMap, Interactions
    except ImportError as error:
        raise SystemExit(f"{error}; --help says how to make the environment for it") from None
    warnings.filterwarnings("ignore", module="rectools|pydantic|pytorch_lightning|lightning_fabric")
    lengths = [len(s) for s in sequences]
    rows = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lengths)), lengths),
            "item_id": np.concatenate(sequences),
            "weight": 1.0,
            "datetime": pd.to_datetime(np.concatenate([np.arange(n) for n in lengths]), unit="s"),
        }
    )
    maps = IdMap.from_values(np.arange(len(lengths))), IdMap.from_values(np.arange(items))
    return Dataset(*maps, Interactions.from_raw(rows, *maps))


def _library(name: str, args: argparse.Namespace, *, seed: int, size: str, folder: str) -> Any:
    from implicit.nearest_neighbours import CosineRecommender
    from pytorch_lightning import seed_everything
    from rectools import models

    if name == "popular":
        return models.PopularModel()
    if name == "itemknn":
        cosine = CosineRecommender(ItemKNN().neighbours, num_threads=args.threads)
        return models.ImplicitItemKNNWrapperModel(cosine)
    if name == "ease":
        return models.EASEModel(EASE().l2, recommend_n_threads=args.threads)
    seed_everything(seed, verbose=False)
    return models.SASRecModel(
        **SIZES[size],
        session_max_len=LENGTH,
        deterministic=True,
        get_val_mask_func=_newest,
        get_trainer_func=_trainer,
        get_trainer_func_kwargs={"folder": folder},
    )


def _newest(interactions: Any) -> Any:
    """The newest interaction of the validation users: what RecTools does not train on."""
    newest = ~interactions.duplicated("user_id", keep="last")
    return (newest & (interactions["user_id"] < VALID)).to_numpy()


def _trainer(folder: str) -> Any:
    """The guide's trainer: NDCG@10 of validation users stops it and chooses the weights."""
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint

    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def ndcg(trainer: Any, module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        logits = outputs["logits"].reshape(len(batch["x"]), -1)
        logits = logits.scatter(1, batch["x"], -torch.inf)  # seen items, and item 0, the padding
        places = 1 + (logits > logits.gather(1, batch["y"][:, -1:])).sum(1)
        gains = torch.where(places <= 10, 1 / torch.log2(1 + places), 0.0)
        module.log("ndcg", gains.mean(), on_epoch=True, batch_size=len(gains))

    return Trainer(
        max_epochs=100,
        deterministic=True,
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            LambdaCallback(on_validation_batch_end=ndcg),
            EarlyStopping("ndcg", patience=5, mode="max"),
            ModelCheckpoint(folder, monitor="ndcg", mode="max"),
        ],
    )


def _race(systems: dict[str, System], repeats: int) -> dict[str, Timed]:
    """Times the systems in turn; the slow ones are not fitted again."""
    fits: dict[str, list[float]] = {name: [] for name in systems}
    lists: dict[str, list[float]] = {name: [] for name in systems}
    models: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, system in systems.items():
            if max(fits[name], default=0) < SLOW:
                seconds, models[name] = _seconds(system.fit)
                fits[name].append(seconds)
            seconds, found[name] = _seconds(partial(system.lists, models[name]))
            lists[name].append(seconds)
    return {
        name: Timed(fits[name], lists[name], s.table(found[name]), s.epochs(models[name]))
        for name, s in systems.items()
    }


def _seconds(way: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = way()
    return time.process_time() - started, found


def _quality(data: Data, args: argparse.Namespace) -> dict[str, Timed]:
    """Prints SASRec beside the library's; returns what the first seed gave."""
    known: dict[str, Timed] = {}
    for seed in args.seeds:
        systems = {"genrec": _ours("sasrec", data, seed=seed)}
        for size in args.library:
            systems[f"rectools {size}"] = _theirs("sasrec", data, args, seed=seed, size=size)
        timed = _race(systems, 1)
        known = known or timed
        print(f"\nSASRec on test, seed {seed}: all items ranked, seen items masked, 95 % intervals")
        _compare(timed, data)
    for size in args.library:
        print(f"  rectools {size}: {SIZES[size]}, session_max_len {LENGTH}, else its defaults")
    return known


def _compare(timed: dict[str, Timed], data: Data) -> None:
    """Prints recall@10 and NDCG@10 of each system, and the paired differences to the first."""
    first, *others = timed
    found = evaluate.evaluate(
        {name: one.table for name, one in timed.items()},
        data.test,
        split="test",
        num_items=len(data.texts),
        ks=(10,),
        baselines=others,
    )
    print(f"{'':>26} {'recall@10':>25} {'NDCG@10':>25} {'epochs':>7} {'fit s':>8} {'lists s':>8}")
    for name, one in timed.items():
        rows = [r for r in found["rows"] if r["system"] == name]
        times = f"{one.epochs:>7} {one.fit[0]:>8.1f} {one.lists[0]:>8.2f}"
        print(f"{name:>26} {_interval(rows, 'recall')} {_interval(rows, 'ndcg')} {times}")
    for other in others:
        rows = [r for r in found["differences"] if (r["system"], r["baseline"]) == (first, other)]
        label = f"{first} - {other}"
        print(f"{label:>26} {_interval(rows, 'recall', '+')} {_interval(rows, 'ndcg', '+')}")


def _interval(rows: list[dict[str, Any]], metric: str, sign: str = "") -> str:
    (row,) = (r for r in rows if r["metric"] == metric)
    value, low, high = (f"{row[key]:{sign}.4f}" for key in ("value", "low", "high"))
    return f"{f'{value} [{low}, {high}]':>25}"


def _speed(data: Data, known: dict[str, Timed], args: argparse.Namespace) -> None:
    """Prints seconds per retriever beside the library's; SASRec's are `known` after quality."""
    print(
        f"\nseconds to fit, and to rank the top {K} of {len(data.test)} users; medians of up to "
        f"{args.repeats}; NDCG@10 on test\n{'':>13} {'fit':>8} {'lists':>8} {'NDCG@10':>8} "
        f"{'library fit':>12} {'lists':>8} {'NDCG@10':>8} {'in common':>10}  library / ours"
    )
    seed, size = args.seeds[0], args.library[0]
    for name in args.only:
        timed = known if name == "sasrec" else {}
        if not timed:
            systems = {"genrec": _ours(name, data, seed=seed)}
            if name in THEIRS:
                systems["library"] = _theirs(name, data, args, seed=seed, size=size)
            timed = _race(systems, args.repeats)
        print(_row(name, list(timed.values())[:2], data), flush=True)


def _row(name: str, sides: list[Timed], data: Data) -> str:
    cells: list[str] = []
    taken: list[tuple[float, float]] = []
    for side, width in zip(sides, (8, 12), strict=False):
        found = evaluate.per_user(side.table, data.test, ks=(10,), num_items=len(data.texts))
        fit, lists = statistics.median(side.fit), statistics.median(side.lists)
        taken.append((fit, lists))
        cells.append(f"{fit:>{width}.2f} {lists:>8.2f} {found['ndcg@10'].to_numpy().mean():>8.4f}")
    line = f"{name:>13} {' '.join(cells)}"
    if len(sides) == 1:
        return line
    shared = sides[0].table.join(sides[1].table, on=["user", "item"], how="semi")
    fit, lists = (theirs / ours for ours, theirs in zip(*taken, strict=True))
    common = len(shared) / len(sides[0].table)  # of our lists' places
    return f"{line} {common:>10.3f}  fit {fit:.1f}x, lists {lists:.1f}x ({THEIRS[name]})"


if __name__ == "__main__":
    main()
