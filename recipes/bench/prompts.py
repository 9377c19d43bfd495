"""What remembering prompts (`search(..., keys=)`) saves when most users return, and memory.

    python recipes/bench/prompts.py [--users 64] [--returning 0.9] [--prompt 256] [--grown 8]
    python recipes/bench/prompts.py --memory [--prompt 512] [--beams 50]

Users come in batches; of each batch a share was here before, with a history shorter by some tokens.
The alternative is the same search without `keys`. With `--memory` the bytes of the cache at its
largest and the peak of the process are compared with `generate`, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, Qwen3Config, Qwen3ForCausalLM

from genrec.decode import BeamEngine
from genrec.sid.trie import SIDTrie

LEVELS, CODES, TEXT = 4, 256, 4096


def main() -> None:
    """Runs one of the two measurements."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.way:
        _one_way(args)
    elif args.memory:
        _memory(args)
    else:
        _returning(args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--users", type=int, default=64, help="how many users there are")
    add("--batch", type=int, default=16)
    add("--returning", type=float, default=0.9, help="share of each batch that was here before")
    add("--prompt", type=int, default=256, help="tokens")
    add("--grown", type=int, default=8, help="new tokens of a user who returns")
    add("--beams", type=int, default=20)
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--memory", action="store_true")
    add("--way", choices=["engine", "generate"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _model() -> tuple[Any, SIDTrie, list[NDArray[np.int64]]]:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=TEXT + LEVELS * CODES,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.1,
    )
    codes = np.unique(np.random.default_rng(0).integers(0, CODES, (100_000, LEVELS)), axis=0)
    tokens = [TEXT + level * CODES + np.arange(CODES) for level in range(LEVELS)]
    return Qwen3ForCausalLM(config).eval(), SIDTrie(codes), tokens


def _returning(args: argparse.Namespace) -> None:
    engine = BeamEngine(*_model(), prompt_budget=8 * 2**30)
    rng = np.random.default_rng(0)
    later = torch.from_numpy(rng.integers(0, TEXT, (args.users, args.prompt)))
    known = round(args.returning * args.users)
    order = torch.from_numpy(rng.permutation(args.users))  # batches mix both
    ratios = []
    print(
        f"{args.users} users in batches of {args.batch}, {known} of them returning with "
        f"{args.grown} new of {args.prompt} tokens; W={args.beams}, {args.threads} threads"
    )
    for _ in range(args.repeats):
        engine.prompts.clear()
        for users in torch.arange(known).split(args.batch):
            _search(engine, later[users, : -args.grown], args, keys=users.tolist())
        engine.prompts.hits = engine.prompts.misses = 0
        taken, found = {}, {}
        for way in ("keys", "cold"):
            started = time.process_time()
            found[way] = [
                _search(engine, later[u], args, keys=u.tolist() if way == "keys" else None)
                for u in order.split(args.batch)
            ]
            taken[way] = time.process_time() - started
        same = all(
            a.items.equal(b.items) for a, b in zip(found["keys"], found["cold"], strict=True)
        )
        apart = max(
            float((a.scores - b.scores).abs().max())
            for a, b in zip(found["keys"], found["cold"], strict=True)
        )
        hits, misses = engine.prompts.hits, engine.prompts.misses
        ratios.append(taken["cold"] / taken["keys"])
        print(
            f"  cold {taken['cold']:.2f}, keys {taken['keys']:.2f} processor seconds: "
            f"{ratios[-1]:.2f}x; {hits / (hits + misses):.0%} of prompt tokens remembered, in "
            f"{engine.prompts.num_bytes / 1e6:.0f} MB; items {'equal' if same else 'DIFFERENT'}, "
            f"scores within {apart:.1e}"
        )
    print(f"median {statistics.median(ratios):.2f}x")


def _search(engine: BeamEngine, ids: torch.Tensor, args: argparse.Namespace, *, keys: Any) -> Any:
    return engine.search(ids, torch.ones_like(ids), num_beams=args.beams, keys=keys)


def _memory(args: argparse.Namespace) -> None:
    print(f"B=8, T={args.prompt}, W={args.beams}, L={LEVELS}, float32")
    for way in ("engine", "generate"):
        command = [sys.executable, __file__, "--way", way, "--prompt", str(args.prompt)]
        command += ["--beams", str(args.beams), "--threads", str(args.threads)]
        print(
            f"  {way:>8}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout}"
        )


def _one_way(args: argparse.Namespace) -> None:
    """Searches once; prints the largest cache and the growth of the process' peak."""
    model, trie, tokens = _model()
    engine = BeamEngine(model, trie, tokens, memory_budget=2**40)
    ids = torch.randint(TEXT, (8, args.prompt))
    held: list[int] = []
    update = Cache.update

    def watched(self: Any, *inputs: Any, **named: Any) -> Any:
        found = update(self, *inputs, **named)
        storages = {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
            for layer in self.layers
            for part in (layer.keys, layer.values)
            if part is not None
        }
        held.append(sum(storages.values()))
        return found

    Cache.update = watched
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if args.way == "engine":
        engine.search(ids, torch.ones_like(ids), num_beams=args.beams)
    else:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=args.beams,
            max_new_tokens=LEVELS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"cache {max(held) / 1e6:.0f} MB, process grew by {peak / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
