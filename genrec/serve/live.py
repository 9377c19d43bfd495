"""The shop that is being served, with its queue; another can take its place under running requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from genrec.bundle import Bundle
from genrec.serve.batching import Batcher
from genrec.serve.explain import influence
from genrec.serve.recommend import Ask, Recommended, answer
from genrec.serve.settings import Settings
from genrec.serve.similar import Near, neighbours


class Why(NamedTuple):
    """Asks what each item of the history adds to each of `items`."""

    history: tuple[int, ...]
    items: tuple[int, ...]


class Edition:
    """One opened shop and the queue before it. Item numbers mean something within one edition only.

    Attributes:
        shop: the shop.
        timeout: seconds until a request is given up.
        opened: when, seconds since 1970.
        batcher: the queue.
    """

    def __init__(
        self,
        shop: Bundle,
        settings: Settings,
        *,
        worker: ThreadPoolExecutor,
        watch: Callable[[int, float], None],
    ) -> None:
        self.shop, self.timeout, self.opened = shop, settings.timeout, int(time.time())
        self.batcher: Batcher[Ask | Why | Near, Any] = Batcher(
            partial(_handle, shop),
            max_batch=settings.max_batch,
            max_wait=settings.max_wait,
            max_queue=settings.max_queue,
            watch=watch,
            worker=worker,
        )
        self._users = 0
        self._free = asyncio.Event()
        self._free.set()

    async def recommend(self, ask: Ask) -> list[Recommended]:
        """Returns one list, computed together with whatever else is asked at the moment.

        Raises:
            Overloaded: the queue is full.
            TimeoutError: it took longer than the settings allow.
            Unanswerable: see `answer`.
        """
        return await self.batcher.ask(ask, timeout=self.timeout)

    async def influence(
        self, history: Sequence[int], items: Sequence[int]
    ) -> list[dict[int, float]] | None:
        """As `explain.influence`, in the queue; raises as `recommend`."""
        return await self.batcher.ask(Why(tuple(history), tuple(items)), timeout=self.timeout)

    async def similar(self, number: int, view: str, k: int) -> list[tuple[int, float]]:
        """As `similar.neighbours` for one item, in the queue; raises as `recommend`."""
        return await self.batcher.ask(Near(number, view, k), timeout=self.timeout)


class Live:
    """Holds the edition of the moment.

    Args:
        open_shop: opens the recipe's finished artifacts; called again by `reload`.
        settings: of the queue.

    Attributes:
        watch: told the size and the seconds of each batch.
        warm: given each shop before it is served, to read what requests would else wait for.
    """

    def __init__(self, open_shop: Callable[[], Bundle], settings: Settings) -> None:
        self._open, self._settings = open_shop, settings
        self._edition: Edition | None = None
        self._reloading = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self.watch: Callable[[int, float], None] = lambda size, seconds: None
        self.warm: Callable[[Bundle], object] = lambda shop: None

    @property
    def shop(self) -> Bundle:
        """The shop of the moment; for what needs several looks at it, take `edition`."""
        return self._now.shop

    @property
    def waiting(self) -> int:
        """How many requests wait in the queue."""
        return 0 if self._edition is None else self._edition.batcher.waiting

    @property
    def prompt_bytes(self) -> int:
        """Bytes of prompts that the LLM's engine keeps computed."""
        engine: Any = getattr(self.shop.llm, "engine", None)
        return int(engine.prompts.num_bytes) if hasattr(engine, "prompts") else 0

    @asynccontextmanager
    async def edition(self) -> AsyncIterator[Edition]:
        """Keeps the edition of the moment open while a request uses it."""
        found = self._now
        found._users += 1
        found._free.clear()
        try:
            yield found
        finally:
            found._users -= 1
            if not found._users:
                found._free.set()

    async def start(self) -> None:
        """Opens the shop, in a thread of its own; does nothing if it is open."""
        if self._edition is None:
            self._edition = await self._opened()

    async def reload(self) -> bool:
        """Opens the newest artifacts and serves them from now on; running requests end on the old.

        Returns:
            Whether anything changed. If opening fails, its error is raised and the old shop stays.
        """
        async with self._reloading:
            fresh, old = await self._opened(), self._now
            if old.shop.version == fresh.shop.version:
                await fresh.batcher.close()
                return False
            self._edition = fresh
            ending = asyncio.create_task(_end(old))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            return True

    async def close(self) -> None:
        """Answers what waits, then ends."""
        if self._edition is not None:
            await self._edition.batcher.close()
        await asyncio.gather(*self._ending)

    @property
    def _now(self) -> Edition:
        assert self._edition is not None, "start() comes first"
        return self._edition

    def _warmed(self) -> Bundle:
        shop = self._open()
        self.warm(shop)
        return shop

    async def _opened(self) -> Edition:
        """Opens a shop in the thread that will compute: libraries keep settings by thread."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="engine")
        try:
            shop = await asyncio.get_running_loop().run_in_executor(worker, self._warmed)
        except BaseException:
            worker.shutdown(wait=False)
            raise
        watch = partial(_call, self)
        return Edition(shop, self._settings, worker=worker, watch=watch)


def _call(live: Live, size: int, seconds: float) -> None:
    """Looks the watcher up when there is something to tell: it is set after the edition is made."""
    live.watch(size, seconds)


async def _end(edition: Edition) -> None:
    """Closes an edition when nobody uses it."""
    await edition._free.wait()
    await edition.batcher.close()


def _handle(shop: Bundle, asked: Sequence[Ask | Why | Near]) -> list[Any]:
    """One batch: everything of one kind by one call."""
    kinds: dict[type, Callable[[Sequence[Any]], Sequence[Any]]] = {
        Ask: partial(answer, shop),
        Why: partial(_influences, shop),
        Near: partial(neighbours, shop),
    }
    found: list[Any] = [None] * len(asked)
    for kind, handle in kinds.items():
        own = [n for n, one in enumerate(asked) if isinstance(one, kind)]
        for n, result in zip(own, _each(handle, [asked[n] for n in own]), strict=True):
            found[n] = result
    return found


def _influences(shop: Bundle, asked: Sequence[Why]) -> list[list[dict[int, float]] | None]:
    return [influence(shop, one.history, one.items) for one in asked]


def _each(handle: Callable[[Sequence[Any]], Sequence[Any]], asked: Sequence[Any]) -> Sequence[Any]:
    """All at once; where that fails, each alone, so that a request fails for its own faults only.

    A lost connection is nobody's fault: it is not tried once more for each of them.
    """
    if not asked:
        return []
    try:
        return handle(asked)
    except Exception as error:
        if len(asked) == 1 or isinstance(error, ConnectionError):
            return [error] * len(asked)
        return [_each(handle, [one])[0] for one in asked]
