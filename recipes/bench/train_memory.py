"""Memory of training: a corpus that stays on disk, and a loss that never holds all logits.

    python -m recipes.bench.train_memory corpus [--examples 400000] [--processes 2]
    python -m recipes.bench.train_memory head [--vocabulary 100000] [--targets 2048]

`corpus` writes examples, encodes them and reads 200 batches at random; after each it shows what the
process holds itself and what it has mapped from files, which the kernel takes back when it needs to.
`head` computes a loss and its gradient whole and in blocks, each in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec import schema
from genrec.lm.batch import code_token_ids
from genrec.lm.corpus import encode_file, lengths_of, tasks_of
from genrec.lm.loss import TargetLoss
from genrec.lm.model import build_scratch
from genrec.lm.sampler import Collator, TokenBudgetSampler
from genrec.schema import Example, Segment

MIB = 2**20


def held() -> str:
    """Returns this process's memory: its own, and mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, rest in (n.split(":") for n in lines if "Rss" in n)}
    return f"own {kib['RssAnon'] // 1024} MiB, files {kib['RssFile'] // 1024} MiB"


def histories(count: int) -> Iterator[Example]:
    """Yields streamed histories of 5 to 60 items."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        sids = rng.integers(256, size=(int(rng.integers(5, 61)), 2)).tolist()
        segments = tuple(Segment(sid=(a, b)) for a, b in sids)
        yield Example("history_to_sid", segments[:1], segments[1:])


def corpus(args: Any) -> None:
    """Shows what a corpus costs in memory, from its writing to random reading."""
    _, tokenizer = build_scratch(texts=["a b"], levels=2, codes=256, hidden=8, layers=1, heads=1)
    codes = code_token_ids(tokenizer, [256, 256])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.parquet")
        print("at start:", held())
        schema.write_examples(path, histories(args.examples))
        print(f"{args.examples} examples, {path.stat().st_size / MIB:.0f} MiB, written:", held())
        options = {"max_length": 512, "folder": Path(folder, "tokens"), "processes": args.processes}
        for word in ("encoded", "opened again"):
            started = time.perf_counter()
            data = encode_file(path, tokenizer, codes, **options).data
            print(f"{word} in {time.perf_counter() - started:.1f} s:", held())
        arrow = sum(Path(file["filename"]).stat().st_size for file in data.cache_files)
        print(f"Arrow files: {arrow / MIB:.0f} MiB")
        sampler = TokenBudgetSampler(lengths_of(data), 4096)
        collate = Collator(tokenizer.pad_token_id, tasks_of(data))
        print(f"{len(sampler)} batches planned:", held())
        for number, rows in enumerate(sampler, start=1):
            collate([data[row] for row in rows])
            if number % 50 == 0:
                print(f"{number} batches read:", held())
            if number == 200:
                break


def head(args: Any) -> None:
    """Shows a loss over a large vocabulary, whole and in blocks: peak memory and seconds."""
    spawn = multiprocessing.get_context("spawn")
    for name, bound in (("whole", 2**62), ("blocks of 2^24 logits", 2**24)):
        queue = spawn.Queue()
        worker = spawn.Process(target=one_head, args=(bound, args.vocabulary, args.targets, queue))
        worker.start()
        print(f"{name}: {queue.get()}")
        worker.join()


def one_head(bound: int, vocabulary: int, targets: int, queue: Any) -> None:
    """Measures one bound; in a process of its own, whose peak is then its own too."""
    torch.set_num_threads(1)
    shape = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 64}
    shape |= {"intermediate_size": 256, "num_key_value_heads": 4, "tie_word_embeddings": True}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, **shape))
    ids = torch.randint(vocabulary, (8, targets // 8 + 1), generator=torch.manual_seed(0))
    batch = {"input_ids": ids, "labels": ids, "attention_mask": ids * 0 + 1, "tasks": ids * 0}
    loss = TargetLoss(model, max_logits=bound)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    losses, _ = loss(model, batch)
    losses.sum().backward()
    spent = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    queue.put(f"{peak} MiB more than the model, {spent:.1f} s, mean loss {losses.mean():.5f}")


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=["corpus", "head"])
    parser.add_argument("--examples", type=int, default=400_000)
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--vocabulary", type=int, default=100_000)
    parser.add_argument("--targets", type=int, default=2048)
    args = parser.parse_args()
    {"corpus": corpus, "head": head}[args.part](args)


if __name__ == "__main__":
    main()
