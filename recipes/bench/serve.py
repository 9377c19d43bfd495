"""Requests per second of a real server process on loopback, and how it behaves when too much is asked.

    python -m recipes.bench.serve [speed overload mixed kill] [--recipe recipes/demo.yaml]
        [--store store] [--seconds 10] [--rounds 3] [--clients 32]

`speed` compares one request at a time (one client, a server with max_batch=1) with many concurrent
clients on a batching server: both processes live at once and are asked in turns, so that a busy
machine is busy for both. `overload` gives many clients a server with a short queue. `mixed` sends valid
and invalid requests, and samples the server's memory. `kill` ends the server by SIGKILL under load,
starts it again, and compares every file of the store. The exit status is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from genrec import Pipeline
from recipes.bench.serve_process import Server

Body = dict[str, Any]
Ask = tuple[str, Body | None]  # a path, and what is posted there; None gets it
Draw = Callable[[random.Random], Ask]
LISTS, CHAT = "/v1/recommendations", "/v1/chat/completions"
INVALID: tuple[Ask, ...] = (
    (LISTS, {}),
    (LISTS, {"history": ["nobody-has-this-id"]}),
    (LISTS, {"history": [], "k": 10_000}),
    (LISTS, {"history": [], "filters": {"no-such-attribute": {}}}),
    (LISTS, {"user": "u", "history": []}),
    (LISTS, {"query": "\x00<b>a</b><a_1>" * 400}),
    (LISTS, {"query": "a" * 500_000}),
    (CHAT, {"messages": []}),
    (CHAT, {"messages": [{"role": "user", "content": 7}]}),
    ("/v1/items/nobody-has-this-id", None),
    ("/v1/similar/..%2f..%2fetc%2fpasswd", None),
    ("/nowhere", None),
)
EXPECTED = {200, 404, 413, 422, 429}


def main() -> int:
    """Runs the parts that were asked for; returns the exit status."""
    args = _arguments()
    pipeline = Pipeline.load(args.recipe, *args.overrides)
    shop = Drawn(pipeline)
    parts = {"speed": speed, "overload": overload, "mixed": mixed, "kill": kill}
    kept = [asyncio.run(parts[name](args, shop)) for name in args.parts]
    return 0 if all(kept) else 1


class Drawn:
    """Requests of the recipe's test users."""

    def __init__(self, pipeline: Pipeline) -> None:
        prepared = pipeline["prepare"]
        self.ids = ids = prepared.load("items.parquet")["item_id"].to_list()
        rows = prepared.load("test.parquet")["history"].to_list()
        self.histories = [[ids[item] for item in row] for row in rows]
        self.titles = prepared.load("items.parquet")["title"].to_list()
        self.users = prepared.load("users.parquet")["user_id"].to_list()

    def plain(self, draw: random.Random) -> Ask:
        """A history, and nothing else."""
        return LISTS, {"history": draw.choice(self.histories), "k": 10}

    def valid(self, draw: random.Random) -> Ask:
        """Any kind of request that can be answered."""
        body = {"history": draw.choice(self.histories), "k": 10}
        item, title = draw.randrange(len(self.ids)), draw.choice(self.titles)
        lists: tuple[Body, ...] = (
            {},
            {"k": draw.randint(1, 100)},
            {"filters": {"title": {"contains": draw.choice("aeiou")}}},
            {"keep_seen": True},
            {"query": title},
            {"history": None, "user": draw.choice(self.users)},
            {"history": [], "query": title},
            {"k": 3, "explain": True},
        )
        others: tuple[Ask, ...] = (
            (f"/v1/items/{self.ids[item]}", None),
            (f"/v1/items/{self.ids[item]}/image", None),
            (f"/v1/similar/{self.ids[item]}?k=20", None),
            (CHAT, {"messages": [{"role": "user", "content": title}]}),
            ("/healthz", None),
        )
        return draw.choice([*((LISTS, body | one) for one in lists), *others])

    def mixed(self, draw: random.Random) -> Ask:
        """Three valid ones for each invalid one."""
        return draw.choice(INVALID) if draw.random() < 0.25 else self.valid(draw)


