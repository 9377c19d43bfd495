"""The constraint alone: building the trie, one step of the beam over it, switching a mask.

    python recipes/bench/trie.py [--catalogue 10000 100000 1000000 10000000] [--users 8] [--beams 20]

A step is what stands between the model's log-probabilities and the next beams; the named
alternative is transformers' `PrefixConstrainedLogitsProcessor` over a dict trie with the top-k that
follows it, on the same scores. A switch of mask counts a new eligible subset; its alternative is
building the trie of that subset.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from genrec.decode.filters import Eligibility
from genrec.decode.step import TrieOnDevice
from genrec.sid.trie import SIDTrie

LEVELS, CODES, TEXT = 4, 256, 4096
VOCABULARY = TEXT + LEVELS * CODES


def main() -> None:
    """Prints one row per catalogue."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {args.device}, {args.threads} threads; B={args.users}, "
        f"W={args.beams}, {LEVELS} levels of {CODES} codes; medians of {args.repeats}"
    )
    print(
        f"{'items':>9} {'build s':>8} {'MB':>7} {'B/node':>7} {'step ms, by level':>30} {'sum':>7} "
        f"{'filtered':>9} {'dict trie':>10} {'ratio':>7} {'mask ms':>8} {'rebuild':>9}"
    )
    for items in args.catalogue:
        print(_row(items, args), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--catalogue", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    add("--users", type=int, default=8)
    add("--beams", type=int, default=20)
    add("--repeats", type=int, default=15)
    add("--dict-up-to", type=int, default=10**6, help="larger dict tries take minutes and many GB")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--device", default="cpu")
    return parser.parse_args()


def _row(items: int, args: argparse.Namespace) -> str:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODES, (items, LEVELS), dtype=np.int32)
    started = time.perf_counter()
    trie = SIDTrie(codes)
    built = time.perf_counter() - started
    held = sum(array.nbytes for array in trie.arrays().values())
    nodes = sum(len(level) for level in trie.node_codes)
    on_device = TrieOnDevice(trie, device=args.device)
    by_level = _steps(on_device, None, args)

    mask = torch.from_numpy(rng.random(items) < 0.5)
    counted = Eligibility.of_mask(trie, mask, device=args.device)
    filtered = sum(_steps(on_device, counted, args))
    switch = _median(lambda: Eligibility.of_mask(trie, mask, device=args.device), args)
    started = time.perf_counter()
    SIDTrie(codes[mask.numpy()])
    rebuild = 1000 * (time.perf_counter() - started)

    listed = " ".join(f"{ms:.2f}" for ms in by_level)
    total, compared = sum(by_level), f"{'-':>10} {'-':>7}"
    if items <= args.dict_up_to:
        theirs = _dict_steps(codes, args)
        compared = f"{theirs:>10.1f} {theirs / total:>6.0f}x"
    return (
        f"{items:>9} {built:>8.2f} {held / 1e6:>7.1f} {(held - 4 * items) / nodes:>7.1f} "
        f"{listed:>30} {total:>7.2f} {filtered:>9.2f} {compared} "
        f"{switch:>8.2f} {rebuild:>9.1f}"
    )


def _scores(args: argparse.Namespace, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(args.users, rows, columns, generator=generator)
    return scores.log_softmax(-1).to(args.device)


def _steps(
    trie: TrieOnDevice, eligible: Eligibility | None, args: argparse.Namespace
) -> list[float]:
    """Returns milliseconds of each level's step."""
    beams, taken = trie.start(args.users), []
    for level in range(LEVELS):
        log_probs = _scores(args, beams.nodes.shape[1], trie.num_codes[level])

        def step(beams: Any = beams, level: int = level, log_probs: Any = log_probs) -> Any:
            return trie.advance(level, beams, log_probs, width=args.beams, eligible=eligible)

        taken.append(_median(step, args))
        beams = step()
    return taken


def _dict_steps(codes: NDArray[np.int32], args: argparse.Namespace) -> float:
    """Returns milliseconds of all levels with a dict trie behind transformers' processor."""
    after: dict[tuple[int, ...], list[int]] = {}
    tokens = codes + TEXT + np.arange(LEVELS) * CODES
    for row in np.unique(tokens, axis=0).tolist():
        for level, token in enumerate(row):
            known = after.setdefault(tuple(row[:level]), [])
            if not known or known[-1] != token:
                known.append(token)
    processor = PrefixConstrainedLogitsProcessor(
        lambda _, ids: after[tuple(ids.tolist())], args.beams
    )
    rng, total = np.random.default_rng(1), 0.0
    for level in range(LEVELS):
        prefixes = tokens[rng.integers(0, len(tokens), args.users * args.beams), :level]
        ids = torch.from_numpy(prefixes).long().to(args.device)
        scores = _scores(args, args.beams, VOCABULARY).flatten(0, 1)

        def step(ids: Any = ids, scores: Any = scores) -> Any:
            masked = processor(ids, scores)
            return masked.view(args.users, -1).topk(2 * args.beams)

        total += _median(step, args)
    return total


def _median(way: Callable[[], Any], args: argparse.Namespace) -> float:
    """Returns milliseconds."""
    taken = []
    for _ in range(args.repeats + 2):
        started = time.perf_counter()
        way()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[2:])  # the first two warm up


if __name__ == "__main__":
    main()
