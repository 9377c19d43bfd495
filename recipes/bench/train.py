"""Training here beside TRL's SFTTrainer and a plain padded loop: tokens/s, and time to the same quality.

    python -m recipes.bench.train speed [--store store] [--seconds 120] [--only ours trl ...]
    python -m recipes.bench.train history [--seconds 150] [--users 1000]

`speed` trains the small model of recipes/scientific.yaml on its tasks without captions; `history` on SID
histories alone, one pass per user against an example per prefix; both build what they need up to
quantize in the store. Every side has the same start, optimizer, learning rate and tokens per step, and
is stopped after so many processor seconds (one thread), validation left out. Ratios are to what a side
reached in its time: the same validation loss, or recall@10 by exact beam search. TRL is no dependency:
pip install trl. Its `bf16`, on by default, is off, as here; `trl` keeps its other defaults (it
recomputes activations), `trl-lean` recomputes none.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from genrec import Pipeline
from genrec.decode import BeamEngine
from genrec.lm.batch import code_token_ids
from genrec.lm.compose import compose
from genrec.lm.corpus import encode_examples, lengths_of, tasks_of
from genrec.lm.loss import TargetLoss
from genrec.lm.model import build_scratch
from genrec.lm.sampler import Collator, TokenBudgetSampler
from genrec.lm.tasks import Corpus
from genrec.lm.train import train
from genrec.recommender import Recommender
from genrec.schema import Example
from genrec.sid import SIDTrie

RECIPE = "recipes/scientific.yaml"
TOKENS = 800  # per step, as in the recipe
RATE = {"learning_rate": 2e-3, "weight_decay": 0.05, "warmup_steps": 10}
STEPS = 10**6  # the clock stops every side long before
MIX = ("title_to_sid", "sid_to_title", "history_to_title", "titles_to_title", "titles_to_sid")


class Stopped(Exception):
    """The time of a side is over."""


class Point(NamedTuple):
    """Where a side stood: processor seconds of training, steps, what validation measured."""

    seconds: float
    steps: int
    value: float


class Clock(TrainerCallback):
    """Counts processor seconds without validation, validates every so many, and ends the training."""

    def __init__(self, measure: Callable[[], float], *, seconds: float, every: float) -> None:
        self.measure, self.budget, self.every = measure, seconds, every
        self.points: list[Point] = []
        self.steps, self.paused, self.started = 0, 0.0, time.process_time()

    def __call__(self, *_: Any, **__: Any) -> None:
        """Is called after every step; for ours it is the `progress`."""
        self.steps += 1
        spent = time.process_time() - self.started - self.paused
        if spent >= (len(self.points) + 1) * self.every:
            before = time.process_time()
            self.points.append(Point(spent, self.steps, self.measure()))
            self.paused += time.process_time() - before
        if spent >= self.budget:
            raise Stopped

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock: what a trainer prepares does not count."""
        self.started = time.process_time()

    on_step_end = __call__


