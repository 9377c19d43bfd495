"""Peak memory and time of a training step: full, LoRA, DoRA and QLoRA, measured and on paper.

    python -m recipes.bench.memory            # a model of 34 million parameters, 1,024 tokens a step
    python -m recipes.bench.memory --hidden 256 --layers 4 --tokens 2048 --speed 5e10   # foretold
    python -m recipes.bench.memory --table    # `genrec.lm.scale` for Qwen3 on GPUs; runs nothing

Each variant trains in a process of its own by `genrec.lm.train.train` on made-up histories. Its memory
is the most it held (ru_maxrss) less what it held before the model was loaded; its time is the median
step, in seconds of the processor (one thread), which other work on the machine inflates least. On paper:
`genrec.lm.scale.estimate` at `--speed`, by default what the first variant's step reached, so that its
own time on paper is no prediction and the others' are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CODES, LEVELS, LENGTH, WARM = 256, 4, 128, 2
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"tune": "full"},
    "full, adamw_8bit": {"tune": "full"},
    "lora": {"tune": "lora", "rank": 16, "dropout": 0.0},
    "lora, dropout": {"tune": "lora", "rank": 16, "dropout": 0.05},
    "qlora": {"tune": "qlora", "rank": 16, "dropout": 0.0},
    "dora": {"tune": "lora", "rank": 16, "dropout": 0.0, "use_dora": True},
}
# name: hidden, layers, heads, kv_heads, head_dim, intermediate, tied (their config.json on the hub)
QWEN3 = {
    "0.6B": (1024, 28, 16, 8, 128, 3072, True),
    "1.7B": (2048, 28, 16, 8, 128, 6144, True),
    "4B": (2560, 36, 32, 8, 128, 9728, True),
    "8B": (4096, 36, 32, 8, 128, 12288, False),
}
H100 = 0.4 * 989e12  # operations per second: 40 % of NVIDIA's figure for dense bfloat16
NVLINK = 300e9  # bytes per second of one H100's link, of 450e9 one way


def main() -> None:
    args = _arguments()
    if args.table:
        print(table())
        return
    if args.variant:
        print(json.dumps(measure(args.variant, Path(args.base), tokens=args.tokens)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder), hidden=args.hidden, layers=args.layers)
        print(
            "| variant | memory, MB | on paper | error | step, s | on paper | error |\n|"
            + "---|" * 7
        )
        speed = args.speed
        for name in VARIANTS:
            found = _in_a_process(name, folder, args)
            speed = speed or found["operations"] / found["seconds"]
            print(_row(name, found, speed), flush=True)
    share = speed / found["product"]
    print(
        f"\nOn paper at {speed:.3g} operations per second, {share:.0%} of one large matrix product's."
    )


def _in_a_process(name: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "recipes.bench.memory", "--variant", name, "--base", folder]
    command += ["--tokens", str(args.tokens)]
    # glibc keeps what is freed in pieces; so told, it gives it back, and what is held is what is used.
    env = os.environ | ({} if args.heap else {"MALLOC_MMAP_THRESHOLD_": "131072"})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(name: str, found: dict[str, float], speed: float) -> str:
    cells = [name]
    for measured, paper, form in (
        (found["mb"], found["paper_mb"], ".0f"),
        (found["seconds"], found["operations"] / speed, ".2f"),
    ):
        # What DoRA keeps and does beside LoRA is not in the formulas.
        foretold = (
            ["", ""] if name == "dora" else [f"{paper:{form}}", f"{paper / measured - 1:+.0%}"]
        )
        cells += [f"{measured:{form}}", *foretold]
    return f"| {' | '.join(cells)} |"


def make_base(folder: Path, *, hidden: int, layers: int) -> None:
    """Saves a random Qwen3 with 16,000 rows of vocabulary and a tokenizer of a few words."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from genrec.lm.model import _train_tokenizer

    tokenizer = _train_tokenizer(["the next item of this history is a red lamp"] * 9, 300)
    config = Qwen3Config(
        vocab_size=16000,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(name: str, base: Path, *, tokens: int) -> dict[str, float]:
    """Trains one variant for a few steps: memory in MB, seconds of a step, and what stands on paper."""
    import psutil
    import torch

    from genrec.lm.batch import code_token_ids
    from genrec.lm.callbacks import peak_memory
    from genrec.lm.model import load_pretrained
    from genrec.lm.scale import Shape, estimate
    from genrec.lm.train import train

    torch.set_num_threads(1)
    before = psutil.Process().memory_info().rss
    options = VARIANTS[name]
    model, tokenizer = load_pretrained(
        str(base), levels=LEVELS, codes=CODES, device="cpu", **options
    )
    data = histories(code_token_ids(tokenizer, [CODES] * LEVELS), tokens // LENGTH)
    clock: list[float] = []
    optimizer = "adamw_8bit" if name.endswith("8bit") else "adamw_torch_fused"
    with tempfile.TemporaryDirectory() as out:
        train(
            model,
            tokenizer,
            data,
            data.select([0]),
            out=Path(out),
            max_steps=WARM + 3,
            tokens_per_batch=tokens,
            optimizer=optimizer,
            eval_every=1000,
            save_every=1000,
            metric="loss",
            device="cpu",
            progress=lambda *_: clock.append(time.process_time()),
        )
    steps = sorted(b - a for a, b in zip(clock[WARM - 1 :], clock[WARM:], strict=False))
    paper = estimate(
        Shape.of(model.config),
        tune=options["tune"],
        tokens=tokens,
        length=LENGTH,
        targets=tokens - tokens // LENGTH,
        rank=options.get("rank", 16),
        dropout=options.get("dropout", 0.0) > 0,
        new_rows=LEVELS * CODES,
        precision="fp32",
        optimizer_bytes=2 if optimizer == "adamw_8bit" else 8,
        gpu=False,
    )
    return {
        "mb": peak_memory(torch.device("cpu"))["memory_gb"] * 1e3 - before / 1e6,
        "paper_mb": paper.memory / 1e6,
        "seconds": steps[len(steps) // 2],
        "operations": paper.operations,
        "product": product_speed(),
    }


def product_speed(size: int = 1024, times: int = 9) -> float:
    """Returns the operations per second of the median of some large matrix products."""
    import torch

    a, b = torch.randn(size, size), torch.randn(size, size)
    spent = []
    for _ in range(times):
        started = time.process_time()
        torch.mm(a, b)
        spent.append(time.process_time() - started)
    return 2 * size**3 / sorted(spent)[times // 2]


def histories(code_tokens: list[Any], rows: int) -> Any:
    """Returns `rows` random histories of LENGTH tokens, every token a target but the first."""
    import datasets
    import numpy as np

    from genrec.lm.batch import IGNORED
    from genrec.lm.corpus import FEATURES

    rng = np.random.default_rng(0)
    items = rng.integers(0, CODES, size=(rows, LENGTH // LEVELS, LEVELS))
    ids = np.stack([code_tokens[level][items[..., level]] for level in range(LEVELS)], axis=-1)
    ids = ids.reshape(rows, LENGTH)
    columns = {
        "input_ids": ids.tolist(),
        "labels": [[IGNORED, *row[1:]] for row in ids.tolist()],
        "task": ["history_to_sid"] * rows,
        "length": [LENGTH] * rows,
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


def table() -> str:
    """Returns what a step takes of each H100, as Markdown."""
    from genrec.lm.scale import Shape, estimate

    again = {"checkpointing": True}
    plans: list[tuple[str, int, dict[str, Any]]] = [
        ("LoRA, 1 GPU", 1, {"tune": "lora"}),
        ("LoRA over bfloat16, 1 GPU", 1, {"tune": "lora", "base_bytes": 2}),
        ("QLoRA, 1 GPU", 1, {"tune": "qlora"}),
        ("LoRA, 8 GPUs (ddp8)", 8, {"tune": "lora"}),
        ("LoRA, 1 GPU, *", 1, {"tune": "lora", **again}),
        ("LoRA over bfloat16, 1 GPU, *", 1, {"tune": "lora", "base_bytes": 2, **again}),
        ("QLoRA, 1 GPU, *", 1, {"tune": "qlora", **again}),
        ("whole, 1 GPU, *", 1, {"tune": "full", **again}),
        ("whole, 1 GPU, adamw_8bit, *", 1, {"tune": "full", "optimizer_bytes": 2, **again}),
        ("whole, 8 GPUs (zero2), *", 8, {"tune": "full", "sharding": "zero2", **again}),
        ("whole, 8 GPUs (fsdp2, zero3), *", 8, {"tune": "full", "sharding": "zero3", **again}),
    ]
    lines = [
        "| | " + " | ".join(f"Qwen3-{n}" for n in QWEN3) + " |",
        "|---" * (len(QWEN3) + 1) + "|",
    ]
    for label, devices, options in plans:
        cells = []
        for hidden, layers, heads, kv, dim, wide, tied in QWEN3.values():
            shape = Shape(hidden, layers, heads, kv, dim, wide, 151936 + LEVELS * 1024, tied)
            e = estimate(
                shape,
                tokens=8192 * devices,
                length=512,
                targets=2048 * devices,
                devices=devices,
                rank=32,
                new_rows=LEVELS * 1024,
                speed=H100,
                link=NVLINK,
                **options,
            )
            cells.append(f"{e.memory / 1e9:.0f} GB, {e.seconds or 0:.2f} s")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="of a step")
    parser.add_argument("--speed", type=float, help="operations per second, for the time on paper")
    parser.add_argument("--heap", action="store_true", help="leave glibc's allocator as it is")
    parser.add_argument("--table", action="store_true", help="print the table for GPUs")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
