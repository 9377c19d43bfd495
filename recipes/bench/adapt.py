"""LoRA over a pretrained LLM: tokens/s here, by PEFT and TRL as people run them, and what is possible.

    python -m recipes.bench.adapt recipes/scientific-llm.yaml [runtime.store=...] [--steps 20]

SID histories of a recipe. Every side has the recipe's model with fresh adapters and SID rows and one
thread, and is measured in processor seconds. `ours` trains as the stage does. `trl` is SFTTrainer with
its defaults (bfloat16, activations computed again), `trl-lean` keeps the activations. `products alone`
is what the matrix products of a step (`lm.scale`) need at the speed of one large product of the model's
width. TRL is no dependency: pip install trl.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback

from genrec import Pipeline
from genrec.decode.head import set_softmax
from genrec.lm.batch import code_token_ids
from genrec.lm.corpus import encode_examples, lengths_of
from genrec.lm.model import load_pretrained
from genrec.lm.scale import Shape, estimate
from genrec.lm.train import train
from genrec.schema import read_examples
from genrec.sid import SIDSets

STEPS = 10**6  # the clock stops every side long before


class Stopped(Exception):
    """A side has done its steps."""


class Clock(TrainerCallback):
    """Counts a side's tokens and processor seconds from its third step on."""

    def __init__(self, model: torch.nn.Module, pad: int | None, *, steps: int) -> None:
        self.steps, self.left, self.pad = steps, steps + 2, pad
        self.tokens = self.cells = 0
        self.began = self.spent = 0.0
        model.get_input_embeddings().register_forward_pre_hook(self.see)

    def see(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Looks at one batch of token ids."""
        if self.began and module.training:
            self.tokens += int((inputs[0] != self.pad).sum())
            self.cells += inputs[0].numel()

    def __call__(self, *_: Any, **__: Any) -> None:
        """Is called after every step; for ours it is the `progress`."""
        self.left -= 1
        if self.left == self.steps:
            self.began, self.tokens, self.cells = time.process_time(), 0, 0
        if self.left == 0:
            self.spent = time.process_time() - self.began
            raise Stopped

    on_step_end = __call__


class Bench:
    """The histories of a recipe, and its model untrained, a fresh one for every side."""

    def __init__(self, recipe: str, overrides: list[str]) -> None:
        pipeline = Pipeline.load(recipe, *overrides)
        pipeline.run(to="compose")
        self.recipe, self.store = pipeline.recipe, pipeline.store.root
        self.sids = SIDSets.load(pipeline["quantize"].path)
        examples = read_examples(pipeline["compose"] / "train.parquet")
        self.examples = [e for e in examples if e.task == "history_to_sid"]

    def model(self) -> tuple[Any, Any, datasets.Dataset]:
        """Returns the model, its tokenizer, and the examples as token ids and labels."""
        section = self.recipe.train.model
        fields = ("name", "tune", "rank", "alpha", "dropout", "target")
        model, tokenizer = load_pretrained(
            **{name: getattr(section, name) for name in fields},
            levels=self.sids.levels,
            codes=max(self.sids.codes_per_level),
            store=self.store,
            device="cpu",
        )
        if self.recipe.runtime.attention:
            model.set_attn_implementation(self.recipe.runtime.attention)
        codes = code_token_ids(tokenizer, self.sids.codes_per_level)
        data = encode_examples(tokenizer, codes, self.examples, max_length=512).data
        return model, tokenizer, data


def ours(bench: Bench, clock: Callable[..., Clock], out: Path) -> Clock:
    """Trains as the stage does."""
    model, tokenizer, data = bench.model()
    section = bench.recipe.train
    groups = None
    if section.softmax == "codes":
        set_softmax(model, "codes")
        codes = code_token_ids(tokenizer, bench.sids.codes_per_level)
        groups = [group for one in bench.sids.tokens(codes) for group in one]
    counted = clock(model, tokenizer.pad_token_id)
    with suppress(Stopped):
        train(
            *(model, tokenizer, data, data.select(range(10))),
            out=out,
            max_steps=STEPS,
            tokens_per_batch=section.tokens_per_batch,
            lr=section.lr,
            code_groups=groups,
            eval_every=STEPS,
            save_every=STEPS,
            metric="loss",
            device="cpu",
            precision=bench.recipe.runtime.precision,
            progress=counted,
        )
    return counted


def trl(**options: Any) -> Callable[..., Clock]:
    """Returns what trains by TRL's SFTTrainer with such options."""

    def run(bench: Bench, clock: Callable[..., Clock], out: Path) -> Clock:
        from trl import SFTConfig, SFTTrainer

        model, tokenizer, data = bench.model()
        model.get_output_embeddings().bias = None  # TRL 1.16 asks PEFT's wrapper of the head for it
        counted = clock(model, tokenizer.pad_token_id)
        rows = max(1, round(bench.recipe.train.tokens_per_batch / lengths_of(data).mean()))
        settings = {
            **{"output_dir": str(out), "max_steps": STEPS, "per_device_train_batch_size": rows},
            **{"use_cpu": True, "report_to": "none", "disable_tqdm": True},
            **{"save_strategy": "no", "logging_steps": 500, "max_length": 512},
        }
        with suppress(Stopped):
            SFTTrainer(
                model=model,
                args=SFTConfig(**settings | options),
                train_dataset=data.remove_columns(["task", "length"]),
                processing_class=tokenizer,
                callbacks=[counted],
            ).train()
        return counted

    return run


SIDES = {"ours": ours, "trl": trl(), "trl-lean": trl(gradient_checkpointing=False)}


def limits(bench: Bench, tokens: int) -> dict[str, float]:
    """Returns tokens/s if a step were nothing but its products, each at the speed of a large one.

    Args:
        bench: with the model.
        tokens: of a step.
    """
    model, _, data = bench.model()
    base = model.get_base_model()
    length, section = int(lengths_of(data).mean()), bench.recipe.train
    shape = Shape.of(base.config)
    targets = sum(label >= 0 for row in data.select(range(500))["labels"] for label in row)
    share = targets / int(lengths_of(data)[:500].sum())
    step = estimate(
        *(shape,),
        tune="lora",
        rank=section.model.rank,
        tokens=tokens,
        length=length,
        targets=round(share * tokens),
        gpu=False,
    )
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = (
            torch.rand(tokens, shape.hidden, dtype=dtype),
            torch.rand(shape.hidden, shape.intermediate, dtype=dtype),
        )
        for turn in range(200):
            if turn == 20:
                began = time.process_time()
            rows @ weight
        seconds = (time.process_time() - began) / 180
        speed = 2 * tokens * shape.hidden * shape.intermediate / seconds
        found[str(dtype).removeprefix("torch.")] = tokens * speed / step.operations
    return found


def main() -> None:
    """Measures every side, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="of the recipe, such as runtime.store=...")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[*SIDES], choices=[*SIDES])
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    bench = Bench(args.recipe, args.overrides)
    print("| side | tokens/s | padding | of ours |\n| :-- | --: | --: | --: |", flush=True)
    first = None
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            clock = SIDES[name](
                bench, lambda model, pad: Clock(model, pad, steps=args.steps), Path(folder)
            )
        speed = clock.tokens / clock.spent
        first = first or speed
        padding = 1 - clock.tokens / clock.cells
        print(f"| {name} | {speed:.0f} | {padding:.0%} | {speed / first:.2f} |", flush=True)
    for dtype, speed in limits(bench, bench.recipe.train.tokens_per_batch).items():
        print(f"| products alone, {dtype} | {speed:.0f} | | {speed / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
