"""What one GPU does in eight minutes: decoding, training, memory against paper, the tests marked `gpu`.

    python -m recipes.bench.gpu                     # at the root of the repository; writes gpu.json
    python -m recipes.bench.gpu --only decode train --minutes 5 --out h200.json
    python -m recipes.bench.gpu --toy               # small, on a CPU: shows that it runs, no numbers

Needs torch, transformers, peft and accelerate alone; no network, no weights, no installation of genrec.
Models have the shape of Qwen3-0.6B and random weights. Every section runs in a process of its own, and
what does not work or finds no time left is a row that says so; the exit status is 1 if anything failed.

decode: exact beam search in bfloat16, 50 beams, prompts of 2,048 tokens, 100,000 items, beside
`generate` with a dict trie. `of_roofline` is the share of the speed at which every forward pass would
take what its products take at the speed of one large product, or what its bytes (weights once, the
cache of keys and values) take at the speed of one large copy, whichever is longer. Both speeds are
measured on the same device.

train: steps as the train stage makes them (bfloat16 autocast, AdamW, clipped gradients) over prompts
with a quarter of their tokens as targets; `plain` is what transformers' Trainer does: rows as they come,
padded, and the model's own loss over all logits. `of_peak` counts the products of `genrec.lm.scale`
alone, against one large product. `paper_gb` is what that module foretells, and of decoding what
`genrec.decode.memory` does, from above, with the weights. Peaks of memory are of CUDA's allocator.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal

import accelerate
import numpy as np
import peft
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import is_flash_attn_2_available

from genrec.decode import BeamEngine
from genrec.decode.memory import user_bytes
from genrec.lm.adapters import adapt
from genrec.lm.batch import IGNORED
from genrec.lm.loss import TargetLoss
from genrec.lm.sampler import Collator, PackingCollator, TokenBudgetSampler, check_packing
from genrec.lm.scale import Estimate, Shape, estimate
from genrec.sid.trie import SIDTrie
from recipes.bench.decode import dict_trie, generate
from recipes.bench.memory import QWEN3

ROOT = Path(__file__).parents[2]
LEVELS, RANK = 4, 32
GRACE = 30  # seconds for the measurement that has begun, before a section is ended
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large everything is; `shape` as in `recipes.bench.memory`."""

    shape: tuple[int, int, int, int, int, int, bool] = QWEN3["0.6B"]
    text: int = 151_936  # tokens that are no codes
    codes: int = 256
    items: int = 100_000
    prompt: int = 2048
    beams: int = 50
    users: tuple[int, ...] = (1, 8, 32, 64)
    beside: int = 2  # users that `generate` gets
    tokens: int = 8192  # of a training step
    longest: int = 512
    batches: int = 4
    product: int = 8192  # rows of the large product
    copy: int = 2**30  # bytes


TOY = Size(
    shape=(32, 2, 4, 2, 8, 64, True),
    text=200,
    codes=16,
    items=300,
    prompt=24,
    beams=4,
    users=(1, 2),
    tokens=256,
    longest=64,
    batches=2,
    product=64,
    copy=2**16,
)


