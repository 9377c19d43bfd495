"""What exact search over several sets of SIDs costs, where the time goes, and how often it is proven.

    python recipes/bench/decode_sets.py RECIPE [overrides] [--beams 25 50 100] [--k 10] [--users 512]

The recipe must have been trained with `quantize.sets`. For each number of beams: users per second of the
mixture and of a search in its first set alone, in turns; the ratio of the two by processor time; the
share of the time that goes into each set's own search, into scoring what the other sets found, and into
the rest; items scored per user; and the share of users whose top k is proven.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import genrec
from genrec.decode import MixtureEngine
from genrec.decode.mixture import _Search
from genrec.stages import read_prompts


def main() -> None:
    """Measures every number of beams."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--beams", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--users", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline = genrec.Pipeline.load(args.recipe, *args.overrides)
    llm = pipeline.bundle().load_llm(device="cpu")
    engine, users = llm.engine, pipeline["prepare"].load("test.parquet").head(args.users)
    if not isinstance(engine, MixtureEngine):
        raise SystemExit(f"{args.recipe}: one set of SIDs; set quantize.sets")
    rows = list(range(len(users)))
    prompts = read_prompts(pipeline["compose"].path, "test", len(llm.sets), rows=rows)
    batches = [slice(start, start + llm.batch_size) for start in rows[:: llm.batch_size]]
    encoded = [llm._encoded(prompts[batch]) for batch in batches]
    seen = [users["history"][batch].to_list() for batch in batches]
    print(f"{len(llm.sets)} sets, {len(rows)} users, top {args.k}, {args.threads} thread(s)")
    print("beams  users/s  one set  ratio  own search  others' items  rest  scored  proven")
    for beams in args.beams:
        k = min(args.k, beams)

        def mixture(beams: int = beams, k: int = k) -> list[tuple[float, float]]:
            found = [
                engine.search(own, num_beams=beams, k=k, exclude=exclude)
                for own, exclude in zip(encoded, seen, strict=True)
            ]
            return [(float(np.mean(out.scored)), float(np.mean(out.exact))) for out in found]

        def alone(beams: int = beams, k: int = k) -> None:
            for own, exclude in zip(encoded, seen, strict=True):
                engine.engines[0].search(*own[0], num_beams=beams, k=k, exclude=exclude)

        alone()
        times = [(_seconds(mixture), _seconds(alone)) for _ in range(args.repeats)]
        both, one = (statistics.median(part) for part in zip(*times, strict=True))
        shares = _shares(mixture)
        scored, proven = np.mean(mixture(), axis=0)
        print(
            f"{beams:>5} {len(rows) / both:>8.1f} {len(rows) / one:>8.1f} {both / one:>6.2f} "
            f"{shares['best']:>11.2f} {shares['scores_of']:>14.2f} "
            f"{1 - sum(shares.values()):>5.2f} {scored:>7.0f} {proven:>7.3f}",
            flush=True,
        )


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _shares(work: Callable[[], object]) -> dict[str, float]:
    """Returns the share of the time in each kind of search of one set."""
    spent = {"best": 0.0, "scores_of": 0.0}
    usual = {name: getattr(_Search, name) for name in spent}

    def timed(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            start = time.process_time()
            try:
                return usual[name](*args, **options)
            finally:
                spent[name] += time.process_time() - start

        return call

    for name in spent:
        setattr(_Search, name, timed(name))
    try:
        whole = _seconds(work)
    finally:
        for name, method in usual.items():
            setattr(_Search, name, method)
    return {name: seconds / whole for name, seconds in spent.items()}


if __name__ == "__main__":
    main()