class Bench:
    """The data of `scientific`, and a fresh copy of the same model for every side.

    Args:
        store: where the pipeline's artifacts are.
        tasks: what is composed.
        args: seconds, users and the like.
    """

    def __init__(self, store: Path, tasks: dict[str, dict[str, Any]], args: Any) -> None:
        pipeline = Pipeline.load(RECIPE, f"runtime.store={store}")
        pipeline.run(to="quantize")
        prepared, self.sids = pipeline["prepare"], pipeline["quantize"].load()
        tables = [prepared.load(f"{name}.parquet") for name in ("items", "train", "valid")]
        self.corpus, self.args = Corpus(tables[0], self.sids, *tables[1:]), args
        self.train, self.valid = compose(self.corpus, tasks, style="compact", seed=0)
        parts = (part for e in self.train for part in (*e.prompt, *e.completion))
        self.texts = [part.text for part in parts if part.text]
        self.tokenizer = self.model()[1]
        self.codes = code_token_ids(self.tokenizer, (self.sids.max(axis=0) + 1).tolist())
        rng = np.random.default_rng(0)
        self.rows = sorted(rng.permutation(len(self.valid))[: args.users].tolist())
        others = [example for example in self.train if example.task != "history_to_sid"]
        self.held = {others[row]: None for row in rng.permutation(len(others))[: args.users]}
        self.train = self.without_held(self.train)

    def expanded(self, tasks: dict[str, dict[str, Any]]) -> list[Example]:
        """Returns the examples of tasks with one per prefix of a history."""
        tasks = tasks | {"history_to_sid": {"expand": "prefix"}}
        return compose(self.corpus, tasks, style="compact", seed=0)[0]

    def without_held(self, examples: Sequence[Example]) -> list[Example]:
        """Returns the examples that validation does not measure."""
        return [example for example in examples if example not in self.held]

    def model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Returns the model of the recipe, untrained."""
        codes = int(self.sids.max()) + 1
        shape: dict[str, Any] = {"levels": self.sids.shape[1], "codes": codes, "hidden": 128}
        return build_scratch(texts=self.texts, **shape, layers=2, heads=4, dropout=0.3)

    def encode(self, examples: Sequence[Example]) -> datasets.Dataset:
        """Returns examples as every side gets them."""
        return encode_examples(self.tokenizer, self.codes, examples, max_length=512).data

    def loss(self, model: PreTrainedModel) -> Callable[[], float]:
        """Returns what measures the loss of validation users' next items and held-out examples."""
        data = self.encode([*(self.valid[row] for row in self.rows), *self.held])
        batches = DataLoader(
            data,
            batch_sampler=TokenBudgetSampler(lengths_of(data), 8192, shuffle=False),
            collate_fn=Collator(self.tokenizer.pad_token_id, tasks_of(data)),
        )

        @torch.no_grad()
        def measure() -> float:
            found, mode = TargetLoss(model), model.training
            model.eval()
            losses = torch.cat([found(model, batch)[0] for batch in batches])
            model.train(mode)
            return float(losses.mean())

        return measure

    def recall(self, model: PreTrainedModel) -> Callable[[], float]:
        """Returns what measures recall@10 of validation users, by exact beam search."""
        trie = SIDTrie(self.sids)
        users = self.corpus.valid[self.rows]
        histories, targets = users["history"].to_list(), users["target"].to_list()
        prompts = [self.valid[row].prompt for row in self.rows]

        def measure() -> float:
            mode = model.training
            model.eval()
            beams, words = BeamEngine(model, trie, self.codes), self.tokenizer
            system = Recommender(beams, words, self.sids, max_length=512, batch_size=128)
            lists = system.recommend(prompts, k=10, num_beams=20, exclude=histories)
            model.train(mode)
            hits = [t in own.tolist() for t, own in zip(targets, lists.items, strict=True)]
            return float(np.mean(hits))

        return measure


def run_ours(clock: Clock, bench: Bench, model: Any, data: datasets.Dataset, out: Path) -> None:
    """Trains as the stage does; validation is the clock's."""
    train(
        *(model, bench.tokenizer, data, bench.encode(bench.valid[:10])),
        lr=RATE["learning_rate"],
        weight_decay=RATE["weight_decay"],
        scheduler="constant_with_warmup",
        warmup=RATE["warmup_steps"],
        out=out,
        max_steps=STEPS,
        tokens_per_batch=TOKENS,
        packing=bench.args.packing,
        eval_every=STEPS,
        save_every=STEPS,
        metric="loss",
        device="cpu",
        progress=clock,
    )


def common(out: Path, data: datasets.Dataset) -> dict[str, Any]:
    """Returns Trainer's arguments that make the other sides do what ours does."""
    return {
        "output_dir": str(out),
        "max_steps": STEPS,
        "per_device_train_batch_size": max(1, round(TOKENS / lengths_of(data).mean())),
        "lr_scheduler_type": "constant_with_warmup",
        **RATE,
        **{"report_to": "none", "disable_tqdm": True, "save_strategy": "no"},
        **{"use_cpu": True, "bf16": False, "logging_steps": 500, "seed": 0},
    }


def run_padded(clock: Clock, bench: Bench, model: Any, data: datasets.Dataset, out: Path) -> None:
    """Trains by transformers' Trainer and its padding collator, with the model's own loss."""
    Trainer(
        model=model,
        args=TrainingArguments(**common(out, data)),
        train_dataset=data.remove_columns(["task", "length"]),
        data_collator=DataCollatorForSeq2Seq(bench.tokenizer),
        callbacks=[clock],
    ).train()


def run_trl(**options: Any) -> Callable[..., None]:
    """Returns what trains by TRL's SFTTrainer with such options."""

    def run(clock: Clock, bench: Bench, model: Any, data: datasets.Dataset, out: Path) -> None:
        from trl import SFTConfig, SFTTrainer

        settings = common(out, data) | {"max_length": 512} | options
        SFTTrainer(
            model=model,
            args=SFTConfig(**settings),
            train_dataset=data.remove_columns(["task", "length"]),
            processing_class=bench.tokenizer,
            callbacks=[clock],
        ).train()

    return run


