"""Another set of artifacts takes over under running requests; a fault is one request's own."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.decode.vllm_server import ServerUnreachable
from genrec.recommendations import (
    ListRequest,
    SimilarRequest,
    Unanswerable,
    neighbours,
    recommend,
)
from genrec.serve.app import create_app
from genrec.serve.batching import Closed
from genrec.serve.models import ModelRegistry
from genrec.serve.settings import Settings


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


class Opener:
    """Opens versions of a bundle one after another; the engine of each waits at its gate."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.version, self.fails = bundle, "1", False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Bundle:
        if self.fails:
            raise ValueError("half there")
        gate = self.gate

        def prompt(history: Any, *said: Any) -> Any:
            gate.wait(20)
            return self.bundle.prompt(history, *said)

        return self.bundle.replace(version=self.version, prompt=prompt)


def test_running_requests_end_on_what_they_began_with(bundle: Bundle) -> None:
    async def main() -> None:
        opener = Opener(bundle)
        registry = ModelRegistry(opener, Settings())
        await registry.start()
        opener.gate.clear()

        async def one() -> tuple[str, int]:
            async with registry.current() as served:
                return served.bundle.version, len(await served.recommend(ListRequest((1,), 3)))

        early = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0.05)
        old = opener.gate
        opener.version, opener.gate = "2", threading.Event()
        opener.gate.set()
        assert await registry.reload()  # the old engine still stands at its gate
        assert registry.bundle.version == "2"
        assert await one() == ("2", 3)
        assert not any(task.done() for task in early)
        old.set()
        assert await asyncio.gather(*early) == [("1", 3)] * 5
        await registry.close()

    run(main())


def test_the_old_version_is_closed_when_nobody_uses_it(bundle: Bundle) -> None:
    async def main() -> None:
        opener = Opener(bundle)
        registry = ModelRegistry(opener, Settings())
        await registry.start()
        async with registry.current() as served:
            opener.version = "2"
            assert await registry.reload()
            await asyncio.sleep(0.02)
            assert (
                len(await served.recommend(ListRequest((1,), 2))) == 2
            )  # a second question of one request
        await asyncio.sleep(0.02)
        with pytest.raises(Closed):
            await served.recommend(ListRequest((1,), 2))
        await registry.close()

    run(main())


def test_nothing_new_and_what_cannot_be_opened(bundle: Bundle) -> None:
    async def main() -> None:
        opener = Opener(bundle)
        registry = ModelRegistry(opener, Settings())
        await registry.start()
        assert not await registry.reload()
        opener.fails = True
        with pytest.raises(ValueError, match="half there"):
            await registry.reload()
        async with registry.current() as served:
            assert len(await served.recommend(ListRequest((1,), 2))) == 2
        await registry.close()

    run(main())


def test_kinds_share_a_batch_and_faults_do_not(bundle: Bundle) -> None:
    async def main() -> None:
        sizes: list[int] = []
        registry = ModelRegistry(lambda: bundle, Settings(max_wait=0.05))
        registry.watch = lambda size, seconds: sizes.append(size)
        await registry.start()
        async with registry.current() as served:
            found = await asyncio.gather(
                served.recommend(ListRequest((1,), 3)),
                served.recommend(ListRequest((1,), 3, system="nonsense")),
                served.influence([1, 2], [3]),
                served.similar(4, "text", 2),
                served.recommend(ListRequest((2,), 3)),
                return_exceptions=True,
            )
        assert sizes == [5]
        assert isinstance(found[1], Unanswerable)
        for place, history in ((0, (1,)), (4, (2,))):
            (alone,) = recommend(bundle, [ListRequest(history, 3)])
            assert [one.item for one in found[place]] == [one.item for one in alone]
        assert found[3] == neighbours(bundle, [SimilarRequest(4, "text", 2)])[0]
        assert list(found[2][0]) == [1, 2]
        await registry.close()

    run(main())


def test_a_lost_connection_is_not_tried_again_for_each(bundle: Bundle) -> None:
    """Where another server runs the LLM: all fail at once, and it is asked once."""

    class Gone:
        asked = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(bundle.llm, name)

        def recommend(self, prompts: Any, **_: Any) -> Any:
            self.asked += 1
            raise ServerUnreachable("http://10.0.0.1:8000/v1: HTTP 500")

    gone: Any = Gone()
    settings = Settings(max_wait=0.05)
    registry = ModelRegistry(lambda: bundle.replace(llm=gone), settings)

    async def main() -> None:
        await registry.start()
        async with registry.current() as served:
            requests = [served.recommend(ListRequest((n,), 3)) for n in (1, 2, 3)]
            found = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(one) for one in found] == [ServerUnreachable] * 3
        assert gone.asked == 1
        await registry.close()

    run(main())
    other = ModelRegistry(lambda: bundle.replace(llm=gone), settings)
    with TestClient(create_app(other, settings)) as client:
        told = client.post("/v1/recommendations", json={"history": [bundle.items["item_id"][0]]})
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert "10.0.0.1" not in told.text