class Bench:
    """A device, its own speeds, and models for it."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        side = torch.randn(size.product, size.product, device=self.device, dtype=torch.bfloat16)
        data = torch.empty(size.copy, device=self.device, dtype=torch.uint8)
        copy = torch.empty_like(data)
        self.operations = 2 * size.product**3 / self.seconds(lambda: side @ side, times=20)
        self.bandwidth = 2 * size.copy / self.seconds(lambda: copy.copy_(data), times=20)

    def speeds(self) -> Row:
        """Returns what the device does at its best, as a row."""
        found = {"tflops": self.operations / 1e12, "gb_per_s": self.bandwidth / 1e9}
        return {"case": "one large product, one large copy", **found}

    def seconds(self, action: Callable[[], Any], *, times: int) -> float:
        """Returns the median seconds of an action, after two that do not count."""
        return median([self.once(action) for _ in range(times + 2)][2:])

    def once(self, action: Callable[[], Any]) -> float:
        """Returns the seconds of an action, to the end of what it asked the device to do."""
        self.wait()
        started = time.perf_counter()
        action()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def memory(self, paper: float | None) -> Row:
        """Returns the highest memory since `clear`, beside that on paper, bytes; none on a CPU."""
        found: Row = {} if paper is None else {"paper_gb": paper / 1e9}
        if self.device.type == "cuda":
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return found

    def clear(self) -> None:
        """Gives back what the last measurement held, and counts memory anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def model(self, dtype: torch.dtype, *, attention: str = "sdpa", spread: float = 0.02) -> Any:
        """Returns a Qwen3 with random weights, of this standard deviation, on the device."""
        hidden, layers, heads, kv_heads, head_dim, intermediate, tied = self.size.shape
        config = Qwen3Config(
            vocab_size=self.size.text + LEVELS * self.size.codes,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            intermediate_size=intermediate,
            tie_word_embeddings=tied,
            max_position_embeddings=40_960,
            initializer_range=spread,
            attn_implementation=attention,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        with self.device:
            return Qwen3ForCausalLM(config).to(dtype)

    def code_tokens(self) -> list[NDArray[np.int64]]:
        """Returns the tokens of each level's codes."""
        first = self.size.text + self.size.codes * np.arange(LEVELS)
        return [start + np.arange(self.size.codes) for start in first]


Cases = Iterator[tuple[str, Callable[[], Row]]]


def decode(bench: Bench) -> Cases:
    """Yields searches of several sizes, and the same by `generate`."""
    size, tokens = bench.size, bench.code_tokens()
    # The default 0.02 gives flat logits, where rounding decides.
    model = bench.model(torch.bfloat16, spread=0.1).eval()
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(size.codes, size=(size.items, LEVELS)), axis=0)
    trie = SIDTrie(codes)
    ids = torch.randint(size.text, (max(size.users), size.prompt), device=bench.device)
    mask = torch.ones_like(ids)

    def search(engine: BeamEngine, users: int) -> Any:
        return engine.search(ids[:users], mask[:users], num_beams=size.beams)

    def ours(users: int, head: Literal["full", "sid"]) -> Row:
        engine = BeamEngine(model, trie, tokens, head=head)
        bench.clear()
        seconds = bench.seconds(lambda: search(engine, users), times=3)
        rows = model.config.vocab_size if head == "full" else size.codes
        shape = Shape.of(model.config)
        each = user_bytes(
            *(model.config, trie),
            tokens=size.prompt,
            width=size.beams,
            token_bytes=cache_bytes(shape),
            dtype=model.dtype,
            expanded=engine.strategy == "expand",
            scores=rows if head == "full" else None,
        )
        return {
            "users_per_s": users / seconds,
            "ms": 1e3 * seconds,
            "of_roofline": roofline(bench, shape, users, rows) / seconds,
            "exact": float(search(engine, users).exact.float().mean()),
            **bench.memory(2 * shape.parameters + users * each),
        }

    def theirs(allowed: dict[tuple[int, ...], list[int]] | None) -> Row:
        users, found = size.beside, {}

        def write() -> None:
            found["ids"] = generate(
                *(model, ids[:users], mask[:users]),
                beams=size.beams,
                levels=LEVELS,
                allowed=allowed,
            ).sequences[:, size.prompt :]

        bench.clear()
        write()
        seconds = bench.once(write)
        sids = search(BeamEngine(model, trie, tokens, head="full"), users).sids.numpy()
        names = np.stack([own[sids[..., level]] for level, own in enumerate(tokens)], axis=-1)
        written = found["ids"].view(names.shape).tolist()
        shared = [
            len(set(map(tuple, a)) & set(map(tuple, b))) / size.beams
            for a, b in zip(written, names.tolist(), strict=True)
        ]
        speed = {"users_per_s": users / seconds, "ms": 1e3 * seconds}
        return {**speed, "shared_with_ours": float(np.mean(shared)), **bench.memory(None)}

    for users in size.users:
        yield f"engine, {users} users", lambda users=users: ours(users, "full")
    named = np.stack([own[codes[:, level]] for level, own in enumerate(tokens)], axis=1)
    yield f"generate, dict trie, {size.beside} users", lambda: theirs(dict_trie(named))
    yield f"generate, no constraint, {size.beside} users", lambda: theirs(None)
    for users in size.users:
        yield f"engine, rows of codes alone, {users} users", lambda users=users: ours(users, "sid")


