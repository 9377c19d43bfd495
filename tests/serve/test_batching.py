"""Dynamic batching: order, limits, back-pressure, time limits, callers that leave."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from genrec.serve.batching import Batcher, Closed, Overloaded


class Engine:
    """Doubles numbers; a batch waits at the gate."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.gate.set()

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.begun.set()
        self.gate.wait(10)
        self.batches.append(list(asked))
        return [ValueError("odd") if n == 13 else 2 * n for n in asked]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def stopped(engine: Engine) -> None:
    """Waits until a batch stands at the gate."""
    while not engine.begun.is_set():
        await asyncio.sleep(0.001)


def test_answers_come_to_who_asked_in_few_batches() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = Batcher(engine, max_batch=8, max_wait=0.05)
        asked = range(20, 40)
        assert await asyncio.gather(*(batcher.ask(n) for n in asked)) == [2 * n for n in asked]
        assert [len(batch) for batch in engine.batches] == [8, 8, 4]
        assert (batcher.batches, batcher.answered, batcher.waiting) == (3, 20, 0)
        await batcher.close()

    run(main())


def test_one_failure_is_one_askers_and_a_raise_is_all() -> None:
    async def main() -> None:
        batcher = Batcher(Engine(), max_wait=0.05)
        found = await asyncio.gather(*(batcher.ask(n) for n in (1, 13, 2)), return_exceptions=True)
        assert [found[0], found[2]] == [2, 4]
        assert isinstance(found[1], ValueError)
        await batcher.close()

        def broken(asked: Sequence[int]) -> list[int]:
            raise RuntimeError("no memory")

        other = Batcher(broken, max_wait=0.05)
        found = await asyncio.gather(other.ask(1), other.ask(2), return_exceptions=True)
        assert all(isinstance(e, RuntimeError) for e in found)
        with pytest.raises(RuntimeError):  # and it goes on
            await other.ask(3)
        await other.close()

    run(main())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def main() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = Batcher(engine, max_batch=2, max_wait=0, max_queue=3)
        first = [asyncio.create_task(batcher.ask(n)) for n in range(1)]
        await stopped(engine)
        waiting = [asyncio.create_task(batcher.ask(n)) for n in range(3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="try again in") as full:
            await batcher.ask(9)
        assert full.value.retry_after >= 1
        engine.gate.set()
        assert await asyncio.gather(*first, *waiting) == [0, 0, 2, 4]
        assert await batcher.ask(9) == 18
        await batcher.close()

    run(main())


def test_who_leaves_or_waits_too_long_is_not_computed() -> None:
    async def main() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = Batcher(engine, max_batch=4, max_wait=0, max_queue=2)
        first = asyncio.create_task(batcher.ask(1))
        await stopped(engine)
        leaver = asyncio.create_task(batcher.ask(2))
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            await batcher.ask(3, timeout=0.05)
        assert time.monotonic() - begun < 5
        leaver.cancel()
        await asyncio.sleep(0)
        late = asyncio.create_task(batcher.ask(4))  # their places in the queue are free again
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert [await first, await late] == [2, 8]
        assert engine.batches == [[1], [4]]
        await batcher.close()

    run(main())


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    async def main() -> None:
        engine = Engine()
        engine.gate.clear()
        batcher = Batcher(engine, max_batch=1, max_wait=0)
        asked = [asyncio.create_task(batcher.ask(n)) for n in range(3)]
        await stopped(engine)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(Closed):
            await batcher.ask(5)
        engine.gate.set()
        await closing
        assert await asyncio.gather(*asked) == [0, 2, 4]

    run(main())


def test_a_batch_waits_while_others_come_and_not_for_long() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = Batcher(engine, max_batch=100, max_wait=0.05)
        asked = []
        for n in range(20):  # one every 20 ms, for longer than anybody's patience
            asked.append(asyncio.create_task(batcher.ask(20 + n)))
            await asyncio.sleep(0.02)
        await asyncio.gather(*asked)
        assert len(engine.batches[0]) > 4
        assert 2 <= len(engine.batches) <= 5
        await batcher.close()

    run(main())


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="max_batch=0"):
        Batcher(Engine(), max_batch=0)
