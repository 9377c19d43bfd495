"""caption and mine by real vLLM, offline and served: killed, gone on with, grown; as the hf engine.

Needs vLLM: `make test-vllm`. A server and each offline engine start once; one more is killed.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from genrec import Pipeline
from genrec.demo.catalogue import make_products
from genrec.demo.render import save_png
from genrec.demo.shop import draw
from genrec.engines import EngineError, Reply, Request, VLLMEngine, protocol as stage_engine
from genrec.store import RowCache

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM absent; `make test-vllm` runs this"),
]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
OFFLINE = "dtype: float32, options: {enforce_eager: true, max_model_len: 1024}, batch_size: 4"
SIZE, MORE = 12, 8
PRODUCTS = make_products(SIZE + MORE, seed=3002)


class Shop:
    """A catalogue on disk that can grow, and a recipe for each store and engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir()
        self.recipe = folder / "shop.yaml"
        self.recipe.write_text(
            f"prepare:\n  core: 0\n  source:\n    kind: interchange\n"
            f"    interactions: {folder / 'i.json'}\n    items: {folder / 't.json'}\n"
            f"    images: {folder / 'images'}\nruntime: {{device: cpu}}\n"
        )
        self.stock(SIZE)

    def stock(self, count: int) -> None:
        items = {}
        for product in PRODUCTS[:count]:
            items[product.item_id] = {"title": product.title, "description": product.description}
            image = self.folder / "images" / f"{product.item_id}.png"
            if not image.exists():
                save_png(draw(product, size=96, seed=3002), image)
        (self.folder / "t.json").write_text(json.dumps(items))
        (self.folder / "i.json").write_text(json.dumps({f"u{n}": list(items)[:4] for n in "abc"}))

    def arguments(self, store: str, stage: str, engine: str) -> list[str]:
        models = {"caption": "asset:tiny-vlm", "mine": "asset:tiny-lm"}
        named = engine.replace("MODEL", f"'{models[stage]}'")
        return [str(self.recipe), f"runtime.store={self.folder / store}", f"{stage}.engine={named}"]

    def run(self, *arguments: str, stage: str) -> pl.DataFrame:
        pipeline = Pipeline.load(*arguments)
        pipeline.run(to=stage)
        return pipeline[stage].load()

    def rows(self, store: str) -> int:
        cache = RowCache(self.folder / store / "rows.sqlite")
        try:
            return len(cache)
        finally:
            cache.close()

    def killed(self, *arguments: str, stage: str, store: str, at: int) -> int:
        """Starts a stage by the command line, kills it at so many rows, returns how many it left."""
        Pipeline.load(*arguments).run(to="prepare")
        command = [sys.executable, "-m", "genrec", stage, *arguments]
        log = (self.folder / "killed.log").open("w")
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 200
        while self.rows(store) < at:
            said = (self.folder / "killed.log").read_text()
            assert process.poll() is None, f"ended before it was killed: {said[-2000:]}"
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        log.close()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, "what it started lives on, and keeps the GPU's memory"
        return self.rows(store)


class Counted:
    """An engine that counts what it is asked, may stop midway, and outlives a run."""

    def __init__(self, engine: VLLMEngine) -> None:
        self._engine, self.identity = engine, engine.identity
        self.asked, self.stop_after = 0, 10**9

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        self.asked += len(requests)
        for count, found in enumerate(self._engine.generate(requests)):
            if count == self.stop_after:
                raise EngineError("stopped by the test")
            yield found

    def close(self) -> None:
        """The next run needs it too."""


class Gate:
    """Passes requests on to a server and counts them; past `limit` of them it keeps them waiting."""

    def __init__(self, upstream: str) -> None:
        self.passed, self.limit = 0, 10**9
        lock, gate = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    late = gate.passed >= gate.limit
                    gate.passed += not late
                if late:
                    gate.stopped.wait()
                    return
                request = urllib.request.Request(
                    upstream + self.path, body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=120) as answer:
                    content = answer.read()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def open(self) -> None:
        """Drops what waits, and lets every later request pass."""
        self.limit = 10**9
        self.stopped.set()

    def close(self) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, os.environ.get(name, value))
        yield