class Load:
    """What concurrent clients saw.

    Attributes:
        statuses: answers by HTTP status; "error" where a connection broke.
        failed: those of 500 and above, by path and text.
        seconds: time of each answer with status 200.
    """

    def __init__(self) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.failed: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.elapsed = 0.0

    async def run(self, url: str, draw: Draw, *, clients: int, seconds: float) -> Load:
        """Keeps `clients` requests under way for so many seconds."""
        begun = time.perf_counter()
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
            await asyncio.gather(
                *(
                    self._client(http, draw, random.Random(n), begun + seconds)
                    for n in range(clients)
                )
            )
        self.elapsed = time.perf_counter() - begun
        return self

    async def _client(
        self, http: httpx.AsyncClient, draw: Draw, rng: random.Random, end: float
    ) -> None:
        while (begun := time.perf_counter()) < end:
            try:
                path, body = draw(rng)
                method = "GET" if body is None else "POST"
                answer = await http.request(method, path, json=body)
            except httpx.TransportError:
                self.statuses["error"] += 1
                await asyncio.sleep(0.05)
                continue
            self.statuses[answer.status_code] += 1
            if answer.status_code >= 500:
                self.failed[f"{path}: {answer.text[:200]}"] += 1
            if answer.status_code == 200:
                self.seconds.append(time.perf_counter() - begun)
            elif answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                await asyncio.sleep(0.02)  # impatient on purpose

    @property
    def per_second(self) -> float:
        """Requests answered with 200, per second."""
        return len(self.seconds) / self.elapsed

    def told(self) -> str:
        """One line."""
        ms = sorted(1000 * one for one in self.seconds) or [float("nan")]
        p50, p99 = ms[len(ms) // 2], ms[min(len(ms) - 1, int(0.99 * len(ms)))]
        counts = ", ".join(
            f"{n} x {status}" for status, n in sorted(self.statuses.items(), key=str)
        )
        return f"{self.per_second:7.1f} requests/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms ({counts})"


async def speed(args: argparse.Namespace, shop: Drawn) -> bool:
    """One at a time against many at once."""
    with Server(args, "--max-batch", "1") as one, Server(args) as many:
        ways = {"one at a time": (one, 1), f"{args.clients} clients": (many, args.clients)}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for server, clients in ways.values():  # nothing is measured cold
            await Load().run(server.url, shop.plain, clients=clients, seconds=2)
        for _ in range(args.rounds):
            for name, (server, clients) in ways.items():
                load = await Load().run(
                    server.url, shop.plain, clients=clients, seconds=args.seconds
                )
                found[name].append(load.per_second)
                print(f"{name:<14} {load.told()}", flush=True)
    slow, fast = (statistics.median(values) for values in found.values())
    ready = max(one.ready, many.ready)
    print(
        f"medians: {slow:.1f} and {fast:.1f} requests/s, {fast / slow:.1f}x; ready in {ready:.1f} s"
    )
    return fast >= 5 * slow


async def overload(args: argparse.Namespace, shop: Drawn) -> bool:
    """A short queue, and eight times as many clients as it holds."""
    with Server(args, "--max-queue", "8", "--max-batch", "4") as server:
        depths: list[float] = []
        sampler = asyncio.create_task(_sample(lambda: server.metric("genrec_queue_depth"), depths))
        load = await Load().run(server.url, shop.plain, clients=64, seconds=args.seconds)
        sampler.cancel()
    print(f"overload: {load.told()}; queue at most {max(depths, default=0):.0f} of 8")
    return set(load.statuses) == {200, 429} and max(depths, default=0) <= 8


async def mixed(args: argparse.Namespace, shop: Drawn) -> bool:
    """Valid and invalid requests; memory is compared between the first and the last fifth."""
    with Server(args) as server:
        # What is kept of prompts fills its place first: every user once, then every kind of request.
        each = iter(shop.histories)
        once: Draw = lambda draw: (LISTS, {"history": next(each, []), "k": 10})  # noqa: E731
        await Load().run(server.url, once, clients=32, seconds=args.seconds / 5)
        await Load().run(server.url, shop.mixed, clients=args.clients, seconds=args.seconds / 5)
        process, memory = psutil.Process(server.pid), []
        kept = [server.metric("genrec_prompt_cache_bytes")]
        sampler = asyncio.create_task(_sample(lambda: process.memory_info().rss / 2**20, memory))
        load = await Load().run(server.url, shop.mixed, clients=args.clients, seconds=args.seconds)
        sampler.cancel()
        kept.append(server.metric("genrec_prompt_cache_bytes"))
    part = max(1, len(memory) // 5)
    first, last = statistics.median(memory[:part]), statistics.median(memory[-part:])
    print(f"mixed: {load.told()}")
    print(f"memory: {first:.0f} MiB, then {last:.0f} MiB; highest {max(memory):.0f}")
    print(f"of it prompts: {kept[0] / 2**20:.0f} MiB, then {kept[1] / 2**20:.0f} MiB")
    for what, count in load.failed.most_common(5):
        print(f"{count} x {what}")
    return set(load.statuses) <= EXPECTED and last < 1.05 * first


async def kill(args: argparse.Namespace, shop: Drawn) -> bool:
    """SIGKILL under load: clients see broken connections, the store stays as it was."""
    store = Path(Pipeline.load(args.recipe, *args.overrides).recipe.runtime.store)
    before = _digests(store)
    with Server(args) as server:
        load = Load()
        running = asyncio.create_task(
            load.run(server.url, shop.plain, clients=args.clients, seconds=args.seconds)
        )
        while load.statuses[200] < args.clients and not running.done():
            await asyncio.sleep(0.1)
        server.signal(signal.SIGKILL)
        await running
    with Server(args) as again:
        after = await Load().run(again.url, shop.plain, clients=args.clients, seconds=5)
    same = before == _digests(store)
    print(f"killed: {load.told()}\nagain:  {after.told()}, ready in {again.ready:.1f} s")
    print(f"the store's {len(before)} files are {'the same' if same else 'NOT THE SAME'}")
    return same and set(load.statuses) == {200, "error"} and set(after.statuses) == {200}


async def _sample(read: Callable[[], float], into: list[float]) -> None:
    while True:
        into.append(await asyncio.to_thread(read))
        await asyncio.sleep(0.25)


def _digests(store: Path) -> dict[str, str]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=["speed"])
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--store")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--threads", type=int, help="of the engine; all cores if not given")
    args = parser.parse_args()
    args.overrides = [f"runtime.store={args.store}"] if args.store else []
    args.overrides += [f"runtime.threads={args.threads}"] if args.threads else []
    return args


if __name__ == "__main__":
    raise SystemExit(main())
