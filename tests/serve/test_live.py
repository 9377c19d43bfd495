"""Another set of artifacts takes over under running requests; a fault is one request's own."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.decode.vllm_server import ServerUnreachable
from genrec.serve.app import create_app
from genrec.serve.batching import Closed
from genrec.serve.live import Live
from genrec.serve.recommend import Ask, Unanswerable, answer
from genrec.serve.settings import Settings
from genrec.serve.similar import Near, neighbours


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


class Opener:
    """Opens versions of a shop one after another; the engine of each waits at its gate."""

    def __init__(self, shop: Bundle) -> None:
        self.shop, self.version, self.fails = shop, "1", False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Bundle:
        if self.fails:
            raise ValueError("half there")
        gate = self.gate

        def prompt(history: Any) -> Any:
            gate.wait(20)
            return self.shop.prompt(history)

        return replace(self.shop, version=self.version, prompt=prompt)


def test_running_requests_end_on_what_they_began_with(shop: Bundle) -> None:
    async def main() -> None:
        opener = Opener(shop)
        live = Live(opener, Settings())
        await live.start()
        opener.gate.clear()

        async def one() -> tuple[str, int]:
            async with live.edition() as edition:
                return edition.shop.version, len(await edition.recommend(Ask((1,), 3)))

        early = [asyncio.create_task(one()) for _ in range(5)]
        await asyncio.sleep(0.05)
        old = opener.gate
        opener.version, opener.gate = "2", threading.Event()
        opener.gate.set()
        assert await live.reload()  # the old engine still stands at its gate
        assert live.shop.version == "2"
        assert await one() == ("2", 3)
        assert not any(task.done() for task in early)
        old.set()
        assert await asyncio.gather(*early) == [("1", 3)] * 5
        await live.close()

    run(main())


def test_the_old_edition_is_closed_when_nobody_uses_it(shop: Bundle) -> None:
    async def main() -> None:
        opener = Opener(shop)
        live = Live(opener, Settings())
        await live.start()
        async with live.edition() as edition:
            opener.version = "2"
            assert await live.reload()
            await asyncio.sleep(0.02)
            assert (
                len(await edition.recommend(Ask((1,), 2))) == 2
            )  # a second question of one request
        await asyncio.sleep(0.02)
        with pytest.raises(Closed):
            await edition.recommend(Ask((1,), 2))
        await live.close()

    run(main())


def test_nothing_new_and_what_cannot_be_opened(shop: Bundle) -> None:
    async def main() -> None:
        opener = Opener(shop)
        live = Live(opener, Settings())
        await live.start()
        assert not await live.reload()
        opener.fails = True
        with pytest.raises(ValueError, match="half there"):
            await live.reload()
        async with live.edition() as edition:
            assert len(await edition.recommend(Ask((1,), 2))) == 2
        await live.close()

    run(main())


def test_kinds_share_a_batch_and_faults_do_not(shop: Bundle) -> None:
    async def main() -> None:
        sizes: list[int] = []
        live = Live(lambda: shop, Settings(max_wait=0.05))
        live.watch = lambda size, seconds: sizes.append(size)
        await live.start()
        async with live.edition() as edition:
            found = await asyncio.gather(
                edition.recommend(Ask((1,), 3)),
                edition.recommend(Ask((1,), 3, system="nonsense")),
                edition.influence([1, 2], [3]),
                edition.similar(4, "text", 2),
                edition.recommend(Ask((2,), 3)),
                return_exceptions=True,
            )
        assert sizes == [5]
        assert isinstance(found[1], Unanswerable)
        for place, history in ((0, (1,)), (4, (2,))):
            (alone,) = answer(shop, [Ask(history, 3)])
            assert [one.item for one in found[place]] == [one.item for one in alone]
        assert found[3] == neighbours(shop, [Near(4, "text", 2)])[0]
        assert list(found[2][0]) == [1, 2]
        await live.close()

    run(main())


def test_a_lost_connection_is_not_tried_again_for_each(shop: Bundle) -> None:
    """Where another server runs the LLM: all are told at once, and it is asked once."""

    class Gone:
        asked = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(shop.llm, name)

        def recommend(self, prompts: Any, **_: Any) -> Any:
            self.asked += 1
            raise ServerUnreachable("http://10.0.0.1:8000/v1: HTTP 500")

    gone: Any = Gone()
    settings = Settings(max_wait=0.05)
    live = Live(lambda: replace(shop, llm=gone), settings)

    async def main() -> None:
        await live.start()
        async with live.edition() as edition:
            asks = [edition.recommend(Ask((n,), 3)) for n in (1, 2, 3)]
            found = await asyncio.gather(*asks, return_exceptions=True)
        assert [type(one) for one in found] == [ServerUnreachable] * 3
        assert gone.asked == 1
        await live.close()

    run(main())
    other = Live(lambda: replace(shop, llm=gone), settings)
    with TestClient(create_app(other, settings)) as client:
        told = client.post("/v1/recommendations", json={"history": [shop.items["item_id"][0]]})
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert "10.0.0.1" not in told.text