# A packed row is a step, of as many tokens as the others have in one.
PACKED = {"packing": True, "max_length": TOKENS, "per_device_train_batch_size": 1}
SIDES: dict[str, Callable[..., None]] = {
    "ours": run_ours,
    "padded": run_padded,
    "trl": run_trl(),
    "trl-packing": run_trl(**PACKED),
    "trl-lean": run_trl(gradient_checkpointing=False),
    "trl-lean-packing": run_trl(**PACKED, gradient_checkpointing=False),
}


def run(name: str, bench: Bench, examples: Sequence[Example], kind: str) -> dict[str, Any]:
    """Trains one side and returns its curve and tokens per second."""
    args, (model, _) = bench.args, bench.model()
    budget = args.seconds * (1 if name == "ours" else args.longer)
    data = bench.encode(examples)
    measure = bench.recall(model) if kind == "recall" else bench.loss(model)
    clock = Clock(measure, seconds=budget, every=budget / args.points)
    seen = Seen(model)
    with tempfile.TemporaryDirectory() as folder, suppress(Stopped):
        SIDES[name](clock, bench, model, data, Path(folder))
    spent = clock.points[-1]
    found = {"side": name, "examples": len(data), "steps": spent.steps, "curve": clock.points}
    found["tokens_per_second"] = round(seen.real / spent.seconds)
    found["padding"] = round(1 - seen.real / seen.cells, 3)
    print(json.dumps(found), flush=True)
    return found


class Seen:
    """Counts the tokens that reach a model while it trains, and the cells that carry them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.real = self.cells = 0
        self.pad = model.config.pad_token_id
        model.get_input_embeddings().register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Looks at one batch of token ids."""
        if module.training:
            self.real += int((inputs[0] != self.pad).sum())
            self.cells += inputs[0].numel()


def reached(curve: Sequence[Point], value: float, *, low: bool) -> float | None:
    """Returns the seconds of the first point that is as good as `value`; None where none is."""
    sign = -1 if low else 1
    return next((point.seconds for point in curve if sign * point.value >= sign * value), None)


def compare(results: Sequence[dict[str, Any]], *, low: bool) -> None:
    """Prints every side beside the first: tokens/s, and the time to what that side reached."""
    ours, best = results[0], min if low else max
    print("\n| side | tokens/s | padding | reached | in s | ours in s | ratio | tokens/s of ours |")
    print("| :-- | --: | --: | --: | --: | --: | --: | --: |")
    for one in results:
        value = best(point.value for point in one["curve"])
        own, time_of_ours = (reached(r["curve"], value, low=low) for r in (one, ours))
        ratio = f"{own / time_of_ours:.1f}x" if own and time_of_ours else "never"
        speed = ours["tokens_per_second"] / one["tokens_per_second"]
        cells = [one["side"], one["tokens_per_second"], f"{one['padding']:.0%}", f"{value:.4f}"]
        cells += [f"{own:.0f}", f"{time_of_ours:.0f}" if time_of_ours else "-", ratio]
        print("|", " | ".join(map(str, [*cells, f"{speed:.1f}x"])), "|")


def speed(args: Any) -> None:
    """Prints every side on the tasks without captions; the padded one has an example per prefix."""
    tasks: dict[str, dict[str, Any]] = {"history_to_sid": {}, **{name: {} for name in MIX}}
    bench = Bench(args.store, tasks, args)
    prefix = bench.without_held(bench.expanded(tasks))
    results = [
        run(name, bench, prefix if name == "padded" else bench.train, "loss") for name in args.only
    ]
    compare(results, low=True)


def history(args: Any) -> None:
    """Prints one pass per user here, and an example per prefix in the padded loop and in ours."""
    bench = Bench(args.store, {"history_to_sid": {}}, args)
    prefix = bench.expanded({})
    results = [run("ours", bench, bench.train, "recall")]
    results += [run(name, bench, prefix, "recall") for name in ("padded", "ours")]
    results[2]["side"] = "ours, prefix"
    compare(results, low=False)


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=["speed", "history"])
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--seconds", type=float, default=120, help="of the processor, a side")
    parser.add_argument("--longer", type=float, default=1, help="times that, for the other sides")
    parser.add_argument("--points", type=int, default=10, help="validations of a side")
    parser.add_argument("--users", type=int, default=1000, help="validation users")
    parser.add_argument("--packing", action="store_true", help="ours packs too")
    parser.add_argument("--only", nargs="+", default=[*SIDES], choices=[*SIDES])
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"speed": speed, "history": history}[args.part](args)


if __name__ == "__main__":
    main()
