"""Requests that come together in one batch: the engine is asked rarely, for many at once.

One worker thread computes; while it does, what arrives waits and makes the next batch. The queue is
bounded: when it is full, a request is refused at once and told when to try again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")
_PATIENCE = 6  # times max_wait that the first request of a batch waits at most


class Overloaded(Exception):
    """The queue is full; `retry_after` says in how many seconds (at least 1) to try again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher takes no more requests."""


class Batcher(Generic[Request, Answer]):
    """Collects requests and hands them to one function in batches. Belongs to one event loop.

    Args:
        handle: B requests to B answers, in order; runs in a worker thread, one batch at a time. An
            exception in an answer's place fails that request alone; one that it raises, all of them.
        max_batch: requests per batch, at most.
        max_wait: seconds; an idle worker begins when nobody has come for so long, or after 6 times
            that. Who gets answers together asks again together: their next requests are one batch.
        max_queue: requests that may wait.
        watch: called with the size and the seconds of each batch.
        worker: the one thread that `handle` runs in, where what it uses was made in that thread;
            `close` ends it.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Request]], Sequence[Answer | Exception]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 256,
        watch: Callable[[int, float], None] = lambda size, seconds: None,
        worker: ThreadPoolExecutor | None = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1 or max_wait < 0:
            raise ValueError(
                f"max_batch={max_batch}, max_queue={max_queue}, max_wait={max_wait}: expected 1 or "
                "more of the first two and 0 or more of the third"
            )
        self._handle, self._watch = handle, watch
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self._waiting: deque[tuple[Request, asyncio.Future[Answer]]] = deque()
        self._wake = asyncio.Event()
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._seconds = 0.05  # of a batch, smoothed
        self.batches = self.answered = 0

    async def ask(self, request: Request, *, timeout: float | None = None) -> Answer:
        """Returns the answer to one request.

        A caller that is cancelled, or whose time is over, leaves the queue; a batch that is already
        being computed goes on without it.

        Raises:
            Overloaded: the queue is full.
            Closed: `close` was called.
            TimeoutError: there is no answer within `timeout` seconds.
        """
        if self._closing:
            raise Closed("the server is shutting down")
        self._forget_the_gone()
        if len(self._waiting) >= self.max_queue:
            raise Overloaded(self.retry_after)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._wake.set()
        return await asyncio.wait_for(future, timeout)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def retry_after(self) -> int:
        """Seconds until what waits now will be done, by the time that batches took; 1 or more."""
        return max(1, round(self._seconds * (1 + len(self._waiting) / self.max_batch)))

    async def close(self) -> None:
        """Takes no more requests, answers those that wait, and ends the worker."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._worker.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await self._company()
            self._forget_the_gone()
            batch = [
                self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))
            ]
            if not self._waiting and not self._closing:
                self._wake.clear()
            if batch:
                begun = time.monotonic()
                waited = [request for request, _ in batch]
                try:
                    answers = await loop.run_in_executor(self._worker, self._handle, waited)
                except Exception as error:  # whatever the engine raises is its askers' to see
                    answers = [error] * len(batch)
                took = time.monotonic() - begun
                self._seconds += 0.2 * (took - self._seconds)
                self._watch(len(batch), took)
                self._deliver(batch, answers)
            elif self._closing:
                return

    async def _company(self) -> None:
        """Waits until nobody comes any more; a lone request waits `max_wait`."""
        for _ in range(_PATIENCE):
            here = len(self._waiting)
            if here >= self.max_batch or self._closing:
                return
            await asyncio.sleep(self.max_wait)
            if len(self._waiting) == here:
                return

    def _deliver(
        self,
        batch: Sequence[tuple[Request, asyncio.Future[Answer]]],
        answers: Sequence[Answer | Exception],
    ) -> None:
        self.batches += 1
        self.answered += len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # its asker has left
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _forget_the_gone(self) -> None:
        if any(future.done() for _, future in self._waiting):
            self._waiting = deque(pair for pair in self._waiting if not pair[1].done())