def cache_bytes(shape: Shape) -> int:
    """Returns the bytes of one token's keys and values in bfloat16."""
    return 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim


def roofline(bench: Bench, shape: Shape, users: int, rows: int) -> float:
    """Returns the seconds of a search whose passes are bound by products or by bytes alone.

    Args:
        bench: the device and its speeds.
        shape: of the model.
        users: in the batch.
        rows: of the output matrix that are computed.
    """
    size, layers = bench.size, shape.layers
    width = shape.heads * shape.head_dim
    weights = 2 * (shape.linear + rows * shape.hidden)
    head = 2 * rows * shape.hidden

    def bound(operations: float, moved: float) -> float:
        return max(operations / bench.operations, moved / bench.bandwidth)

    tokens, cache = size.prompt, cache_bytes(shape)
    own = 2 * shape.linear * tokens + 2 * tokens**2 * width * layers + head  # causal: half of it
    seconds = bound(users * own, weights + users * tokens * cache)
    for step in range(1, LEVELS):
        seen = tokens + step * size.beams
        beam = 2 * shape.linear + 4 * (tokens + step) * width * layers + head
        seconds += bound(users * size.beams * beam, weights + users * seen * cache)
    return seconds


@dataclass(frozen=True)
class Training:
    """One way to train."""

    tune: Literal["full", "lora"] = "full"
    attention: str = "sdpa"
    batches: Literal["padded", "packed", "one row", "plain"] = "padded"
    logits: Literal["targets", "all"] = "targets"
    dtype: torch.dtype = torch.float32
    again: bool = False  # gradient checkpointing

    def __str__(self) -> str:
        """What a row calls it."""
        parts = [self.tune, self.attention, self.batches, f"logits: {self.logits}"]
        parts += ["bfloat16 base"] if self.dtype == torch.bfloat16 else []
        return ", ".join(parts + ["checkpointing"] * self.again)


TRAININGS = [
    *(
        Training(tune, **options)
        for options in (
            {},
            {"batches": "packed"},
            {"attention": "flash_attention_2", "batches": "one row"},
            {"logits": "all"},
            {"batches": "plain", "logits": "all"},
        )
        for tune in ("full", "lora")
    ),
    Training("lora", dtype=torch.bfloat16),
    Training("lora", again=True),
    Training("full", again=True),
    Training("full", "eager"),
    Training("full", batches="one row"),
    Training("full", "flex_attention", "one row"),  # the last: it is compiled first
    Training("lora", "flex_attention", "one row"),
]


def train(bench: Bench) -> Cases:
    """Yields every way to train."""
    for training in TRAININGS:
        yield str(training), lambda training=training: steps(bench, training)


