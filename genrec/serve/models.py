"""The model version that is served, with its queue; another can replace it under running requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from genrec.bundle import Bundle
from genrec.recommendations import (
    InfluenceRequest,
    ListRequest,
    Recommended,
    SimilarRequest,
    influence,
    neighbours,
    recommend,
)
from genrec.serve.batching import Batcher
from genrec.serve.settings import Settings

AnyRequest = ListRequest | InfluenceRequest | SimilarRequest


class ModelVersion:
    """One opened bundle and the queue before it. Item numbers mean something within one version only.

    Attributes:
        bundle: the finished recipe.
        timeout: seconds until a request is given up.
        opened: when, seconds since 1970.
        batcher: the queue.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        *,
        worker: ThreadPoolExecutor,
        watch: Callable[[int, float], None],
    ) -> None:
        self.bundle, self.timeout, self.opened = bundle, settings.timeout, int(time.time())
        self.batcher: Batcher[AnyRequest, Any] = Batcher(
            partial(_handle, bundle),
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            max_queue=settings.max_queue,
            watch=watch,
            worker=worker,
        )
        self._users = 0
        self._free = asyncio.Event()
        self._free.set()

    async def recommend(self, request: ListRequest) -> list[Recommended]:
        """Returns one list, computed in one batch with other requests of the moment.

        Raises:
            Overloaded: the queue is full.
            TimeoutError: it took longer than the settings allow.
            Unanswerable: see `recommendations.recommend`.
        """
        return await self.batcher.ask(request, timeout=self.timeout)

    async def influence(
        self,
        history: Sequence[int],
        items: Sequence[int],
        context: Sequence[str | None] = (),
        profile: str | None = None,
    ) -> list[dict[int, float]] | None:
        """As `recommendations.influence`, in the queue; raises as `recommend`."""
        request = InfluenceRequest(tuple(history), tuple(items), tuple(context), profile)
        return await self.batcher.ask(request, timeout=self.timeout)

    async def similar(self, number: int, view: str, k: int) -> list[tuple[int, float]]:
        """As `recommendations.neighbours` for one item, in the queue; raises as `recommend`."""
        return await self.batcher.ask(SimilarRequest(number, view, k), timeout=self.timeout)


class ModelRegistry:
    """Holds the model version that is served now.

    Args:
        open_bundle: opens the recipe's finished artifacts; called again by `reload`.
        settings: of the queue.

    Attributes:
        watch: called with the size and the seconds of each batch.
        warm: given each bundle before it is served, to read what requests would else wait for.
    """

    def __init__(self, open_bundle: Callable[[], Bundle], settings: Settings) -> None:
        self._open, self._settings = open_bundle, settings
        self._served: ModelVersion | None = None
        self._reloading = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self.watch: Callable[[int, float], None] = lambda size, seconds: None
        self.warm: Callable[[Bundle], object] = lambda bundle: None

    @property
    def bundle(self) -> Bundle:
        """What is served now; who looks at it several times takes `current`."""
        return self._now.bundle

    @property
    def waiting(self) -> int:
        """How many requests wait in the queue."""
        return 0 if self._served is None else self._served.batcher.waiting

    @property
    def prompt_bytes(self) -> int:
        """Bytes of prompts that the LLM's engine keeps computed."""
        engine: Any = getattr(self.bundle.llm, "engine", None)
        engines = getattr(engine, "engines", [engine])  # one for each set of SIDs
        return sum(int(e.prompts.num_bytes) for e in engines if hasattr(e, "prompts"))

    @asynccontextmanager
    async def current(self) -> AsyncIterator[ModelVersion]:
        """Keeps the version that is served now open while a request uses it."""
        served = self._now
        served._users += 1
        served._free.clear()
        try:
            yield served
        finally:
            served._users -= 1
            if not served._users:
                served._free.set()

    async def start(self) -> None:
        """Opens the bundle, in a thread of its own; does nothing if it is open."""
        if self._served is None:
            self._served = await self._opened()

    async def reload(self) -> bool:
        """Opens the newest artifacts and serves them from now on; running requests end on the old.

        Returns:
            Whether anything changed. If opening fails, its error is raised and the old version stays.
        """
        async with self._reloading:
            fresh, old = await self._opened(), self._now
            if old.bundle.version == fresh.bundle.version:
                await fresh.batcher.close()
                return False
            self._served = fresh
            ending = asyncio.create_task(_end(old))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            return True

    async def close(self) -> None:
        """Answers what waits, then ends."""
        if self._served is not None:
            await self._served.batcher.close()
        await asyncio.gather(*self._ending)

    @property
    def _now(self) -> ModelVersion:
        assert self._served is not None, "start() comes first"
        return self._served

    def _warmed(self) -> Bundle:
        bundle = self._open()
        self.warm(bundle)
        return bundle

    async def _opened(self) -> ModelVersion:
        """Opens a bundle in the thread that will compute: libraries keep settings by thread."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            bundle = await asyncio.get_running_loop().run_in_executor(worker, self._warmed)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        watch = partial(_call, self)
        return ModelVersion(bundle, self._settings, worker=worker, watch=watch)


def _call(registry: ModelRegistry, size: int, seconds: float) -> None:
    """Looks the watcher up when there is something to tell: it is set after the version is made."""
    registry.watch(size, seconds)


async def _end(served: ModelVersion) -> None:
    """Closes a version when nobody uses it."""
    await served._free.wait()
    await served.batcher.close()


def _handle(bundle: Bundle, requests: Sequence[AnyRequest]) -> list[Any]:
    """One batch: everything of one kind by one call."""
    kinds: dict[type, Callable[[Sequence[Any]], Sequence[Any]]] = {
        ListRequest: partial(recommend, bundle),
        InfluenceRequest: partial(_influences, bundle),
        SimilarRequest: partial(neighbours, bundle),
    }
    answers: list[Any] = [None] * len(requests)
    for kind, handle in kinds.items():
        own = [n for n, request in enumerate(requests) if isinstance(request, kind)]
        for n, answer in zip(own, _each(handle, [requests[n] for n in own]), strict=True):
            answers[n] = answer
    return answers


def _influences(
    bundle: Bundle, requests: Sequence[InfluenceRequest]
) -> list[list[dict[int, float]] | None]:
    return [influence(bundle, *r) for r in requests]


def _each(
    handle: Callable[[Sequence[Any]], Sequence[Any]], requests: Sequence[Any]
) -> Sequence[Any]:
    """All at once; where that fails, each alone, so that a request fails for its own faults only.

    A lost connection is nobody's fault: it is not tried once more for each of them.
    """
    if not requests:
        return []
    try:
        return handle(requests)
    except Exception as error:
        if len(requests) == 1 or isinstance(error, ConnectionError):
            return [error] * len(requests)
        return [_each(handle, [request])[0] for request in requests]