def offline(model: str) -> Iterator[Counted]:
    engine = VLLMEngine(
        model,
        dtype="float32",
        batch_size=4,
        options={"enforce_eager": True, "max_model_len": 1024},
    )
    yield Counted(engine)
    engine.close()


@pytest.fixture(scope="module")
def captioner(environment: None) -> Iterator[Counted]:
    yield from offline("asset:tiny-vlm")


@pytest.fixture(scope="module")
def miner(environment: None) -> Iterator[Counted]:
    yield from offline("asset:tiny-lm")


@pytest.fixture(scope="module")
def server(
    environment: None, vllm_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """`vllm serve` with the small LM, on loopback, behind a gate. Yields the gate."""
    from genrec.weights import find_asset

    # The module behind `vllm serve`, whose own command vllm-cpu 0.32 breaks by its package name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(find_asset("asset:tiny-lm")), "--served-model-name", "tiny-lm"]
    command += ["--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with vllm_server(command, log) as address:
        gate = Gate(address)
        yield gate
        gate.close()


def by_hf(shop: Shop, stage: str) -> pl.DataFrame:
    return shop.run(
        *shop.arguments("hf", stage, "{kind: hf, model: MODEL, dtype: float32}"), stage=stage
    )


def agreeing(ours: pl.DataFrame, theirs: pl.DataFrame, column: str) -> float:
    pairs = zip(ours[column].to_list(), theirs[column].to_list(), strict=True)
    return sum(a == b for a, b in pairs) / len(ours)


def test_captions_offline_go_on_and_grow(
    shop: Shop, captioner: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_engine, "_build", lambda section, device, store: captioner)
    arguments = shop.arguments("store", "caption", f"{{kind: vllm, model: MODEL, {OFFLINE}}}")
    captioner.stop_after = 6
    with pytest.raises(EngineError, match="stopped by the test"):
        shop.run(*arguments, stage="caption")
    assert shop.rows("store") == 6
    captioner.asked, captioner.stop_after = 0, 10**9
    resumed = shop.run(*arguments, stage="caption")
    assert captioner.asked == SIZE - 6
    other = shop.arguments("whole", "caption", f"{{kind: vllm, model: MODEL, {OFFLINE}}}")
    assert shop.run(*other, stage="caption").equals(resumed)
    shop.stock(SIZE + MORE)
    captioner.asked = 0
    grown = shop.run(*arguments, stage="caption")
    assert captioner.asked == MORE
    assert grown.head(SIZE).equals(resumed)
    monkeypatch.undo()
    assert agreeing(grown, by_hf(shop, "caption"), "caption") >= 0.9


def test_interests_offline_outlive_a_kill(
    shop: Shop, miner: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = shop.arguments("store", "mine", f"{{kind: vllm, model: MODEL, {OFFLINE}}}")
    left = shop.killed(*arguments, stage="mine", store="store", at=4)
    assert 4 <= left < SIZE
    monkeypatch.setattr(stage_engine, "_build", lambda section, device, store: miner)
    resumed = shop.run(*arguments, stage="mine")
    assert miner.asked == SIZE - left
    other = shop.arguments("whole", "mine", f"{{kind: vllm, model: MODEL, {OFFLINE}}}")
    assert shop.run(*other, stage="mine").equals(resumed)
    assert resumed["error"].null_count() >= 0.9 * SIZE
    monkeypatch.undo()
    assert agreeing(resumed, by_hf(shop, "mine"), "interests") >= 0.9


def test_interests_by_a_server_go_on_and_grow(shop: Shop, server: Gate) -> None:
    engine = (
        f"{{kind: openai, base_url: '{server.address}', model: tiny-lm, key: null, concurrency: 2}}"
    )
    arguments = shop.arguments("store", "mine", engine)
    server.limit = 5
    left = shop.killed(*arguments, stage="mine", store="store", at=5)
    assert left == 5
    server.open()
    before = server.passed
    resumed = shop.run(*arguments, stage="mine")
    assert server.passed - before == SIZE - left
    whole = shop.run(*shop.arguments("whole", "mine", engine), stage="mine")
    assert whole.equals(resumed)
    shop.stock(SIZE + MORE)
    before = server.passed
    grown = shop.run(*arguments, stage="mine")
    assert server.passed - before == MORE
    assert grown.head(SIZE).equals(resumed)
    assert agreeing(grown, by_hf(shop, "mine"), "interests") >= 0.9
