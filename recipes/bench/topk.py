"""Exact top-20 of many items for many users in bounded memory, beside numpy's argpartition.

    python -m recipes.bench.topk [--users 100000] [--items 100000] [--threads 1] [--minutes 15]

Sets `in_blocks` of `by_scores`, the ranking of all learned retrievers, beside argpartition and a sort
on the same blocks of users, each side in new processes; memory is read from /proc. Seconds are the
processor's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from genrec.ranking import RankedLists
from genrec.retrieve.base import by_scores, in_blocks
from genrec.retrieve.sequences import chunks

K, WIDTH = 20, 64
PILOT = 2000  # users that tell how long all of them take


def main() -> None:
    """Measures a few users, then as many as time allows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--users", type=int, default=100_000)
    add("--items", type=int, default=100_000)
    add("--minutes", type=float, default=15, help="fewer users are ranked if all take longer")
    add("--repeats", type=int, default=3, help="of the few users, in turn")
    add("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, numpy {np.__version__}, {args.threads} threads")
    _topk(args)


def _topk(args: argparse.Namespace) -> None:
    print(f"\nexact top {K} of {args.items} items, float32 vectors of width {WIDTH}")
    pilot = min(PILOT, args.users)
    rate = _both(pilot, args, args.repeats) / pilot
    users = min(args.users, max(pilot, int(60 * args.minutes / rate)))
    print(f"  all {args.users} users would take both sides {rate * args.users / 60:.1f} minutes")
    if users < args.users:
        print(f"  {users} users instead, which take the {args.minutes:g} minutes allowed")
    if users > pilot:
        _both(users, args, 1)


def _both(users: int, args: argparse.Namespace, repeats: int) -> float:
    """Prints both sides' seconds and memory, each time in a new process; returns seconds together."""
    taken: dict[str, list[float]] = {"genrec": [], "numpy": []}
    grown: dict[str, list[float]] = {"genrec": [], "numpy": []}
    last: dict[str, RankedLists] = {}
    for side in list(taken) * repeats:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            task = pool.submit(_side, side, users, args.items, args.threads)
            seconds, megabytes, last[side] = task.result()
        taken[side].append(seconds)
        grown[side].append(megabytes)
    middle = {side: statistics.median(seconds) for side, seconds in taken.items()}
    for side, seconds in middle.items():
        print(
            f"  {users} users, {side:>6}: {seconds:.2f} s ({users / seconds:.0f} users/s), peak "
            f"{statistics.median(grown[side]):.0f} MB above the vectors"
        )
    same = (last["genrec"].items == last["numpy"].items).all(axis=1).mean()
    apart = np.abs(last["genrec"].scores - last["numpy"].scores).max()
    print(
        f"  numpy takes {middle['numpy'] / middle['genrec']:.2f}x as long; {same:.4%} of lists equal "
        f"place by place, scores within {apart:.1e}",
        flush=True,
    )
    return sum(middle.values())


def _side(side: str, users: int, items: int, threads: int) -> tuple[float, float, RankedLists]:
    """Ranks in this process; returns seconds, MB that its peak grew by, and the lists."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((n, WIDTH), dtype=np.float32) for n in (users, items))
    way = {"genrec": _by_genrec, "numpy": _by_numpy}[side]
    with threadpool_limits(threads):
        before = _peak()
        begun = time.process_time()
        found = way(left, right)
        return time.process_time() - begun, _peak() - before, found


def _peak() -> float:
    """MB of this process' own peak; `ru_maxrss` of a new one begins with its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3


def _by_genrec(left: NDArray[np.float32], right: NDArray[np.float32]) -> RankedLists:
    users, items = torch.from_numpy(left), torch.from_numpy(right)
    none = [np.zeros(0, dtype=np.int32)] * len(left)
    rank = by_scores(lambda part, _: users[part] @ items.T, k=K)
    return in_blocks(rank, none, num_items=len(right), k=K, step="top k")


def _by_numpy(left: NDArray[np.float32], right: NDArray[np.float32]) -> RankedLists:
    items = np.empty((len(left), K), dtype=np.int32)
    scores = np.empty((len(left), K), dtype=np.float32)
    for part in chunks(len(left), len(right)):
        block = left[part] @ right.T
        best = np.argpartition(block, -K, axis=1)[:, -K:]
        values = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-values, axis=1)
        items[part] = np.take_along_axis(best, order, axis=1)
        scores[part] = np.take_along_axis(values, order, axis=1)
    return RankedLists(items, scores)


if __name__ == "__main__":
    main()