def steps(bench: Bench, training: Training) -> Row:
    """Measures a step: the mean of one pass over some batches, after another that does not count."""
    if training.attention == "flash_attention_2" and not is_flash_attn_2_available():
        return {"skipped": "flash-attn is not installed"}
    if training.attention == "flex_attention" and bench.device.type == "cpu":
        return {"skipped": "flex_attention is for GPUs"}
    batches = make_batches(bench, training)
    bench.clear()
    model = bench.model(training.dtype, attention=training.attention)
    shape, rows = Shape.of(model.config), np.concatenate(bench.code_tokens()).tolist()
    if training.tune == "lora":
        model = adapt(model, rows, rank=RANK, alpha=2 * RANK)
    if training.again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    if "position_ids" in batches[0]:
        with torch.autocast(bench.device.type, torch.bfloat16):
            check_packing(model, vocabulary=bench.size.text)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    targets = TargetLoss(model)

    def loss_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if training.logits == "targets":
            return targets(model, batch)[0].mean()
        wanted = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
        return model(**wanted, use_cache=False).loss

    def step(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = loss_of(batch)
        loss.backward()
        clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    for batch in batches:
        step(batch)
    losses: list[torch.Tensor] = []
    total = bench.once(lambda: losses.extend(step(batch) for batch in batches))
    if not torch.stack(losses).isfinite().all():
        raise FloatingPointError("the loss is not finite")
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    cells = sum(batch["input_ids"].numel() for batch in batches)
    paper = [foretold(shape, training, batch, len(rows)) for batch in batches]
    memory = max(each.memory for each in paper) if training.logits == "targets" else None
    return {
        "tokens_per_s": real / total,
        "padding": 1 - real / cells,
        "step_ms": 1e3 * total / len(batches),
        "of_peak": sum(each.operations for each in paper) / total / bench.operations,
        **bench.memory(memory),
    }


def make_batches(bench: Bench, training: Training) -> list[dict[str, torch.Tensor]]:
    """Returns batches of examples with lengths as histories have them: many short ones, few long."""
    size, rng = bench.size, np.random.default_rng(0)
    count = 8 * size.batches * size.tokens // size.longest
    lengths = rng.lognormal(np.log(size.longest / 4), 0.8, count).astype(int)
    lengths = lengths.clip(8, size.longest)
    examples = []
    for length in lengths.tolist():
        ids = rng.integers(1, size.text, length).tolist()
        prompt = length - length // 4
        examples.append(
            {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:], "task": "any"}
        )
    if training.batches == "plain":  # Trainer: so many examples, in random order
        each = max(1, round(size.tokens / lengths.mean()))
        chosen: Sequence[Sequence[int]] = np.arange(count)[: count // each * each].reshape(-1, each)
    else:
        packing = training.batches != "padded"
        chosen = list(TokenBudgetSampler(lengths, size.tokens, packing=packing))
    collate: Collator | PackingCollator = Collator(0, ["any"])
    if training.batches == "packed":
        collate = PackingCollator(0, ["any"])
    elif training.batches == "one row":
        collate = PackingCollator(0, ["any"], row=None)
    made = [
        collate([examples[index] for index in own]) for own in islice(cycle(chosen), size.batches)
    ]
    return [{name: part.to(bench.device) for name, part in batch.items()} for batch in made]


def foretold(
    shape: Shape, training: Training, batch: Mapping[str, torch.Tensor], new_rows: int
) -> Estimate:
    """Returns what `genrec.lm.scale` says of a batch."""
    return estimate(
        shape,
        tune=training.tune,
        tokens=batch["input_ids"].numel(),
        length=batch["input_ids"].shape[1],
        targets=int((batch["labels"][:, 1:] != IGNORED).sum()),
        rank=RANK,
        new_rows=new_rows,
        base_bytes=training.dtype.itemsize,
        checkpointing=training.again,
        gpu=batch["input_ids"].device.type == "cuda",
    )


def tests(bench: Bench) -> Cases:
    """Yields the tests marked `gpu`, by pytest without the fixtures that need more than it."""
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.gpu" in path.read_text("utf-8")
    ]

    def run() -> Row:
        if bench.device.type == "cpu":
            return {"skipped": "there is no GPU"}
        if find_spec("pytest") is None:
            return {"skipped": "pytest is not installed"}
        command = [sys.executable, "-m", "pytest", "--noconftest", "-m", "gpu", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pytest: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {"result": done.stdout.strip().splitlines()[-1]}

    yield ", ".join(files), run


SECTIONS: dict[str, tuple[Callable[[Bench], Cases], float]] = {  # and its part of the time
    "decode": (decode, 3),
    "train": (train, 5),
    "tests": (tests, 2),
}


def work(name: str, size: Size, until: float, results: Connection) -> None:
    """Sends the rows of one section; a process of its own runs this."""
    try:
        bench = Bench(size)
        results.send(bench.speeds())
        for case, measure in SECTIONS[name][0](bench):
            results.send({"case": case, **timed(measure, until)})
            bench.clear()
    except Exception:
        results.send({"case": "all the rest", "error": traceback.format_exc()[-2000:]})
    finally:
        results.close()


def timed(measure: Callable[[], Row], until: float) -> Row:
    """Returns what was measured and its seconds; or that there was no time, or what went wrong."""
    if time.monotonic() > until:
        return {"skipped": "no time left"}
    started = time.monotonic()
    try:
        found = measure()
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {str(error)[-1500:]}"}
    return {**found, "seconds": time.monotonic() - started}


def run_section(name: str, size: Size, until: float, end: float) -> Row:
    """Runs a section in a process of its own, which is ended where it takes too long."""
    # Where CUDA is, no fork may inherit it; without it a fork need not import everything again.
    context: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    reader, writer = context.Pipe(duplex=False)
    started, rows = time.monotonic(), []
    process = context.Process(target=work, args=(name, size, until, writer))
    process.start()
    writer.close()
    while True:
        if not reader.poll(max(0.0, min(until + GRACE, end) - time.monotonic())):
            process.kill()
            rows.append({"case": "the next one", "error": "took too long and was ended"})
            break
        try:
            rows.append(reader.recv())
        except EOFError:
            break
        print(f"  {line(rows[-1])}", flush=True)
    process.join()
    if process.exitcode and not any("error" in row for row in rows):
        rows.append({"case": "the next one", "error": f"the process ended with {process.exitcode}"})
    return {"seconds": time.monotonic() - started, "rows": rows}


def line(row: Row) -> str:
    """Returns a row as one line."""
    parts = [f"{key} {shown(value)}" for key, value in row.items() if key != "case"]
    return f"{row['case']}: {', '.join(parts)}"


def shown(value: Any) -> str:
    """Returns a value as tables show it: a number to three digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Returns rows as a Markdown table; what failed or was skipped stands in the last column."""
    said = ("skipped", "error", "result")
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in said))
    lines = [[*columns, ""], ["---"] * (len(columns) + 1)]
    for row in rows:
        words = [f"{key}: {row[key]}".strip().splitlines()[-1] for key in said if key in row]
        lines.append([*(shown(row.get(column, "")) for column in columns), "; ".join(words)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine() -> Row:
    """Returns what the numbers are of."""
    found: Row = {p.__name__: p.__version__ for p in (torch, transformers, peft, accelerate)}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gb": properties.total_memory / 1e9}
        found["cuda"] = torch.version.cuda
    return found | {"cores": os.cpu_count()}


def main() -> int:
    """Runs the sections; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", default=[*SECTIONS], choices=[*SECTIONS], help="sections")
    add("--minutes", type=float, default=7.5, help="for all together; what is left then is skipped")
    add("--out", type=Path, default=Path("gpu.json"), help="where all numbers go")
    add("--toy", action="store_true", help="tiny sizes, for a CPU")
    args = parser.parse_args()
    if not args.toy and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --toy runs it small on a CPU")
    end = time.monotonic() + 60 * args.minutes
    report: Row = {"toy": args.toy, "machine": machine(), "sections": {}}
    print(line({"case": "machine", **report["machine"]}))
    for number, name in enumerate(args.only):
        part = SECTIONS[name][1] / sum(SECTIONS[rest][1] for rest in args.only[number:])
        now = time.monotonic()
        print(f"{name}:", flush=True)
        found = run_section(name, TOY if args.toy else Size(), now + part * (end - now), end)
        report["sections"][name] = found
        print(f"{name} took {found['seconds']:.0f} s", flush=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, found in report["sections"].items():
        print(f"\n{name}\n\n{table(found['rows'])}")
    rows = [row for found in report["sections"].values() for row in found["rows"]]
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
